"""A small workdir with a file of every kind that a report shows."""

import colorsys
import json
from pathlib import Path

import numpy as np

from simple_diffusion.core import images

CLASSES = ["moon", "<b>cat & dog</b>"]
# Each picture has a colour that nothing else on the page has.
PICTURES = (
    "samples.png",
    "samples/grid.png",
    "samples_16x32.png",
    "grids/step_0000100.png",
    "grids/step_0000200.png",
    "grids/step_0000300.png",
    "evaluation/classes/00_moon.png",
    "evaluation/classes/01__b_cat___dog__b_.png",
    "evaluation/neighbours.png",
    "evaluation/comparison/neighbours.png",
    "restored/inpaint/sheet.png",
)
COLOURS = {
    name: tuple(round(255 * v) for v in colorsys.hsv_to_rgb(k / len(PICTURES), 1, 1))
    for k, name in enumerate(PICTURES)
}
CONFIG = {
    "data": {"source": "scenes", "resolution": 32},
    "model": {"name": "uvit", "channels": [8, 16]},
    "diffusion": {"schedule": {"name": "shifted_cosine"}, "prediction": "v"},
    "train": {"total_steps": 300, "batch_size": 4},
    "sample": {"solver": "ddim", "steps": 7, "guidance": 2.5},
}


def picture(name: str) -> np.ndarray:
    """Returns a picture of one colour, with a corner that is black."""
    pixels = np.full((60, 120, 3), COLOURS[name], np.uint8)
    pixels[:6, :6] = 0
    return pixels


def record(step: int, fd: float, n: int = 1000) -> dict:
    """Returns an evaluation."""
    count = f"{n // 1000}k" if n % 1000 == 0 else str(n)
    fd_name, accuracy = f"fd_scenes_{count}", f"accuracy_scenes_{count}"
    return {
        "step": step,
        "weights": "ema",
        "solver": "ddim",
        "network_calls": 7,
        "guidance": 2.5,
        "guidance_interval": [None, 4.0],
        "size": [32, 32],
        "seed": 17,
        "commit": "abc1234",
        "time": "2026-11-21T12:00:00+00:00",
        "labels": "balanced",
        "reference": {"what": "scenes, <train>", "n": n, "hash": "cafe00"},
        "networks": {"scenes": {"digest": "0123456789ab", "resize": "bilinear"}},
        "config": CONFIG | {"diffusion": CONFIG["diffusion"] | {"prediction": "eps"}},
        "metrics": {
            "held_out_loss": 0.1 * fd,
            "held_out_loss[-inf,-3)": 0.01,
            "held_out_loss[-3,inf)": 0.2,
            fd_name: fd,
            accuracy: 0.75,
        },
        "intervals": {accuracy: [0.71, 0.79]},
        "standard_errors": {fd_name: 0.0123},
        "counts": {fd_name: [n, 2 * n], accuracy: [n, None]},
        "notes": ["recall_<b> needs more images"],
    }


def training_line(step: int) -> dict:
    """Returns a line of metrics.jsonl."""
    return {
        "step": step,
        "time": 1_795_000_000.0 + step,
        "loss": 1 / step,
        "grad_norm": 2 / step,
        "learning_rate": 1e-3,
        "images_per_second": 100.0 + step % 3,
        "loss_at_logsnr/..-3": 0.01 / step,
        "loss_at_logsnr/-3..0": 0.1 / step,
        "loss_at_logsnr/0..": 1.0,
    }


def point(guidance: float) -> dict:
    """Returns a point of a sweep."""
    return {
        "guidance": guidance,
        "guidance_low": None,
        "guidance_high": None,
        "steps": 24,
        "network_calls": 25,
        "metrics": {
            "fd_scenes_1k": (guidance - 2) ** 2 + 0.5,
            "precision_scenes_1k": 0.1 * guidance,
            "recall_scenes_1k": 0.9 - 0.1 * guidance,
        },
        "intervals": {},
        "standard_errors": {"fd_scenes_1k": 0.1},
    }


def make(folder: Path) -> Path:
    """Writes the workdir and returns it."""
    restoration = {
        "step": 300,
        "network_calls": 100,
        "restore": {"task": "inpaint", "solver": "ddnm", "degrade": True, "samples": 2},
        "means": {"psnr": 23.456, "ssim": None},
        "failed": {},
        "inputs": {"a": {"psnr": [23.456]}},
    }
    comparison = record(0, 0.9) | {"step": None, "samples": "folder:/a/<b>"}
    written = {
        "config.json": CONFIG,
        "classes.json": CLASSES,
        "metrics.json": record(300, 0.5, n=2000),
        "comparison.json": comparison,
        "sweep/sweep.json": {
            "count": 1000,
            "guidance": 77.0,
            "points": [point(g) for g in (1, 2, 3.0)],
        },
        "restored/inpaint/restorations.json": restoration,
        "checkpoints/300/note/metadata": {
            "arrays": {
                "params": {"a": [[3, 4], "float32", 1], "b": [[5], "float32", 2]}
            }
        },
    }
    lines = {
        "metrics.jsonl": [training_line(step) for step in range(10, 301, 10)],
        "evaluations.jsonl": [record(100, 0.7), record(200, 0.3), record(300, 0.6)],
    }
    for name, value in written.items():
        _write(folder / name, json.dumps(value))
    for name, values in lines.items():
        _write(folder / name, "".join(json.dumps(v) + "\n" for v in values))
    for name in PICTURES:
        images.write_png(folder / name, picture(name))
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
