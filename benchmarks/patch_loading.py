"""Measures patches per second from JPEG files, compared with PyTorch and Grain.

    python -m benchmarks.patch_loading --peer-python /path/to/peer/bin/python

See README.md here for the environment of the peers. Every loader draws a size, decodes,
resizes by Lanczos, mirrors, crops, records the box and makes batches, with the same
number of workers. They take turns in one run; quote the ratios of the medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import protocol, train_step
from simple_diffusion.data.scenes import scenes

WAYS = ("", ":draft", ":box")
PEERS = tuple(f"{p}{w}" for p in ("torch", "grain", "grain_threads") for w in WAYS)
# Of the noise, in grey levels: makes files as large as photographs of this size.
NOISE = 8.0
AHEAD = 16  # batches, more than any loader holds ready


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description="Patches per second from JPEG files.")
    add = parser.add_argument
    add("--peer-python", help="interpreter of the peers' environment; without it, ours")
    add("--peer", nargs="*", default=PEERS, choices=PEERS, help="loader:way of cutting")
    add("--folder", help="JPEG files to read, square; by default made here")
    add("--files", type=int, default=256, help="how many are made")
    add("--side", type=int, default=512, help="pixels of those")
    add("--resolution", type=int, default=128, help="of a patch and the smallest whole")
    add("--largest", type=int, default=256, help="size of the largest whole")
    add("--batch", type=int, default=32)
    add("--threads", type=int, default=2, help="cores, and workers of each loader")
    add("--rounds", type=int, default=7, help="turns of each; the first is not counted")
    add("--steps", type=int, default=100, help="batches in a turn")
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def make_photographs(folder: Path, count: int, side: int) -> int:
    """Writes noisy scenes as JPEG files of quality 90; returns their mean bytes."""
    rng = np.random.default_rng(0)
    total = 0
    for k in range(count):
        (scene,) = scenes.render(scenes.describe(0, [k]), side, side)
        noisy = scene + NOISE * rng.standard_normal(scene.shape)
        path = folder / f"{k}.jpg"
        pixels = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
        total += path.stat().st_size
    return round(total / count)


def start_workers(args: argparse.Namespace, folder: str) -> list[protocol.Worker]:
    """Returns the workers, ours first, each started while the others rest."""
    names = ("resolution", "largest", "batch", "threads")
    chosen = {name: getattr(args, name) for name in names}
    base = protocol.Spec("ours", folder=folder, **chosen)
    plan = [("ours", sys.executable, "benchmarks.patch_loading_ours", "ours")]
    if args.peer_python:
        module = "benchmarks.patch_loading_peer"
        plan += [(f"peer, {v}", args.peer_python, module, v) for v in args.peer]
    workers = []
    for name, python, module, variant in plan:
        print(f"preparing: {name}", file=sys.stderr)
        spec = replace(base, variant=variant)
        workers.append(protocol.Worker(name, python, module, spec))
    return workers


def figures(workers: list[protocol.Worker], batch: int) -> list[dict[str, Any]]:
    """Returns what was measured, one entry per worker."""
    return [
        {
            "name": worker.name,
            "patches_per_second": batch / statistics.median(worker.rounds),
            "rounds": worker.rounds,
            **worker.facts,
        }
        for worker in workers
    ]


def show(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> None:
    """Prints a table, as Markdown."""
    print("| | patches/s | ours / this, speed | range over rounds | |")
    print("|---|---:|---:|---|---|")
    against = {row["peer"]: row for row in speeds}
    for row in rows:
        speed, rate = against.get(row["name"]), f"{row['patches_per_second']:.0f}"
        ratio = " | "
        if speed:
            low, high = speed["range"]
            ratio = f"{speed['speed']:.2f} | {low:.2f} to {high:.2f}"
        print(f"| {row['name']} | {rate} | {ratio} | {row['version']} |")


def main() -> None:
    """Measures and prints a table and JSON."""
    args = arguments()
    protocol.bind_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        mean_bytes = None
        if args.folder is None:
            mean_bytes = make_photographs(Path(made), args.files, args.side)
            print(f"{args.files} files of {mean_bytes:,} bytes on average")
        workers = start_workers(args, args.folder or made)
        try:
            train_step.take_turns(workers, args.rounds, args.steps, AHEAD)
        finally:
            for worker in workers:
                worker.close()
    rows, speeds = figures(workers, args.batch), train_step.ratios(workers)
    show(rows, speeds)
    about = {**protocol.about(args), "mean_bytes": mean_bytes}
    result = json.dumps({"about": about, "rows": rows, "ratios": speeds})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
