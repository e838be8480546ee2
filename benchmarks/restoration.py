"""Measures restorations of held-out images, compared with baselines.

    python -m benchmarks.restoration --workdir runs/quickstart

For each task it compares our sampler with its defaults (DDNM, or DDNM+ if the
measurement is noisy), the simplified sampler as published by its authors, the
pseudo-inverse of the measurement and, where there is one, a classical method. All get
the same images, measurements and random numbers. PSNR and SSIM are those of images
rounded to 8 bits. Consistency is measured before rounding: the root mean square of
A x - y, for images in [-1, 1]. Noise of sigma_y counts twice in it, because of that
range.

PSNR is best for the mean of all images that fit the measurement, which is blurred;
images that vary less come nearer to it. With --samples 2 or more the table therefore
shows the spread: the distance between two restorations of an image over the distance
of one from the original. It is 1 for samples of the true distribution; errors of the
model lower it.

The published blur loses the last tap of its kernel, which makes it another operator, so
that sampler gets measurements of its own there. Its other errors, the inverse of a
masked average and grey weights that differ by 1e-4, do not change the measurement.

A second table changes one setting at a time for two tasks: solver, steps, clipping,
time travel, known class.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import protocol, restoration_runs
from benchmarks.restoration_runs import Baseline, Bench, Setting
from simple_diffusion.core import images
from simple_diffusion.evaluation.metrics import similarity

PUBLISHED = {"restore.solver": "ddnm_simplified", "restore.compat": True}
SAMPLES = 2  # in the picture, of each image
WIDEST = 1000  # of the picture, in pixels


class Task(NamedTuple):
    """What was lost, and what one would do without a model.

    keys: of the section `restore`.
    shown: in the picture.
    """

    keys: dict[str, Any]
    baseline: Baseline | None = None
    shown: bool = False


def tasks(size: tuple[int, int]) -> dict[str, Task]:
    """Returns the tasks by name, for images of a size."""
    hole = "x".join(str(3 * n // 8) for n in size)
    nearest, bicubic = restoration_runs.nearest, restoration_runs.bicubic

    def inpaint(mask: str) -> dict[str, Any]:
        return {"task": "inpaint", "hole_mask": mask}

    def enlarge(how: str, sigma_y: float = 0.0) -> dict[str, Any]:
        keys = {"task": "super_resolution", "factor": 4, "downsampling": how}
        return {**keys, "sigma_y": sigma_y}

    def deblur(kernel: str, sigma_y: float = 0.0) -> dict[str, Any]:
        return {"task": "deblur", "kernel": kernel, "sigma_y": sigma_y}

    def sense(how: str) -> dict[str, Any]:
        return {"task": "sense", "sensing": how, "ratio": 0.25, "block_side": 16}

    old = {"task": "inpaint+super_resolution+colourise", "factor": 2}
    return {
        f"in-painting, {hole} in the middle": Task(
            inpaint(f"box:{hole}"), nearest, shown=True
        ),
        "in-painting, half of the pixels": Task(inpaint("random:0.5"), nearest),
        "4x, averages": Task(enlarge("average"), bicubic, shown=True),
        "4x, bicubic": Task(enlarge("bicubic"), bicubic),
        "colour": Task({"task": "colourise"}, shown=True),
        "blur, uniform": Task(deblur("uniform"), shown=True),
        "blur, Gaussian": Task(deblur("gaussian")),
        "blur, anisotropic": Task(deblur("anisotropic")),
        "sensing 1/4, Hadamard": Task(sense("hadamard"), shown=True),
        "sensing 1/4, group means": Task(sense("group_means")),
        "sensing 1/4, blocks": Task(sense("blocks")),
        "old photo: a fifth missing, 2x, grey": Task(
            {**old, "hole_mask": "random:0.2"}, shown=True
        ),
        "noise .1": Task({"task": "denoise", "sigma_y": 0.1}),
        "4x, averages, noise .05": Task(enlarge("average", 0.05), bicubic),
        "blur, Gaussian, noise .02": Task(deblur("gaussian", 0.02)),
    }


# One thing changed at a time. Heun's method asks the network twice a step.
VARIANTS: dict[str, dict[str, Any]] = {
    "ddnm (default)": {},
    "25 steps": {"restore.steps": 25},
    "50 steps": {"restore.steps": 50},
    "ddnm, fresh=ddim": {"restore.fresh": "ddim"},
    "ancestral": {"restore.solver": "ancestral"},
    "ddim, eta .85": {"restore.solver": "ddim", "restore.eta": 0.85},
    "dpmpp_2m": {"restore.solver": "dpmpp_2m"},
    "heun": {"restore.solver": "heun", "restore.steps": 50},
    "clip=static": {"restore.clip": "static"},
    "travel (10, 3)": {"restore.travel_length": 10, "restore.travel_repeat": 3},
    # Whichever it names: `Setting` tells the true ones.
    "class, guidance 2": {"restore.classes": "0", "sample.guidance": 2.0},
}


def judge(x: np.ndarray, residual: np.ndarray, originals: np.ndarray) -> dict[str, Any]:
    """Returns PSNR, SSIM and consistency of images, as many of each original as are."""
    every = np.repeat(originals, len(x) // len(originals), axis=0)
    rounded = np.asarray(images.to_uint8(x))
    psnr = similarity.psnr(rounded, every)
    return {
        "spread": spread(x, originals),
        "psnr": float(psnr.mean()),
        "ssim": float(similarity.ssim(rounded, every).mean()),
        "consistency": float(np.sqrt(np.square(residual).mean())),
        "psnr_each": [round(float(value), 2) for value in psnr],
    }


def spread(x: np.ndarray, originals: np.ndarray) -> float | None:
    """Returns the distance between restorations over that to the original.

    Args:
      x: restorations in [-1, 1], all of an image one after the other.
      originals: uint8 images.

    Returns:
      Root mean squares of both, their ratio; None if there is one of each image.
    """
    samples = len(x) // len(originals)
    if samples == 1:
        return None
    every = np.clip(x, -1, 1).reshape(len(originals), samples, *x.shape[1:])
    wanted = np.asarray(images.to_unit_range(originals))[:, None]
    # The mean over all pairs of different ones.
    between = 2 * every.var(axis=1, ddof=1).mean()
    return float(np.sqrt(between / np.square(every - wanted).mean()))


def measure(
    bench: Bench, task: Task, samples: int
) -> tuple[dict[str, dict[str, Any]], Setting, np.ndarray]:
    """Returns {method: figures} of a task, our setting and its measurements."""
    keys = {f"restore.{key}": value for key, value in task.keys.items()}
    ours, published = Setting(bench, keys), Setting(bench, keys | PUBLISHED)
    y, originals = ours.measure(), bench.originals
    guess = ours.guess(y)
    found = {"pseudo-inverse": judge(guess, ours.residual(guess, y), originals)}
    if task.baseline is not None:
        plain = task.baseline(y, ours.known)
        found["plain"] = judge(plain, ours.residual(plain, y), originals)
    own = task.keys["task"] == "deblur"
    judged, seen = (published, published.measure()) if own else (ours, y)
    x, seconds = published.restore(seen, samples)
    found["published"] = judge(x, judged.residual(x, seen), originals)
    found["published"] |= {"own_measurement": own, "seconds": seconds}
    x, seconds = ours.restore(y, samples)
    found["ours"] = judge(x, ours.residual(x, y), originals)
    calls = ours.how.network_calls
    found["ours"] |= {"network_calls": calls, "seconds": seconds}
    return found, ours, y


def variants(
    bench: Bench, task: Task, samples: int, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns {variant: figures} of a task."""
    found, y = {}, None
    keys = {f"restore.{key}": value for key, value in task.keys.items()}
    for name in names:
        setting = Setting(bench, keys | VARIANTS[name])
        y = setting.measure() if y is None else y
        x, seconds = setting.restore(y, samples)
        found[name] = judge(x, setting.residual(x, y), bench.originals)
        calls = setting.how.network_calls
        found[name] |= {"network_calls": calls, "seconds": seconds}
        print(f"{name}: {found[name]['psnr']:.2f} dB", file=sys.stderr)
    return found


