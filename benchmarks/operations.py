"""Measures the operations of a training step one by one, compared with PyTorch.

    python -m benchmarks.operations --peer-python /path/to/peer/bin/python

The operations are those of the U-ViT of `train_step`, with their number in one step:
they show where a step is slower than that of the peer. Ours are compiled by XLA, each
with its gradient as in the step; those of the peer are PyTorch's kernels, with
elementwise operations compiled.
"""

import argparse
import json
import statistics
import sys
from typing import Any, NamedTuple

from benchmarks import protocol


class Operation(NamedTuple):
    """One operation.

    count: how often it is in a training step of the `paper` network.
    size: height and width of its maps; of tokens, their number.
    channels: its width.
    """

    count: int
    size: int
    channels: int


# Residual blocks: 5 of 64 channels at 64x64 and 4 of 128 at 32x32, two convolutions and
# two norms with SiLU in each; 4 transformer blocks of 256 on 256 tokens.
OPERATIONS = {
    "convolution, 64": Operation(10, 64, 64),
    "input gradient, 64": Operation(10, 64, 64),
    "kernel gradient, 64": Operation(10, 64, 64),
    "norm and SiLU with gradient, 64": Operation(10, 64, 64),
    "convolution, 128": Operation(8, 32, 128),
    "input gradient, 128": Operation(8, 32, 128),
    "kernel gradient, 128": Operation(8, 32, 128),
    "norm and SiLU with gradient, 128": Operation(8, 32, 128),
    "attention with gradient": Operation(4, 256, 256),
    "MLP with gradient": Operation(4, 256, 256),
}


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description="Operations of a step, one by one.")
    add = parser.add_argument
    add("--peer-python", help="interpreter of the peer's environment; without it, ours")
    add("--only", nargs="*", default=OPERATIONS, choices=OPERATIONS)
    add("--batch", type=int, default=8)
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=5, help="turns of each; the first is not counted")
    add("--steps", type=int, default=5, help="calls in a turn")
    return parser.parse_args()


def main() -> None:
    """Measures by turns and prints a table, and all of it as JSON."""
    args = arguments()
    protocol.bind_threads(args.threads)
    spec = protocol.Spec("operations", batch=args.batch, threads=args.threads)
    places = [("ours", sys.executable, "benchmarks.operations_ours")]
    if args.peer_python:
        places.append(("peer", args.peer_python, "benchmarks.operations_peer"))
    workers = [protocol.Worker(*place, spec) for place in places]
    rows = []
    try:
        for name in args.only:
            print(name, file=sys.stderr)
            rows.append(measure(name, workers, args.rounds, args.steps))
    finally:
        for worker in workers:
            worker.close()
    show(rows, [worker.name for worker in workers])
    print(f"\n{json.dumps({'about': protocol.about(args), 'rows': rows})}")


def measure(
    name: str, workers: list[protocol.Worker], rounds: int, steps: int
) -> dict[str, Any]:
    """Returns the seconds of an operation by worker, medians over rounds."""
    row: dict[str, Any] = {"name": name, "count": OPERATIONS[name].count}
    for worker in workers:
        worker.rounds.clear()
    for _ in range(rounds):
        for worker in workers:
            worker.measure(steps, operation=name)
    for worker in workers:
        row[worker.name] = statistics.median(worker.rounds[1:] or worker.rounds)
    return row


def show(rows: list[dict[str, Any]], names: list[str]) -> None:
    """Prints the table, with what each operation adds up to in a step."""
    print(f"| | in a step | {' | '.join(f'{n}, ms each, in all' for n in names)} |")
    print(f"|---|---:|{'---:|' * len(names)}")
    for row in rows:
        cells = [
            f"{1e3 * row[name]:.2f}, {1e3 * row[name] * row['count']:.0f}"
            for name in names
        ]
        print(f"| {row['name']} | {row['count']} | {' | '.join(cells)} |")
    sums = [f"{sum(1e3 * row[n] * row['count'] for row in rows):.0f}" for n in names]
    print(f"| together | | {' | '.join(sums)} |")


if __name__ == "__main__":
    main()
