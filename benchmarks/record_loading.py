"""Measures writing and reading prepared records, compared with a folder.

    python -m benchmarks.record_loading

The same JPEG files are prepared unchanged, and reduced to JPEG and PNG; then batches of
square images are read from the folder and from each of the records, in turns. After the
first turn the files are in the memory of the system, so the effect of a slow disk or
network is not measured.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import patch_loading, protocol, train_step
from simple_diffusion.data.records import encoding, preparation

AHEAD = 16  # batches, more than the pipeline holds ready
REDUCED = ("native", "jpeg", "lossless")


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--folder", help="JPEG files to read; by default made here")
    add("--files", type=int, default=512, help="how many are made")
    add("--side", type=int, default=512, help="pixels of those")
    add(
        "--resolution", type=int, default=256, help="of a batch, and of reduced records"
    )
    add("--batch", type=int, default=32)
    add("--threads", type=int, default=2, help="cores, and workers")
    add("--shard_megabytes", type=float, default=16.0)
    add("--rounds", type=int, default=5, help="turns of each; the first is not counted")
    add("--steps", type=int, default=32, help="batches in a turn")
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def settings(args: argparse.Namespace, images: str, kind: str) -> encoding.Settings:
    """Returns how one kind of records is prepared."""
    base = encoding.Settings(f"folder:{images}", shard_megabytes=args.shard_megabytes)
    if kind == "native":
        return base
    quality = 95 if kind == "jpeg" else "lossless"
    return replace(base, size=args.resolution, resize="area", quality=quality)


def prepare_by_turns(
    args: argparse.Namespace, images: str, root: Path
) -> list[dict[str, Any]]:
    """Prepares every kind in every round; returns one entry for each."""
    rows = []
    rounds: dict[str, list[float]] = {kind: [] for kind in REDUCED}
    for k in range(args.rounds):
        print(f"preparing, round {k + 1} of {args.rounds}", file=sys.stderr)
        for j in range(len(REDUCED)):
            kind = REDUCED[(j + k) % len(REDUCED)]
            shutil.rmtree(root / kind, ignore_errors=True)
            start = time.perf_counter()
            manifest = preparation.prepare(
                settings(args, images, kind),
                root / kind,
                workers=args.threads,
                report=lambda line: None,
            )
            rounds[kind].append((time.perf_counter() - start) / manifest.count)
    for kind, seconds in rounds.items():
        counted = seconds[1 if args.rounds > 1 else 0 :]
        size = sum(file.stat().st_size for file in (root / kind).iterdir())
        rate = 1 / statistics.median(counted)
        row = {"name": kind, "images_per_second": rate, "rounds": counted}
        rows.append({**row, "bytes": size, "count": manifest.count})
    return rows


def start_workers(
    args: argparse.Namespace, images: str, root: Path
) -> list[protocol.Worker]:
    """Returns the readers, that of the folder first."""
    chosen = {name: getattr(args, name) for name in ("resolution", "batch", "threads")}
    base = protocol.Spec("ours", **chosen)
    places = {"folder": f"folder:{images}"}
    places |= {f"records, {kind}": f"records:{root / kind}" for kind in REDUCED}
    module = "benchmarks.record_loading_ours"
    return [
        protocol.Worker(name, sys.executable, module, replace(base, folder=place))
        for name, place in places.items()
    ]


def reading(workers: list[protocol.Worker], batch: int) -> list[dict[str, Any]]:
    """Returns what was measured, with the speed in units of the folder's."""
    folder = workers[0]
    rows = []
    for worker in workers:
        pairs = zip(folder.rounds, worker.rounds, strict=True)
        each = [theirs / ours for theirs, ours in pairs]
        seconds = statistics.median(worker.rounds)
        rows.append(
            {
                "name": worker.name,
                "images_per_second": batch / seconds,
                "speed": statistics.median(folder.rounds) / seconds,
                "range": [min(each), max(each)],
                "rounds": worker.rounds,
            }
        )
    return rows


def show(prepared: list[dict[str, Any]], read: list[dict[str, Any]]) -> None:
    """Prints the tables, as Markdown."""
    print("| preparing | images/s | kB an image |")
    print("|---|---:|---:|")
    for row in prepared:
        size = row["bytes"] / row["count"] / 1000
        print(f"| {row['name']} | {row['images_per_second']:.0f} | {size:.1f} |")
    print("\n| reading | images/s | this / folder, speed | range over rounds |")
    print("|---|---:|---:|---|")
    for row in read:
        low, high = row["range"]
        rate = f"{row['images_per_second']:.0f} | {row['speed']:.2f}"
        print(f"| {row['name']} | {rate} | {low:.2f} to {high:.2f} |")


def main() -> None:
    """Measures and prints tables and JSON."""
    args = arguments()
    protocol.bind_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        images, root, mean_bytes = args.folder, Path(made) / "records", None
        if images is None:
            images = str(Path(made) / "images")
            Path(images).mkdir()
            mean_bytes = patch_loading.make_photographs(
                Path(images), args.files, args.side
            )
            print(f"{args.files} files of {mean_bytes:,} bytes on average")
        prepared = prepare_by_turns(args, images, root)
        workers = start_workers(args, images, root)
        try:
            train_step.take_turns(workers, args.rounds, args.steps, AHEAD)
        finally:
            for worker in workers:
                worker.close()
    read = reading(workers, args.batch)
    show(prepared, read)
    about = {**protocol.about(args), "mean_bytes": mean_bytes}
    result = json.dumps({"about": about, "preparing": prepared, "reading": read})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
