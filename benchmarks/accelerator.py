"""Measures the training step of a recipe on one accelerator.

    python -m benchmarks.accelerator --backend gpu --config configs/imagenet512.py:uvit

Prints speed, utilisation, memory, and where the time goes. The step is compiled in
several ways (--programs), which take turns with a large matrix product and, with
--peer-python, with the same network in PyTorch. Where configs cannot be read,
`--config x.json` takes the file that `--describe x.json` wrote elsewhere.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import devices, protocol, recipe, train_step

# By the memory they need, see `Program.measure`.
PROGRAMS = ("remat=full", "remat=dots", "remat=none", "remat=none,attention=xla")
PEER = ("eager", "channels_last", "compiled", "compiled_channels_last")


class Program:
    """One of the programs of our worker; it takes turns as a `protocol.Worker` does."""

    def __init__(self, worker: protocol.Worker, name: str) -> None:
        self.name, self.facts = f"ours, {name}", worker.facts["programs"][name]
        self.rounds: list[float] = []
        self.peak_bytes = 0
        self._worker, self._program = worker, name

    def measure(self, steps: int, **what: Any) -> None:
        """Makes some steps and notes their time."""
        worker = self._worker
        worker.peak_bytes = 0
        worker.measure(steps, program=self._program, **what)
        self.rounds.append(worker.rounds.pop())
        # An accelerator's peak never falls: the first step of each program, in the
        # order of --programs, says what had been needed until then.
        peak = self.facts["peak_bytes_so_far"] or worker.peak_bytes
        self.peak_bytes = max(self.peak_bytes, peak)

    def trace(self, steps: int, folder: Path) -> dict[str, float]:
        """Returns what the time of some steps goes to, see `shares`."""
        # Only here: this process has no use for jax otherwise.
        from benchmarks import accelerator_ours, shares

        self.measure(steps, trace=str(folder))
        self.rounds.pop()
        program = (folder / accelerator_ours.PROGRAM).read_text()
        return shares.shares(shares.read(folder), shares.categories(program))


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(
        description="Training step of a recipe on one accelerator."
    )
    add = parser.add_argument
    add("--config", default="configs/imagenet512.py:uvit", help="recipe, .py or .json")
    add("--describe", type=Path, help="write the recipe to this .json file; do no more")
    add("--set", nargs="*", default=[], help="model.trunk_blocks=8 and the like")
    add("--programs", nargs="*", default=PROGRAMS, help="remat=full,attention=xla ...")
    add("--batch", type=int, default=32)
    add("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    add("--backend", default="gpu", choices=("cpu", "gpu", "tpu"))
    add("--threads", type=int, default=2, help="on CPU")
    add("--matmul", type=int, default=8192, help="size of the matrix product")
    add("--peer-python", help="interpreter of the peer's environment; without it, ours")
    add("--peer", nargs="*", default=["compiled"], choices=PEER)
    add("--rounds", type=int, default=6, help="turns of each; the first is not counted")
    add("--steps", type=int, default=10, help="steps in a turn")
    add("--traced", type=int, default=3, help="steps under the profiler; 0 for none")
    add("--traces", type=Path, help="keep the traces in this folder, for TensorBoard")
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def start(args: argparse.Namespace, tree: dict[str, Any]) -> list[protocol.Worker]:
    """Returns the workers: who counts operations, the product, ours, the peer's."""
    base = protocol.Spec(
        "",
        resolution=tree["data"]["resolution"],
        batch=args.batch,
        dtype=args.dtype,
        backend=args.backend,
        threads=args.threads,
        matmul=args.matmul,
    )
    programs = {
        text: recipe.changes(text.split(","), "model") for text in args.programs
    }
    ours = dict(recipe=tree, programs=programs)
    count = dict(variant="count", recipe=tree, backend="cpu")
    plan = [("operations", sys.executable, "accelerator_ours", count)]
    plan += [(train_step.MATMUL, sys.executable, "ours", dict(variant="matmul"))]
    plan += [("ours", sys.executable, "accelerator_ours", ours)]
    for variant in args.peer if args.peer_python else ():
        fields = dict(variant=variant, recipe=tree)
        plan += [(f"peer, {variant}", args.peer_python, "peer", fields)]
    workers = []
    for name, python, module, fields in plan:
        print(f"preparing: {name}", file=sys.stderr)
        spec = protocol.Spec(**{**vars(base), **fields})
        workers.append(protocol.Worker(name, python, f"benchmarks.{module}", spec))
    return workers