def scenes(bench: Bench, count: int) -> np.ndarray:
    """Returns numbers of images to show: the first of each class, then the others."""
    _, first = np.unique(bench.labels, return_index=True)
    others = np.setdiff1d(np.arange(len(bench.labels)), first)
    return np.resize(np.concatenate([np.sort(first), others]), count)


def rows_of_picture(
    bench: Bench, setting: Setting, y: np.ndarray, chosen: np.ndarray
) -> list[np.ndarray]:
    """Returns input, restorations and original of each chosen image, [k, h, w, 3].

    Of a measurement that is no image, its pseudo-inverse is the input.
    """
    made = np.asarray(images.to_uint8(setting.restore(y, SAMPLES, chosen)[0]))
    degradation, rows = setting.degradation, []
    shown = y if degradation.is_image else setting.guess(y)
    factor = degradation.factor if degradation.is_image else 1
    for k, number in enumerate(chosen):
        small = np.asarray(images.to_uint8(shown[number]))
        row = [images.enlarge(small, factor), *made[k * SAMPLES : (k + 1) * SAMPLES]]
        row += [bench.originals[number]]
        rows.append(np.stack([np.broadcast_to(x, (*bench.size, 3)) for x in row]))
    return rows


def picture(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Returns a sheet: a row for each task, its images side by side.

    Args:
      rows: of each task, of each image: input, restorations, original.
    """
    columns = []
    for side in zip(*rows, strict=True):
        if columns:
            gap = 2 * side[0].shape[2] // 16
            columns.append(np.full((columns[0].shape[0], gap, 3), 255, np.uint8))
        columns.append(images.make_grid(np.concatenate(side), len(side[0])))
    sheet = np.concatenate(columns, axis=1)
    return images.enlarge(sheet, max(1, min(3, WIDEST // sheet.shape[1])))


def show_tasks(results: dict[str, dict[str, dict[str, Any]]], samples: int) -> None:
    """Prints the first table, as Markdown."""
    methods = ("pseudo-inverse", "plain", "published", "ours")
    heads = ["PSNR / SSIM", *methods, "consistency, published", "ours"]
    heads += ["spread, published", "ours"] if samples > 1 else []
    print(f"| {' | '.join([*heads, 'ms an image, ours'])} |")
    print("|---|" + "---:|" * len(heads))
    for name, found in results.items():
        cells = [_quality(found.get(method)) for method in methods]
        cells[2] += "*" if found["published"]["own_measurement"] else ""
        cells += [f"{found[method]['consistency']:.1e}" for method in methods[2:]]
        if samples > 1:
            cells += [f"{found[method]['spread']:.2f}" for method in methods[2:]]
        cells += [f"{1e3 * found['ours']['seconds']:.0f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    if any(found["published"]["own_measurement"] for found in results.values()):
        print("\n\\* of its own measurements, of less contrast: its blur loses a tap")


def show_variants(results: dict[str, dict[str, dict[str, Any]]], samples: int) -> None:
    """Prints the second table, as Markdown."""
    figures = "PSNR / SSIM / spread" if samples > 1 else "PSNR / SSIM"
    print(f"\n| {figures} | network calls | {' | '.join(results)} | ms an image |")
    print("|---|---:|" + "---:|" * len(results) + "---:|")
    first = next(iter(results.values()))
    for name, found in first.items():
        cells = []
        for by_name in results.values():
            cell, wide = _quality(by_name[name]), by_name[name]["spread"]
            cells.append(cell if wide is None else f"{cell} / {wide:.2f}")
        took = f"{1e3 * found['seconds']:.0f}"
        print(f"| {name} | {found['network_calls']} | {' | '.join(cells)} | {took} |")


def _quality(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['psnr']:.2f} / {found['ssim']:.3f}"


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--workdir", required=True, help="of the training run")
    add("--config", default="configs/quickstart.py", help="what it was trained with")
    add("--count", type=int, default=48, help="held-out images")
    add("--samples", type=int, default=1, help="restorations of each")
    add("--batch", type=int, default=24, help="images restored at a time")
    add("--tasks", nargs="*", type=int, help="numbers, from 0; by default all")
    add("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    add("--figure", help="PNG file for a picture of six tasks")
    add("--backend", default="cpu", choices=("cpu", "gpu", "tpu"))
    add("--threads", type=int, default=2)
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Restores, measures, and prints tables and JSON."""
    args = arguments()
    spec = protocol.Spec("restoration", backend=args.backend, threads=args.threads)
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    protocol.restart_in(protocol.environment(spec), "benchmarks.restoration")
    bench = restoration_runs.bench(args.config, args.workdir, args.count, args.batch)
    every = tasks(bench.size)
    names = list(every)
    chosen = names if args.tasks is None else [names[k] for k in args.tasks]
    drawn = [name for name in chosen if every[name].shown]
    turns = scenes(bench, 2 * len(drawn)).reshape(-1, 2)
    results, rows = {}, []
    for name in chosen:
        print(name, file=sys.stderr)
        results[name], setting, y = measure(bench, every[name], args.samples)
        if args.figure and name in drawn:
            rows.append(rows_of_picture(bench, setting, y, turns[len(rows)]))
    show_tasks(results, args.samples)
    changed, wanted = {}, args.variants
    if not bench.net.num_classes:
        wanted = [name for name in wanted if "restore.classes" not in VARIANTS[name]]
    if wanted:
        for name in (names[0], names[2]):
            changed[name] = variants(bench, every[name], args.samples, wanted)
        show_variants(changed, args.samples)
    if rows:
        images.write_png(args.figure, picture(rows))
    about = {**protocol.about(args), "step": bench.step}
    result = json.dumps({"about": about, "tasks": results, "variants": changed})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
