"""Measures the training step of a U-ViT, compared with PyTorch and a matrix product.

    python -m benchmarks.train_step --peer-python /path/to/peer/bin/python

See README.md here for the environment of the peer. Every implementation runs in a
process of its own, and they take turns in one run; quote the ratios of the medians.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import protocol

OURS = ("paper", "matched")
PEER = ("eager", "channels_last", "compiled", "compiled_channels_last")
MATMUL = "matrix product"


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(
        description="Training step of a U-ViT, ours and the peer's."
    )
    add = parser.add_argument
    add("--peer-python", help="interpreter of the peer's environment; without it, ours")
    add("--ours", nargs="*", default=OURS, choices=OURS, help="our variants")
    add("--peer", nargs="*", default=PEER, choices=PEER, help="the peer's variants")
    add("--resolution", type=int, default=64)
    add("--width", type=int, default=64, help="channels of the first level")
    add("--depth", type=int, default=4, help="transformer blocks")
    add("--batch", type=int, default=8)
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--backend", default="cpu", choices=("cpu", "gpu", "tpu"))
    add("--threads", type=int, default=2)
    add("--matmul", type=int, default=4096, help="size of the matrix product")
    add("--rounds", type=int, default=7, help="turns of each; the first is not counted")
    add("--steps", type=int, default=3, help="steps in a turn")
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def start_workers(args: argparse.Namespace) -> list[protocol.Worker]:
    """Returns the workers, each compiled while no other is running."""
    shared = ("resolution", "width", "depth", "batch", "dtype", "backend", "threads")
    names = (*shared, "matmul")
    base = protocol.Spec("", **{name: getattr(args, name) for name in names})
    plan = [(MATMUL, sys.executable, "benchmarks.ours", "matmul")]
    plan += [(f"ours, {v}", sys.executable, "benchmarks.ours", v) for v in args.ours]
    if args.peer_python:
        python = args.peer_python
        plan += [(f"peer, {v}", python, "benchmarks.peer", v) for v in args.peer]
    workers = []
    for name, python, module, variant in plan:
        print(f"preparing: {name}", file=sys.stderr)
        spec = replace(base, variant=variant)
        workers.append(protocol.Worker(name, python, module, spec))
    return workers


def take_turns(
    workers: list[protocol.Worker], rounds: int, steps: int, ahead: int = 0
) -> None:
    """Lets each worker measure once per round, in an order that rotates.

    Args:
      workers: who measures.
      rounds: turns of each; the first is not counted.
      steps: in a turn.
      ahead: steps, at most, that a worker makes ready between its turns: it is given
        the time for that, and they are not counted.
    """
    for k in range(rounds):
        print(f"round {k + 1} of {rounds}", file=sys.stderr)
        for j in range(len(workers)):
            worker = workers[(j + k) % len(workers)]
            if ahead:
                time.sleep(1)
                worker.measure(ahead)
                worker.rounds.pop()
            worker.measure(steps)
    for worker in workers:
        del worker.rounds[: 1 if rounds > 1 else 0]  # caches and clocks warm up


def figures(workers: list[protocol.Worker], batch: int) -> list[dict[str, Any]]:
    """Returns what was measured, one entry per worker."""
    matmul = workers[0].facts["flops"] / statistics.median(workers[0].rounds)
    table = []
    for worker in workers:
        seconds = statistics.median(worker.rounds)
        rate = worker.facts["flops"] / seconds
        table.append(
            {
                "name": worker.name,
                "seconds": seconds,
                "images_per_second": None if worker is workers[0] else batch / seconds,
                "flops_per_second": rate,
                "of_matmul": rate / matmul,
                "peak_bytes": worker.peak_bytes,
                "rounds": worker.rounds,
                **worker.facts,
            }
        )
    return table


def ratios(workers: list[protocol.Worker]) -> list[dict[str, Any]]:
    """Returns our speed in units of the peer's, with its range over the rounds."""
    table = []
    for mine in workers:
        for peer in workers:
            if mine.name.startswith("ours") and peer.name.startswith("peer"):
                slow, fast = map(statistics.median, (peer.rounds, mine.rounds))
                each = [p / m for p, m in zip(peer.rounds, mine.rounds, strict=True)]
                table.append(
                    {
                        "ours": mine.name,
                        "peer": peer.name,
                        "speed": slow / fast,
                        "range": [min(each), max(each)],
                    }
                )
    return table


def show(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> None:
    """Prints the tables, as Markdown."""
    print("| | images/s | s/step | GFLOP/s | of product | MiB preparing, running |")
    print("|---|---:|---:|---:|---:|---|")
    for row in rows:
        images = row["images_per_second"]
        print(
            f"| {row['name']} | {f'{images:.2f}' if images else ''}"
            f" | {row['seconds']:.4f} | {row['flops_per_second'] / 1e9:.0f}"
            f" | {row['of_matmul']:.0%} | {mebibytes(row, 'preparing_peak_bytes')},"
            f" {mebibytes(row, 'peak_bytes')} |"
        )
    print("\n| | parameters | GFLOP/step | ready after s | XLA: GFLOP, temporary MiB |")
    print("|---|---:|---:|---:|---|")
    for row in rows[1:]:
        print(
            f"| {row['name']} | {row['parameters']:,} | {row['flops'] / 1e9:.1f}"
            f" | {ready_after(row)} | {from_xla(row)} |"
        )
    if speeds:
        print("\n| ours | peer | ours / peer, speed | range over rounds |")
        print("|---|---|---:|---|")
    for row in speeds:
        low, high = row["range"]
        print(
            f"| {row['ours']} | {row['peer']} | {row['speed']:.2f}"
            f" | {low:.2f} to {high:.2f} |"
        )


def mebibytes(row: dict[str, Any], name: str) -> str:
    """Returns a number of bytes as the table shows it."""
    return f"{row[name] / 2**20:.0f}"


def ready_after(row: dict[str, Any]) -> str:
    """Returns the seconds to the first step: for us, tracing and compiling."""
    if "compile_seconds" in row:
        return f"{row['trace_seconds']:.1f} + {row['compile_seconds']:.1f}"
    return f"{row['first_step_seconds']:.1f}"


def from_xla(row: dict[str, Any]) -> str:
    """Returns what XLA itself says about operations and memory."""
    if "xla_flops" not in row:
        return ""
    return f"{row['xla_flops'] / 1e9:.1f}, {row['xla_bytes']['temp'] / 2**20:.0f}"


def main() -> None:
    """Measures and prints two tables, the ratios, and all of it as JSON."""
    args = arguments()
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    workers = start_workers(args)
    try:
        take_turns(workers, args.rounds, args.steps)
    finally:
        for worker in workers:
            worker.close()
    rows, speeds = figures(workers, args.batch), ratios(workers)
    show(rows, speeds)
    result = json.dumps({"about": protocol.about(args), "rows": rows, "ratios": speeds})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
