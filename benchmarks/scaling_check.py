"""Compares the paper model with this machine, as far as a CPU can: see `validate`."""

import math
import re
import statistics
import time
from typing import Any

import jax

from benchmarks import accelerator_ours, ours, protocol, recipe, workload
from benchmarks.step_time import Mesh
from simple_diffusion.training import sharding

DEVICES = 8
# Width of the first level, side of the image, images: small and large of each.
SIZES = ((32, 32, 8), (32, 32, 32), (64, 32, 8))
MESHES = (Mesh(8, 1, 1), Mesh(2, 4, 1), Mesh(2, 2, 2), Mesh(1, 8, 1))


def small(width: int = 32, side: int = 32, dtype: str = "float32") -> dict[str, Any]:
    """Returns the U-ViT of 512 pixels, of two levels, two blocks and other widths."""
    return recipe.changed(
        recipe.load("configs/imagenet512.py:uvit"),
        {
            "data.resolution": side,
            "data.num_classes": 8,
            "model.patching": "none",
            "model.channels": [width, 2 * width],
            "model.blocks": [2, 2],
            "model.trunk_channels": 4 * width,
            "model.trunk_blocks": 2,
            # Loops would hide from a reader of the program how often they turn.
            "model.scan_unroll": 2,
            "model.base_channels": width,
            "model.emb_channels": 4 * width,
            "model.attention": "xla",
            "model.remat": "none",
            "model.dtype": dtype,
        },
    )


def compiled(tree: dict[str, Any], mesh: Mesh, images: int) -> tuple[Any, Any, Any]:
    """Returns the compiled step of a mesh, the state's plan, the batch's arrays."""
    devices = jax.devices()[: mesh.size]
    placed = sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor, devices=devices)
    plan, train_step = accelerator_ours.build(tree, placed)
    side = tree["data"]["resolution"]
    spec = protocol.Spec("", resolution=side, batch=images)
    batch = jax.device_put(ours.random_batch(spec), sharding.batch_sharding(placed))
    leaves, structure = jax.tree.flatten(batch)

    # What a compiled program says of its arguments is no batch, which has arrays.
    def on_leaves(state: Any, leaves: Any) -> Any:
        return train_step(state, jax.tree.unflatten(structure, leaves))

    return ours.compile_step(on_leaves, plan, placed, leaves)[0], plan, leaves


def compared(tree: dict[str, Any], mesh: Mesh) -> dict[str, dict[str, int]]:
    """Returns bytes by the model and in the compiled program, on one device.

    held: state and batch. Boxes are no argument of the program: this network does not
      look at them.
    gathered: parameters that a step gathers over `fsdp`. The model gathers all of them
      twice; what the rules leave whole it need not.
    """
    program, plan, (image, label, _, mask) = compiled(tree, mesh, DEVICES)
    share = mesh.data * mesh.fsdp
    batch_bytes = sum(leaf.nbytes // share for leaf in (image, label, mask))
    analysis: Any = program.memory_analysis()
    split = [
        # What `tensor` splits is not gathered over it.
        leaf.size * leaf.dtype.itemsize // (mesh.tensor if "tensor" in spec else 1)
        for leaf in jax.tree.leaves(plan.abstract.params)
        for spec in [leaf.sharding.spec]
        if "fsdp" in spec and mesh.fsdp > 1
    ]
    found = re.findall(r" = (\w+)\[([\d,]*)\]\S* all-gather\(", program.as_text())
    of_type = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1}
    return {
        "held": {
            "model": workload.state_bytes(plan.abstract, mesh) + batch_bytes,
            "compiled": analysis.argument_size_in_bytes,
        },
        "gathered": {
            "model": 2 * sum(split),
            "compiled": sum(
                of_type[dtype] * math.prod(map(int, dims.split(",")))
                for dtype, dims in found
            ),
        },
    }


def measured(tree: dict[str, Any], images: int, steps: int = 3) -> dict[str, float]:
    """Returns operations and median seconds of a step on one device, and its memory."""
    program, plan, batch = compiled(tree, Mesh(), images)
    current, times = program(plan.create(), batch)[0], []
    for _ in range(steps):
        jax.block_until_ready(current)
        start = time.perf_counter()
        current, _ = program(current, batch)
        jax.block_until_ready(current)
        times.append(time.perf_counter() - start)
    analysis: Any = program.memory_analysis()
    return {
        "operations": images * workload.operations(tree),
        "seconds": statistics.median(times),
        "kept": images * (workload.kept(tree).per_image + workload.working(tree)),
        "temporary": analysis.temp_size_in_bytes,
    }


def product_rate(n: int = 2048) -> float:
    """Returns the operations per second of a large matrix product."""
    spec = protocol.Spec("matmul", matmul=n)
    facts, run = ours.prepare_matmul(spec)
    run(1)
    start = time.perf_counter()
    run(3)
    return 3 * facts["flops"] / (time.perf_counter() - start)


def validate() -> dict[str, Any]:
    """Compares what a CPU can tell, and prints it.

    Exact: bytes of state and batch on every mesh, against the compiled program. By how
    much it is off: bytes gathered; time of a step from operations alone, at the share
    of a matrix product that the first network reaches; memory kept. Not compared:
    bandwidths, overlap, several hosts, checkpoints, input, any accelerator.
    """
    # Before the first use of jax.
    jax.config.update("jax_num_cpu_devices", DEVICES)
    found: dict[str, Any] = {"programs": [], "steps": []}
    print("| mesh, dtype | held, bytes: model | compiled", end="")
    print(" | gathered, MB: model | compiled |\n|---|---:|---:|---:|---:|")
    for mesh, dtype in [*((m, "float32") for m in MESHES), (MESHES[-1], "bfloat16")]:
        it = compared(small(dtype=dtype), mesh)
        found["programs"].append({"mesh": str(mesh), "dtype": dtype, **it})
        held, gathered = it["held"], it["gathered"]
        print(
            f"| {mesh.data} x {mesh.fsdp} x {mesh.tensor}, {dtype}"
            f" | {held['model']:,} | {held['compiled']:,}"
            f" | {gathered['model'] / 1e6:.2f} | {gathered['compiled'] / 1e6:.2f} |"
        )
    rate = product_rate()
    print(f"\na matrix product: {rate / 1e9:.0f} GFLOP/s\n")
    print("| width, side, images | ms: model | measured | MB kept: model | compiled |")
    print("|---|---:|---:|---:|---:|")
    share = None
    for width, side, images in SIZES:
        it = measured(small(width, side), images)
        share = share or it["operations"] / it["seconds"] / rate
        it |= {"predicted_seconds": it["operations"] / (rate * share), "share": share}
        found["steps"].append({"size": (width, side, images), **it})
        print(
            f"| {width}, {side}, {images} | {it['predicted_seconds'] * 1e3:.0f}"
            f" | {it['seconds'] * 1e3:.0f} | {it['kept'] / 1e6:.0f}"
            f" | {it['temporary'] / 1e6:.0f} |"
        )
    print(f"\nutilisation taken from the first row: {share:.1%}")
    return found
