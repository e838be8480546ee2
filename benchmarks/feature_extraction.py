"""Measures the speed of FID's features, compared with torch-fidelity.

    python -m benchmarks.feature_extraction --peer-python /path/to/peer/bin/python

See README.md here for the environment of the peer. Both sides have the same random
weights, take uint8 images, resize them as TensorFlow 1 does, and work in float32; the
script checks that they return the same features. They take turns in one run; quote the
ratios of the medians.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol, train_step

PEER = ("eager", "channels_last", "compiled")
NEAR = 1e-3  # of a feature; on an accelerator PyTorch may round products to TF32


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description="Features of FID per second.")
    add = parser.add_argument
    add("--peer-python", help="interpreter of the peer's environment; without it, ours")
    add("--peer", nargs="*", default=PEER, choices=PEER, help="the peer's variants")
    add("--resolution", type=int, default=256, help="of the images")
    add("--batch", type=int, default=16)
    add("--backend", default="cpu", choices=("cpu", "gpu", "tpu"))
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=7, help="turns of each; the first is not counted")
    add("--steps", type=int, default=3, help="batches in a turn")
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def start_workers(args: argparse.Namespace) -> list[protocol.Worker]:
    """Returns the workers, ours first, each made ready while no other is running."""
    names = ("resolution", "batch", "backend", "threads")
    base = protocol.Spec("ours", **{name: getattr(args, name) for name in names})
    plan = [("ours", sys.executable, "benchmarks.feature_extraction_ours", "ours")]
    if args.peer_python:
        module = "benchmarks.feature_extraction_peer"
        plan += [(f"peer, {v}", args.peer_python, module, v) for v in args.peer]
    workers = []
    for name, python, module, variant in plan:
        print(f"preparing: {name}", file=sys.stderr)
        spec = replace(base, variant=variant)
        workers.append(protocol.Worker(name, python, module, spec))
    return workers


def check(workers: list[protocol.Worker]) -> None:
    """Raises ValueError if they do not compute the same."""
    ours, *others = (np.array(worker.facts["features"]) for worker in workers)
    for worker, theirs in zip(workers[1:], others, strict=True):
        if np.abs(ours - theirs).max() > NEAR * np.abs(ours).max():
            raise ValueError(f"{worker.name} has other features: {theirs}, not {ours}")


def figures(workers: list[protocol.Worker], batch: int) -> list[dict[str, Any]]:
    """Returns what was measured, one entry per worker."""
    return [
        {
            "name": worker.name,
            "images_per_second": batch / statistics.median(worker.rounds),
            "peak_bytes": worker.peak_bytes,
            "rounds": worker.rounds,
            **worker.facts,
        }
        for worker in workers
    ]


def show(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> None:
    """Prints a table, as Markdown."""
    print("| | images/s | ours / this, speed | range over rounds | MiB | |")
    print("|---|---:|---:|---|---:|---|")
    against = {row["peer"]: row for row in speeds}
    for row in rows:
        speed, ratio = against.get(row["name"]), " | "
        if speed:
            low, high = speed["range"]
            ratio = f"{speed['speed']:.2f} | {low:.2f} to {high:.2f}"
        print(
            f"| {row['name']} | {row['images_per_second']:.2f} | {ratio}"
            f" | {row['peak_bytes'] / 2**20:.0f} | {row['version']} |"
        )


def main() -> None:
    """Measures and prints a table and JSON."""
    args = arguments()
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    workers = start_workers(args)
    try:
        check(workers)
        train_step.take_turns(workers, args.rounds, args.steps)
    finally:
        for worker in workers:
            worker.close()
    rows, speeds = figures(workers, args.batch), train_step.ratios(workers)
    show(rows, speeds)
    about = protocol.about(args)
    result = json.dumps({"about": about, "rows": rows, "ratios": speeds})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
