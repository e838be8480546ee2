"""What fills a hole: whether it has the colours and the contrast of what was there.

    python -m benchmarks.hole_colours --workdir runs/quickstart

A fill that is nearer to the mean of all images that fit has a better PSNR, and is
greyer and smoother than any of them. So this compares settings of in-painting, at equal
network calls, by both: PSNR inside the hole; and the colour, the contrast and the
edges inside the hole, each as a share of those of the originals. For samples of the
true distribution the shares are 1 on average. The row `samples of the classes` shows
what the model itself can do: the same figures of its samples, drawn with the same
number of calls, compared with those of the originals in the same place.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import protocol, recipe, restoration_runs
from benchmarks.restoration_runs import Bench, Setting
from simple_diffusion.build import sampling
from simple_diffusion.core import images
from simple_diffusion.core.types import Weights
from simple_diffusion.restoration import travel

CLASS = {"restore.classes": "0"}  # any: `Setting` replaces it by the true ones
DDIM = {"restore.fresh": "ddim"}
SAMPLES = "samples of the classes"  # the row of the model without a restoration


def settings(calls: int) -> dict[str, dict[str, Any]]:
    """Returns the keys of each setting, all with about as many network calls."""
    guided = {f"class, guidance {g:g}": _guided(g) for g in (1.0, 2.0, 3.0)}
    return {
        "the default (ddnm, eta .85)": {"restore.steps": calls},
        "clip=static": {"restore.clip": "static", "restore.steps": calls},
        "fresh=ddim": DDIM | {"restore.steps": calls},
        "travel 5 x 4": _travel(calls, 5, 4),
        "travel 10 x 4": _travel(calls, 10, 4),
        "fresh=ddim, travel 10 x 4": DDIM | _travel(calls, 10, 4),
        "solver=ancestral": {"restore.solver": "ancestral", "restore.steps": calls},
        **{name: keys | {"restore.steps": calls} for name, keys in guided.items()},
        "class, guidance 2, fresh=ddim": _guided(2.0) | DDIM | {"restore.steps": calls},
        "class, guidance 2, travel 10 x 4": _guided(2.0) | _travel(calls, 10, 4),
        "class, guidance 2, 25 steps": _guided(2.0) | {"restore.steps": 25},
        "25 steps": {"restore.steps": 25},
    }


def _guided(weight: float) -> dict[str, Any]:
    return CLASS | {"sample.guidance": weight}


def _travel(calls: int, length: int, repeat: int) -> dict[str, Any]:
    """Returns time travel with the number of steps that comes nearest to the calls."""
    way = travel.Travel(length, repeat)
    steps = min(
        range(length + 1, calls + 1),
        key=lambda n: abs(travel.network_calls(n, way) - calls),
    )
    return {
        "restore.steps": steps,
        "restore.travel_length": length,
        "restore.travel_repeat": repeat,
    }


def appearance(x: np.ndarray) -> dict[str, float]:
    """Returns colour, contrast and edges of images in [-1, 1], [n, h, w, 3].

    Colour is the distance of the mean colour of an image from grey, contrast the
    standard deviation within it, edges the size of the differences of neighbours.
    """
    mean = x.mean((1, 2))
    colour = np.linalg.norm(mean - mean.mean(1, keepdims=True), axis=1)
    contrast = x.std((1, 2)).mean(1)
    edges = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    edges += np.abs(np.diff(x, axis=2)).mean((1, 2, 3))
    return {
        name: float(values.mean())
        for name, values in (
            ("colour", colour),
            ("contrast", contrast),
            ("edges", edges),
        )
    }


def inside(x: np.ndarray, hole: tuple[int, int]) -> np.ndarray:
    """Returns the part of images that lies in a central hole."""
    top, left = ((n - m) // 2 for n, m in zip(x.shape[1:3], hole, strict=True))
    return x[:, top : top + hole[0], left : left + hole[1]]


def judge(x: np.ndarray, originals: np.ndarray) -> dict[str, float]:
    """Compares fills with the originals, both [n, h, w, 3] in [-1, 1].

    Images are several fills of each original, one after the other.
    """
    repeated = np.repeat(originals, len(x) // len(originals), axis=0)
    error = np.square(x - repeated).mean((1, 2, 3))
    shares = {
        name: value / appearance(originals)[name]
        for name, value in appearance(x).items()
    }
    return {
        "psnr": float((10 * np.log10(4 / np.maximum(error, 1e-10))).mean())
    } | shares


def sample(bench: Bench, calls: int) -> np.ndarray:
    """Returns samples of the classes of the originals, in [-1, 1]."""
    changes = {"sample.solver": "ancestral", "sample.steps": calls}
    config: Any = ConfigDict(
        recipe.changed(bench.recipe, changes | {"sample.guidance": 1.0})
    )
    sampler = sampling.build_sampling(config, bench.net)
    n = len(bench.originals)
    number = np.arange(n, dtype=np.int32)
    x = jax.jit(sampler.draw)(
        Weights(bench.params), np.zeros(n, np.uint32), number, bench.labels
    )
    return np.asarray(images.to_unit_range(x))


def picture(rows: list[np.ndarray]) -> np.ndarray:
    """Returns rows of images in [-1, 1], enlarged."""
    columns = len(rows[0])
    every = np.asarray(images.to_uint8(np.concatenate(rows)))
    return images.enlarge(images.make_grid(every, columns), 3)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="What fills a hole.")
    add = parser.add_argument
    add("--config", default="configs/quickstart.py")
    add("--workdir", required=True)
    add("--count", type=int, default=24, help="held-out images")
    add("--samples", type=int, default=1, help="fills of each")
    add("--calls", type=int, default=100, help="of the network, for each fill")
    add("--hole", default="12x12")
    add("--settings", nargs="*", help="names of some settings; by default all")
    add("--json", type=Path)
    add("--picture", type=Path, help="originals, and a row of each setting")
    args = parser.parse_args()

    hole = tuple(int(n) for n in args.hole.split("x"))
    bench = restoration_runs.bench(
        args.config, args.workdir, args.count, args.count * args.samples
    )
    originals = np.asarray(images.to_unit_range(bench.originals))
    task = {"restore.task": "inpaint", "restore.hole_mask": f"box:{args.hole}"}
    every = settings(args.calls)
    results, rows = {}, [originals]
    results[SAMPLES] = {"calls": args.calls} | judge(
        inside(sample(bench, args.calls), hole), inside(originals, hole)
    )
    for name in args.settings or every:
        setting = Setting(bench, task | every[name])
        x, _ = setting.restore(setting.measure(), args.samples)
        found = judge(inside(x, hole), inside(originals, hole))
        results[name] = {"calls": setting.how.network_calls} | found
        rows.append(x[:: args.samples])
        print(name, {k: round(v, 3) for k, v in results[name].items()}, file=sys.stderr)
    print("| setting | network calls | PSNR in the hole | colour | contrast | edges |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, r in results.items():
        psnr = "-" if name == SAMPLES else f"{r['psnr']:.2f}"
        shares = " | ".join(f"{r[key]:.2f}" for key in ("colour", "contrast", "edges"))
        print(f"| {name} | {r['calls']} | {psnr} | {shares} |")
    if args.picture:
        images.write_png(args.picture, picture(rows))
    if args.json:
        about = {**protocol.about(args), "step": bench.step}
        args.json.write_text(json.dumps({"about": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
