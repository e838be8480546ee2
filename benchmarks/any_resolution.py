"""Measures the effect of each part of any-resolution training, on scenes.

  python -m benchmarks.any_resolution --workdir runs/ladder --steps 1500

Trains a series of models, each with one more part than the one before, samples each at
five sizes up to 2x, and compares the samples with real scenes of the same size by one
fixed feature function (see `scene_figures`). Training resumes, and existing results are
reused. Prints a table for RESULTS.md and writes a picture of one noise seed at all
sizes.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scene_figures
from simple_diffusion.configs import anyres_scenes, quickstart
from simple_diffusion.core import images
from simple_diffusion.data.scenes import scenes
from simple_diffusion.modes import sample, train

SIZES = ("32x32", "40x40", "48x48", "64x64", "32x64")
FIGURES = ("frechet", "count_error", "size_error", "border_error", "centre_error")


@dataclasses.dataclass(frozen=True)
class Rung:
    """One model of the ladder, or one way to sample it.

    recipe: makes its config.
    trained: the name of the rung whose parameters it uses; its own by default.
    """

    what: str
    recipe: Callable[[], Any]
    trained: str | None = None


def _fixed() -> Any:
    config: Any = quickstart.get_config()
    config.diffusion.shift_by_resolution = False
    return config


def _paper(safa: str) -> Any:
    config: Any = anyres_scenes.get_config("paper")
    config.model.safa = (safa,)
    return config


def _ours_but(**sample_keys: Any) -> Any:
    config: Any = anyres_scenes.get_config("ours")
    config.sample.update(sample_keys)
    return config


RUNGS = {
    "fixed": Rung("fixed 32x32, no patches", _fixed),
    "grid": Rung("patches and grid, no SAFA", lambda: _paper("none")),
    "paper": Rung("+ SAFA in some layers (the paper)", lambda: _paper("first_conv")),
    "all": Rung("+ SAFA everywhere", lambda: _paper("all")),
    "ours": Rung("+ scale, SNR rule, edge padding, RoPE", lambda: _ours_but()),
    "coarse": Rung(
        "+ coarse to fine sampling", lambda: _ours_but(coarse_size="32x32"), "ours"
    ),
}


def config_of(name: str, steps: int, count: int) -> Any:
    """Returns the config of a rung."""
    config = RUNGS[name].recipe()
    config.train.total_steps = steps
    config.train.sample_every_steps = 0
    config.evaluate.count_after_training = 48
    config.sample.also_sizes = ()
    config.sample.count = count
    config.sample.steps = 12
    config.sample.guidance = 1.0  # the law that was learned, not a sharpened one
    return config


def real(size: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns held-out scenes of a size, and their classes."""
    h, w = map(int, size.split("x"))
    described = scenes.describe(0, np.arange(count), split="holdout")
    return scenes.render(described, h, w), described.label


def measure(name: str, folder: Path, steps: int, count: int) -> dict[str, dict]:
    """Samples a rung at all sizes and returns its figures by size."""
    path = folder / f"{name}_{steps}_{count}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    config = config_of(name, steps, count)
    workdir = folder / (RUNGS[name].trained or name)
    for size in SIZES:
        if size in known:
            continue
        config.sample.size = size
        drawn = sample.run(config, str(workdir))
        np.savez(folder / f"{name}_{size}.npz", drawn.images[:48])
        known[size] = scene_figures.measure(
            drawn.images, drawn.labels, *real(size, count), cache=folder
        )
        path.write_text(json.dumps(known, indent=2))
    return known


def table(results: dict[str, dict]) -> str:
    """Returns one table for each figure, rungs by sizes."""
    lines = []
    for figure in FIGURES:
        lines += [f"| {figure} | " + " | ".join(SIZES) + " |"]
        lines += ["|---|" + "---:|" * len(SIZES)]
        for name, sizes in results.items():
            row = " | ".join(f"{sizes[size][figure]:.3f}" for size in SIZES)
            lines += [f"| {RUNGS[name].what} | {row} |"]
        lines += [""]
    return "\n".join(lines)


def picture(folder: Path, name: str, path: Path, columns: int = 12) -> None:
    """Writes the first samples of a rung at every size, one row each."""
    rows = [np.load(folder / f"{name}_{size}.npz")["arr_0"] for size in SIZES]
    side = max(r.shape[2] for r in rows) + 4
    geometry = []
    for row in rows:
        tiles = [_centred(image, side) for image in row[:columns]]
        band = np.concatenate(tiles, axis=1)
        used = (side - row.shape[1]) // 2
        geometry.append(band[max(used - 2, 0) : side - max(used - 2, 0)])
    images.write_png(path, images.enlarge(np.concatenate(geometry), 2))


def _centred(image: np.ndarray, side: int) -> np.ndarray:
    tile = np.full((side, side, 3), 255, np.uint8)
    y, x = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    tile[y : y + image.shape[0], x : x + image.shape[1]] = image
    return tile


def main() -> None:
    """Trains, samples, measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--count", type=int, default=360)
    parser.add_argument("--rungs", nargs="*", default=list(RUNGS), choices=RUNGS)
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    for name in args.rungs:
        if RUNGS[name].trained is None:
            config = config_of(name, args.steps, args.count)
            config.sample.count = 48
            train.run(config, str(args.workdir / name))
    if args.train_only:
        return
    results = {}
    for name in args.rungs:
        results[name] = measure(name, args.workdir, args.steps, args.count)
        picture(args.workdir, name, args.workdir / f"{name}.png")
    print(table(results))


if __name__ == "__main__":
    main()
