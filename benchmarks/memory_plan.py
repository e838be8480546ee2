"""Predicts the memory per device of a recipe's training step; allocates nothing.

    python -m benchmarks.memory_plan --config configs/imagenet512.py:uvit \\
        --devices 64 --hbm 16

For each remat policy a process compiles the step for this number of virtual devices and
reads the compiler's statistics. The result is three figures of different kinds:

state: bytes of parameters, optimizer state and averages on one device. Exact: they
    follow from the shardings.
saved: bytes of the forward pass that the backward pass needs, counted in the traced
    program for the examples of one device, independent of the compiler. The temporary
    memory is this, minus what the compiler stores in fewer bits or recomputes, plus
    what one block needs during its computation.
temporary: memory that the compiler needs beyond the state. The figure of the CPU
    compiler exceeds that of an accelerator two to four times: it computes bfloat16 in
    float32 and fuses less. With --topology, such as v5e:8x8, it is the figure of the
    TPU compiler, which needs the package libtpu but no TPU.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import protocol, recipe

GIB = 2**30
POLICIES = ("none", "dots", "dots_no_batch", "full")
# Of what is counted as saved, a compiler may keep bfloat16 where the program says
# float32, and so at most leave out this share.
SPARED = 0.5
# Quick to compile: what runs never is not optimised. Buffers are assigned before that.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description="Memory per device, ahead of time.")
    add = parser.add_argument
    add("--config", required=True, help="configs/x.py, configs/x.py:variant or x.json")
    add("--devices", type=int, required=True)
    add("--hbm", type=float, default=16.0, help="memory of a device in GiB")
    add("--mesh", default="", help="data=8,fsdp=8,tensor=1; by default the recipe's")
    add("--batch", type=int, help="of all devices; by default the recipe's")
    add("--remat", nargs="+", default=POLICIES, choices=POLICIES)
    add("--topology", help="compile for TPUs, such as v5e:8x8; needs libtpu")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe")
    add("--json", type=Path, help="also write the figures to this file")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def planned(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the recipe with the flags applied."""
    changes = recipe.changes(filter(None, args.mesh.split(",")), "mesh")
    changes |= recipe.changes(args.set)
    if args.batch:
        changes["train.batch_size"] = args.batch
    plain = recipe.load(args.config)
    if plain["model"].get("dtype") is None:
        changes.setdefault("model.dtype", "bfloat16")  # as on every accelerator
    # The compiler sees products: kernels of flash attention are not for all platforms.
    changes["model.attention"] = "xla"
    return recipe.changed(plain, changes)


def measure(args: argparse.Namespace, remat: str) -> dict[str, Any]:
    """Returns the figures of one policy, from a process with so many devices."""
    command = [sys.executable, "-m", "benchmarks.memory_plan", *sys.argv[1:]]
    command.append("--worker")
    flags = f"--xla_force_host_platform_device_count={args.devices} {QUICK}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU to be asked what it is
        "MEMORY_PLAN_REMAT": remat,
    }
    run = subprocess.run(
        command, cwd=protocol.ROOT, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"remat={remat}: {run.stderr[-3000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def work(args: argparse.Namespace, remat: str) -> dict[str, Any]:
    """Traces and compiles the step for one policy; returns its figures."""
    # Not at the top: the process that only prints needs no devices.
    import jax

    from simple_diffusion.build import diffusion, network, training
    from simple_diffusion.training import sharding, state, step

    plain = recipe.changed(planned(args), {"model.remat": remat})
    config = recipe.sections(plain)
    devices = _devices(args.topology)
    mesh = training.build_mesh(config, devices)
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    training.check_batch(batch_size, mesh, accumulate)
    # A source that is not asked has no classes here: their table is small.
    model = network.build_network(config, config.data.num_classes or 0)
    objective = diffusion.build_objective(config, model)
    averages = training.build_averages(config)
    adam = training.build_optimizer(config, config.train.total_steps or 10**6)
    plan = state.blueprint(model.init, adam, averages, mesh=mesh)
    split_rows = config.mesh.split_rows
    place = sharding.batch_shardings(mesh, split_rows)
    jitted = jax.jit(
        sharding.pin_feature_maps(
            step.make_train_step(objective, adam, averages, accumulate=accumulate),
            mesh,
            split_rows,
        ),
        in_shardings=(plan.shardings, None),
        out_shardings=(plan.shardings, sharding.replicated_sharding(mesh)),
        donate_argnums=0,
    )
    side = config.data.resolution
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    at_once = batch_size // ways // accumulate
    facts: dict[str, Any] = {
        "remat": remat,
        "mesh": dict(mesh.shape),
        "images": batch_size // ways,
        "at_once": at_once,
        "state": sum(map(_on_one_device, jax.tree.leaves(plan.abstract))),
        # Not divided by mesh.tensor: maps of convolutions are whole on each device.
        "saved": _saved(objective, plan.abstract.params, side) * at_once,
    }
    start = time.perf_counter()
    lowered = jitted.lower(plan.abstract, _batch(batch_size, side, place))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # the TPU compiler knows its memory
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        facts["refused"] = str(error).splitlines()[0][:300]
    else:
        analysis: Any = compiled.memory_analysis()
        for name in ("argument", "output", "alias", "temp", "generated_code"):
            facts[name] = getattr(analysis, f"{name}_size_in_bytes")
    facts["seconds"] = time.perf_counter() - start
    facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return facts


def _devices(topology: str | None) -> list[Any]:
    import jax
    from jax.experimental import topologies

    if topology is None:
        return jax.devices()
    return topologies.get_topology_desc(topology, platform="tpu").devices


def _batch(size: int, side: int, place: Any = None) -> Any:
    """Returns a batch as shapes, placed by rank if it is said how."""
    import jax
    import numpy as np

    from simple_diffusion.core.types import Batch

    def array(dtype: Any, *shape: int) -> Any:
        where = place(len(shape)) if place else None
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    return Batch(
        image=array(np.uint8, size, side, side, 3),
        label=array(np.int32, size),
        box=array(np.float32, size, 4),
        mask=array(np.bool_, size),
    )


def _saved(objective: Any, params: Any, side: int) -> int:
    """Returns the bytes of one example that the backward pass needs of the forward."""
    import jax
    import jax.numpy as jnp

    def backward(params: Any, batch: Any) -> Any:
        draw = objective.draw(jax.random.key(0), batch)
        return jax.vjp(lambda p: jnp.sum(objective(p, batch, draw)[0]), params)[1]

    def held(images: int) -> int:
        leaves = jax.tree.leaves(jax.eval_shape(backward, params, _batch(images, side)))
        return sum(v.dtype.itemsize * math.prod(v.shape) for v in leaves)

    return held(2) - held(1)  # without what is held whatever the batch: parameters


def _on_one_device(leaf: Any) -> int:
    return leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))


