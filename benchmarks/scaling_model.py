"""A paper model of the training step on many devices, and its recommendation.

    python -m benchmarks.scaling_model --config configs/imagenet512.py:uvit \\
        --device v5e --devices 256

Every combination of mesh, remat policy and number of microbatches is a candidate. The
script recommends the fastest one that fits into memory. Figures of devices are those of
their makers, see `devices`. Assumptions are the flags with "share" in their name, and
those that `step_time` states. `--validate` compares the model with this machine where
that is meaningful.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import devices, recipe, step_time, workload
from benchmarks.step_time import Mesh
from simple_diffusion.core import arrays


@dataclass(frozen=True)
class Assumed:
    """What is neither counted nor in a data sheet.

    utilisation: share of the peak that computation reaches.
    overlap: share of the gathering and reducing that can hide behind computation.
    link_share: share of the links' bandwidth that collectives reach.
    memory_share: share of the memory that a program may fill.
    images_per_second: that one host reads and decodes.
    write_bandwidth: of checkpoints, all hosts together.
    save_every: steps between checkpoints.
    """

    utilisation: float = 0.5
    overlap: float = 0.8
    link_share: float = 0.8
    memory_share: float = 0.9
    images_per_second: float = 2000.0
    write_bandwidth: float = 1e9
    save_every: int = 5000


@dataclass(frozen=True)
class Counted:
    """What a recipe asks for, see `workload`; by remat policy where that matters."""

    abstract: Any
    parameters: int
    averages: int
    operations: dict[str, int]
    kept: dict[str, workload.Kept]
    working: int
    blocks: tuple[workload.Blocks, ...]


@dataclass(frozen=True)
class Held:
    """Bytes of state and of parameters on one device of a mesh, and of all state."""

    state: int
    parameters: int
    whole: int


@dataclass(frozen=True)
class Candidate:
    """One way to train.

    images: of a microbatch on one device.
    memory: bytes on one device by what they are for.
    seconds: of a step by what they are for; "step" is the whole.
    """

    mesh: Mesh
    remat: str
    accumulate: int
    images: int
    memory: dict[str, float]
    seconds: dict[str, float]

    @property
    def bytes(self) -> float:
        """All memory of a device."""
        return sum(self.memory.values())


def count(tree: dict[str, Any]) -> Counted:
    """Returns what a recipe asks for."""
    policies = {name: workload.with_policy(tree, name) for name in workload.POLICIES}
    abstract = workload.abstract_state(tree)
    return Counted(
        abstract=abstract,
        parameters=arrays.tree_size(abstract.params),
        averages=len(abstract.ema),
        operations={k: workload.operations(t) for k, t in policies.items()},
        kept={k: workload.kept(t) for k, t in policies.items()},
        working=workload.working(tree),
        blocks=workload.transformer(tree),
    )


def meshes(
    devices_n: int, device: devices.Device, blocks: tuple[workload.Blocks, ...]
) -> Iterator[Mesh]:
    """Yields the meshes of so many devices.

    `tensor` splits the heads of transformer blocks and stays within an island, and so
    does `fsdp` on TPUs, where only the data axis goes over several slices.
    """
    for tensor in _divisors(devices_n):
        if tensor > 1 and (not blocks or tensor > device.island):
            continue
        if any(row.heads % tensor for row in blocks):
            continue
        for fsdp in _divisors(devices_n // tensor):
            if device.torus and fsdp * tensor > device.island:
                continue
            yield Mesh(devices_n // tensor // fsdp, fsdp, tensor)


def held(counted: Counted, mesh: Mesh) -> Held:
    """Returns what a mesh holds."""
    return Held(
        state=workload.state_bytes(counted.abstract, mesh),
        parameters=workload.state_bytes(counted.abstract.params, mesh),
        whole=workload.state_bytes(counted.abstract, Mesh()),
    )


def memory(
    counted: Counted,
    mesh: Mesh,
    there: Held,
    remat: str,
    images: int,
    accumulate: int,
) -> dict[str, float]:
    """Returns the bytes of one device.

    Exact are state and gradients. Transformer blocks keep their activations whole on
    each device of the tensor axis, which is too many by what is split there.
    """
    kept = counted.kept[remat]
    shards = mesh.fsdp * mesh.tensor
    return {
        "state": there.state,
        # With microbatches, the sum beside the newest.
        "gradients": there.parameters * (2 if accumulate > 1 else 1),
        "activations": images * (kept.per_image + counted.working),
        # Assumed to be split as the parameters are.
        "copies of weights": kept.weights / shards,
    }


def seconds(
    counted: Counted,
    mesh: Mesh,
    there: Held,
    remat: str,
    images: int,
    accumulate: int,
    device: devices.Device,
    assumed: Assumed,
) -> dict[str, float]:
    """Returns the time of a step and of its parts.

    Parameters are gathered in float32 for the forward and again for the backward pass
    of each microbatch, and gradients reduced after it. The tensor axis speeds up
    transformer blocks alone, and each of them sums its result twice forward and twice
    backward, once more where the forward pass is made again; nothing hides that.
    """
    linked = replace(
        device,
        link=device.link * assumed.link_share,
        network=device.network * assumed.link_share,
    )
    share = images * accumulate  # images of a step on one device
    again = counted.operations[remat] / counted.operations["none"]
    split = sum(row.operations for row in counted.blocks) * again
    whole = counted.operations[remat] - split
    work = share * (whole + split / mesh.tensor)
    computing = step_time.compute(work, device, assumed.utilisation)

    weights = 4 * counted.parameters / mesh.tensor
    gathers = 3 * accumulate * step_time.gather(weights, mesh, "fsdp", linked)
    local = there.parameters
    reduces = accumulate * step_time.all_reduce(local, mesh, "data", linked)
    sums = 4 if remat == "none" else 6
    across = sum(
        row.count * sums * step_time.all_reduce(nbytes, mesh, "tensor", linked)
        for row in counted.blocks
        for nbytes in [2 * share * row.tokens * row.width]
    )
    parts = {
        "compute": computing,
        "gather, scatter": gathers,
        "data reduce": reduces,
        "exposed": step_time.exposed(gathers + reduces, computing, assumed.overlap),
        "tensor": across,
        "update": step_time.update(local / 4, counted.averages, device),
        "input": step_time.feed(
            share * mesh.data * mesh.fsdp,
            mesh.size,
            device,
            assumed.images_per_second,
        ),
    }
    busy = sum(parts[name] for name in ("compute", "exposed", "tensor", "update"))
    step = max(busy, parts["input"])
    saving = step_time.checkpoint(
        there.state,
        there.whole,
        device,
        assumed.write_bandwidth,
        step * assumed.save_every,
    )
    parts["checkpoint"] = saving / assumed.save_every
    return {**parts, "step": step + parts["checkpoint"]}


def candidates(
    counted: Counted,
    device: devices.Device,
    devices_n: int,
    batch: int,
    assumed: Assumed,
) -> tuple[list[Candidate], list[Candidate]]:
    """Returns those that fit, the fastest first, and those that do not.

    Of each mesh and policy the fewest microbatches that fit, or the most that there
    can be.
    """
    fit, too_large = [], []
    for mesh in meshes(devices_n, device, counted.blocks):
        ways = mesh.data * mesh.fsdp
        if batch % ways:
            continue
        there = held(counted, mesh)
        for remat in workload.POLICIES:
            found = None
            for accumulate in _divisors(batch // ways):
                images = batch // ways // accumulate
                cut = (counted, mesh, there, remat, images, accumulate)
                found = Candidate(
                    mesh,
                    remat,
                    accumulate,
                    images,
                    memory(*cut),
                    seconds(*cut, device, assumed),
                )
                if found.bytes <= device.memory * assumed.memory_share:
                    fit.append(found)
                    break
            else:
                too_large += [found] if found else []
    fit.sort(key=lambda c: c.seconds["step"])
    too_large.sort(key=lambda c: c.bytes)
    return fit, too_large


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def row(it: Candidate) -> str:
    """Returns a line of the table."""
    ms = {name: f"{value * 1e3:.1f}" for name, value in it.seconds.items()}
    mesh = f"{it.mesh.data} x {it.mesh.fsdp} x {it.mesh.tensor}"
    parts = [ms[name] for name in list(it.seconds) if name != "step"]
    gb = [f"{value / 1e9:.2f}" for value in it.memory.values()]
    return (
        f"| {mesh} | {it.remat} | {it.accumulate} x {it.images} | {ms['step']}"
        f" | {' | '.join(parts)} | {' + '.join(gb)} = {it.bytes / 1e9:.2f} |"
    )


def show(
    fit: list[Candidate], too_large: list[Candidate], most: int, limit: float
) -> None:
    """Prints the candidates, and the recommendation last."""
    every = fit or too_large
    names = [name for name in every[0].seconds if name != "step"]
    heads = ["mesh", "remat", "microbatches x images", "ms/step", *names]
    heads.append(f"GB of a device: {' + '.join(every[0].memory)}")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for it in fit[:most]:
        print(row(it))
    if len(fit) > most:
        print(f"\n{len(fit) - most} more fit and are slower.")
    if too_large:
        print(f"\nDo not fit in {limit / 1e9:.1f} GB, even with one image at a time:\n")
    for it in too_large[:most]:
        mesh = f"data={it.mesh.data} fsdp={it.mesh.fsdp} tensor={it.mesh.tensor}"
        largest = max(it.memory, key=lambda name: it.memory[name])
        print(
            f"- {mesh}, remat={it.remat}: {it.bytes / 1e9:.1f} GB,"
            f" {it.memory[largest] / 1e9:.1f} of them {largest}"
        )
    if len(too_large) > most:
        print(f"- and {len(too_large) - most} more")


def recommend(best: Candidate, batch: int, model_operations: int, peak: float) -> str:
    """Returns the flags of the best candidate, and what they are worth."""
    step = best.seconds["step"]
    share = batch * model_operations / step / (peak * best.mesh.size)
    waits = best.seconds["input"] + best.seconds["checkpoint"] >= step
    return (
        f"--config.mesh.data={best.mesh.data} --config.mesh.fsdp={best.mesh.fsdp} "
        f"--config.mesh.tensor={best.mesh.tensor} --config.model.remat={best.remat} "
        f"--config.train.batch_size={batch} "
        f"--config.train.accumulate={best.accumulate}\n"
        f"{step * 1e3:.1f} ms/step, {batch / step:.0f} images/s, {share:.1%} of the "
        f"peak by the model's operations"
        f"{'; the input decides: --images-per-second' if waits else ''}"
    )


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--config", default="configs/imagenet512.py:uvit", help="recipe, .py or .json")
    add("--set", nargs="*", default=[], help="model.trunk_blocks=8 and the like")
    add("--device", default="v5e", choices=devices.TABLE)
    add("--devices", type=int, default=256)
    add("--batch", type=int, help="images of a step; by default the recipe's")
    add("--most", type=int, default=8, help="candidates shown")
    add("--validate", action="store_true", help="compare with this machine instead")
    add("--json", type=Path, help="also write the figures to this file")
    for name, value in asdict(Assumed()).items():
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=type(value), default=value, help="assumed, see Assumed")
    return parser.parse_args()


def main() -> None:
    """Prints the candidates for a recipe on a cluster, or validates."""
    args = arguments()
    assumed = Assumed(**{name: getattr(args, name) for name in asdict(Assumed())})
    if args.validate:
        # Only here: it runs and compiles, all else traces.
        from benchmarks import scaling_check

        found = scaling_check.validate()
    else:
        tree = recipe.changed(
            recipe.load(args.config), recipe.changes(args.set, "model")
        )
        tree["model"]["dtype"] = "bfloat16"  # as on accelerators
        found = plan(tree, args, assumed)
    if args.json:
        args.json.write_text(json.dumps(found) + "\n")


def plan(
    tree: dict[str, Any], args: argparse.Namespace, assumed: Assumed
) -> dict[str, Any]:
    """Prints and returns what fits, what does not, and the recommendation."""
    device = devices.TABLE[args.device]
    batch = args.batch or tree["train"]["batch_size"]
    counted = count(tree)
    fit, too_large = candidates(counted, device, args.devices, batch, assumed)
    if not fit and not too_large:
        sys.exit(f"error: no mesh of {args.devices} devices divides --batch={batch}")
    print(
        f"{args.devices} x {args.device}, batch {batch}, "
        f"{counted.parameters / 1e9:.3f} G parameters, "
        f"{counted.operations['none'] / 1e12:.2f} TFLOP an image; {asdict(assumed)}\n"
    )
    limit = device.memory * assumed.memory_share
    show(fit, too_large, args.most, limit)
    if fit:
        operations = counted.operations["none"]
        print(f"\n{recommend(fit[0], batch, operations, device.flops)}")
    return {
        "assumed": asdict(assumed),
        "fit": [asdict(it) for it in fit],
        "too_large": [asdict(it) for it in too_large],
    }


if __name__ == "__main__":
    main()