def utilisation(row: dict[str, Any], peak: float | None) -> dict[str, float]:
    """Returns the share of a peak by each count of operations that a row has.

    of_peak: by products and convolutions that the model needs. compiler_of_peak: by all
    that the compiler counts in the model. hardware_of_peak: by what the compiler counts
    in the program that ran, recomputation included and bodies of loops once.
    """
    counts = {
        "of_peak": "flops",
        "compiler_of_peak": "compiler_flops",
        "hardware_of_peak": "xla_flops",
    }
    return {
        name: row[count] / row["seconds"] / peak
        for name, count in counts.items()
        if peak and count in row
    }


def planned_bytes(row: dict[str, Any]) -> int | None:
    """Returns the memory that the compiler has planned: state, batch and temporaries.

    The new state takes the place of the old one.
    """
    if "xla_bytes" not in row:
        return None
    of = row["xla_bytes"]
    return of["argument"] + of["output"] - of["alias"] + of["temp"]


def show(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> None:
    """Prints the tables, as Markdown."""
    print(
        "| | images/s | ms/step (range) | of peak: model, compiler | of product", end=""
    )
    print(" | GiB planned, peak | compile s |\n|---|---:|---|---|---:|---|---:|")
    for row in rows:
        low, high = min(row["rounds"]), max(row["rounds"])
        shown = [row.get(name) for name in ("of_peak", "compiler_of_peak")]
        gib = [planned_bytes(row), row["peak_bytes"]]
        ready = row.get("compile_seconds", row.get("first_step_seconds"))
        print(
            f"| {row['name']}{' (flash)' if row.get('flash') else ''}"
            f" | {cell(row['images_per_second'], '.1f')}"
            f" | {row['seconds'] * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f})"
            f" | {', '.join(cell(v, '.1%') for v in shown)} | {row['of_matmul']:.1%}"
            f" | {', '.join(cell(v and v / 2**30, '.2f') for v in gib)}"
            f" | {cell(ready, '.1f')} |"
        )
    traced = [row for row in rows if row.get("shares")]
    if traced:
        names = list(traced[0]["shares"])
        print(f"\n| share of time | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for row in traced:
        cells = (f"{share:.1%}" for share in row["shares"].values())
        print(f"| {row['name']} | {' | '.join(cells)} |")
    if speeds:
        print("\n| ours | peer | ours / peer, images/s | range over rounds |")
        print("|---|---|---:|---|")
    for row in speeds:
        low, high = row["range"]
        print(
            f"| {row['ours']} | {row['peer']} | {row['speed']:.2f}"
            f" | {low:.2f} to {high:.2f} |"
        )


def cell(value: float | None, form: str) -> str:
    """Returns a number as the tables show it, or a dash."""
    return "-" if value is None else format(value, form)


def measure(args: argparse.Namespace, tree: dict[str, Any]) -> dict[str, Any]:
    """Returns all figures of a recipe."""
    workers = start(args, tree)
    try:
        counter, product, ours, *peers = workers
        facts = ours.facts["programs"]
        for of_program in facts.values():
            of_program |= {k: counter.facts[k] for k in ("flops", "compiler_flops")}
        failed = {n: f["failed"] for n, f in facts.items() if "failed" in f}
        programs = [Program(ours, name) for name in facts if name not in failed]
        turns: list[Any] = [product, *programs, *peers]
        train_step.take_turns(turns, args.rounds, args.steps)
        rows = train_step.figures(turns, args.batch)
        for row, program in (
            zip(rows[1:], programs, strict=False) if args.traced else ()
        ):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(args.traces or scratch) / program.name.replace(", ", "_")
                row["shares"] = program.trace(args.traced, folder.absolute())
    finally:
        for worker in workers:
            worker.close()
    name = devices.of_kind(ours.facts["device"])
    for row in rows:
        row |= utilisation(row, devices.TABLE[name].flops if name else None)
    return {
        "rows": rows,
        "ratios": train_step.ratios(turns),
        "failed": failed,
        "device": {"kind": ours.facts["device"], "table": name},
    }


def main() -> None:
    """Measures and prints tables, and all of it as JSON."""
    args = arguments()
    tree = recipe.changed(recipe.load(args.config), recipe.changes(args.set, "model"))
    tree["model"]["dtype"] = args.dtype
    if args.describe:
        args.describe.write_text(json.dumps(tree, indent=2) + "\n")
        return
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    found = measure(args, tree)
    show(found["rows"], found["ratios"])
    for name, why in found["failed"].items():
        print(f"\n{name} did not run: {why.splitlines()[0]}")
    about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    about = protocol.about(argparse.Namespace(**about)) | {"recipe": tree}
    result = json.dumps({"about": about, **found})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
