"""Where every array of a training run lives: the only place that states sharding.

The mesh has three axes. The batch is split over `data` and `fsdp`; parameters,
optimizer state and averages are split over `fsdp` (and `tensor` where a rule says so)
and copied along `data`. One device is the mesh 1 x 1 x 1 and takes the same path as a
pod.

A table of (pattern, rule) decides; the first pattern found in the path of an array
wins. Paths look like `params/trunk/mlp/kernel`, `ema/main/trunk/mlp/kernel` and
`opt_state/1/mu/trunk/mlp/kernel`: a pattern about the end of the path treats a
parameter, its moments and its averages alike.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

Rule = Callable[[tuple[int, ...], Mesh], PartitionSpec]
Rules = Sequence[tuple[str, Rule]]


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Returns the mesh ('data', 'fsdp', 'tensor').

    Args:
      data: devices that hold copies of the state and share the batch.
      fsdp: devices that share both the state and the batch.
      tensor: devices that share the state of single layers.
      devices: all devices by default. At most one axis may be -1, "the rest".

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [data, fsdp, tensor]
    if shape.count(-1) == 1:
        rest = shape.index(-1)
        shape[rest] = len(devices) // max(1, -math.prod(shape))
    if min(shape) < 1 or math.prod(shape) != len(devices):
        raise ValueError(
            f"a mesh of data={data}, fsdp={fsdp}, tensor={tensor} does not cover "
            f"{len(devices)} devices exactly; one of the axes may be -1, the rest"
        )
    # Auto: the compiler places activations. jax's default, Explicit, wants shardings
    # spelt out inside the networks, which know no devices.
    return jax.make_mesh(
        tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=tuple(devices)
    )


def replicate(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """A rule: every device holds the whole array."""
    return PartitionSpec()


def fsdp(min_size: int = 2**14) -> Rule:
    """A rule: the largest axis that divides is split over `fsdp`.

    Arrays of fewer than `min_size` elements are copied instead: gathering a bias costs
    a message each step and saves nothing worth having.
    """

    def rule(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        return _split_largest(shape, mesh, min_size, taken=None)

    return rule


def tensor(axis: int, min_size: int = 2**14) -> Rule:
    """A rule: `axis` is split over `tensor` if it divides, another one over `fsdp`.

    Args:
      axis: counted from the end (-1 is the last), so that it means the same whether or
        not blocks are stacked on the first axis.
      min_size: as in `fsdp`.
    """

    def rule(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        if shape[axis] % mesh.shape["tensor"]:
            return _split_largest(shape, mesh, min_size, taken=None)
        return _split_largest(shape, mesh, min_size, taken=len(shape) + axis)

    return rule


RULES: Rules = ((r".*", fsdp()),)


def _split_largest(
    shape: tuple[int, ...], mesh: Mesh, min_size: int, taken: int | None
) -> PartitionSpec:
    spec: list[str | None] = [None] * len(shape)
    if taken is not None:
        spec[taken] = "tensor"
    ways = mesh.shape["fsdp"]
    fits = [a for a in range(len(shape)) if a != taken and shape[a] % ways == 0]
    if fits and ways > 1 and math.prod(shape) >= min_size:
        # Among equals the last: the output channels, which later layers read whole.
        spec[max(fits, key=lambda a: (shape[a], a))] = "fsdp"
    return PartitionSpec(*spec)


def state_shardings(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Returns a tree of shardings like `tree`, arrays or shapes.

    Raises:
      ValueError: no pattern of the table is found in the path of some array.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, rule in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, rule(tuple(leaf.shape), mesh))
        raise ValueError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: its first axis over all hosts."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole, such as metrics."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: Any) -> str:
    """Returns the path of a leaf as `params/dense/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