def verdict(facts: dict[str, Any], hbm: float, is_exact: bool) -> str:
    """Returns whether a policy fits, as far as its figures tell."""
    least = facts["state"] + (1 - SPARED) * facts["saved"]
    if "refused" in facts or least > hbm * GIB:
        return "no"
    if total(facts) <= hbm * GIB:
        return "yes"
    return "no" if is_exact else "open"


def total(facts: dict[str, Any]) -> int:
    """Returns all that the compiled program wants, in bytes."""
    return sum(facts[k] for k in ("argument", "output", "temp")) - facts["alias"]


def show(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints the table, and what follows from it."""
    about = rows[0]
    axes = " x ".join(f"{name} {n}" for name, n in about["mesh"].items())
    compiler = f"the TPU compiler ({args.topology})" if args.topology else "XLA for CPU"
    print(f"{args.config} on {args.devices} devices, {axes}; {args.hbm:g} GiB each")
    print(
        f"{about['images']} images a device, {about['at_once']} at once;"
        f" bfloat16 unless the recipe says otherwise; compiled by {compiler}\n"
    )
    print("| remat | state GiB | saved | temporary | in all | fits |")
    print("|---|---:|---:|---:|---:|---|")
    for row in rows:
        temporary = whole = "refused"
        if "refused" not in row:
            temporary, whole = (f"{v / GIB:.2f}" for v in (row["temp"], total(row)))
        fits = verdict(row, args.hbm, bool(args.topology))
        print(
            f"| {row['remat']} | {row['state'] / GIB:.2f} | {row['saved'] / GIB:.2f}"
            f" | {temporary} | {whole} | {fits} |"
        )
    for row in rows:
        if "refused" in row:
            print(f"\n{row['remat']}: {row['refused']}")
    print(f"\n{conclusion(rows, args.hbm, bool(args.topology))}")


def conclusion(rows: list[dict[str, Any]], hbm: float, is_exact: bool) -> str:
    """Returns one sentence: which policy to take."""
    found = {row["remat"]: verdict(row, hbm, is_exact) for row in rows}
    # From the least arithmetic to the most.
    ordered = [name for name in POLICIES if name in found]
    fits = next((name for name in ordered if found[name] == "yes"), None)
    if fits:
        text = f"It fits with --config.model.remat={fits}."
    elif "open" in found.values():
        text = "It may fit."
    else:
        text = (
            "It does not fit: a larger mesh.fsdp on more devices, a smaller "
            "train.batch_size, or a larger train.accumulate."
        )
    unsure = [name for name in ordered if found[name] == "open"]
    if unsure:
        text += (
            f" Open: {', '.join(unsure)}. The CPU's figure is well above an "
            "accelerator's; --topology asks the TPU compiler."
        )
    return text


def main() -> None:
    """Measures each policy, prints the table and all of it as JSON."""
    args = arguments()
    if args.worker:
        print(json.dumps(work(args, os.environ["MEMORY_PLAN_REMAT"])))
        return
    rows = []
    for remat in args.remat:
        print(f"compiling with remat={remat}", file=sys.stderr)
        rows.append(measure(args, remat))
    show(args, rows)
    result = json.dumps({"about": protocol.about(args), "rows": rows})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
