"""Where every array of a training run lives: the only place that states sharding.

The mesh has three axes. The batch is split over `data` and `fsdp`; parameters,
optimizer state and averages are split over `fsdp` (and `tensor` where a rule says so)
and copied along `data`. One device is the mesh 1 x 1 x 1 and takes the same path as a
pod.

A table of (pattern, rule) decides; the first pattern found in the path of an array
wins. Paths look like `params/trunk/blocks/mlp/dense_1/kernel`, and
`ema/main/trunk/...` and `opt_state/1/mu/trunk/...`: a pattern about the end of the path
treats a parameter, its moments and its averages alike.

Shardings of parameters and batch alone leave it to the compiler where feature maps
live. Of a kernel that is split over `fsdp` it then multiplies by the part that a device
holds, for which every device needs the examples of all the others: tensor parallelism,
with the feature maps of the whole batch on each device, where FSDP was meant. So
`pin_maps` pins the maps that the modules of a network return to the devices of their
examples while the program is traced, and it is the kernels that travel.
"""

import math
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)

from simple_diffusion.training import topology
from simple_diffusion.training.topology import Share

AXES = ("data", "fsdp", "tensor")

Shape = tuple[int, ...]
# The shape of an array by its path relative to the array at hand, if there is one.
Find = Callable[[str], Shape | None]
# Rules need only the lengths of the axes, which a mesh without devices has too.
AnyMesh = Mesh | AbstractMesh
Rule = Callable[[Shape, AnyMesh, Find], PartitionSpec]
Rules = Sequence[tuple[str, Rule]]

# Arrays of a scan over blocks: stacked on the first axis.
_STACKED = re.compile(r"(^|/)blocks/")
_FREE = PartitionSpec.UNCONSTRAINED


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
    slices: int = 1,
) -> Mesh:
    """Returns the mesh ('data', 'fsdp', 'tensor').

    Args:
      data: devices that hold copies of the state and share the batch.
      fsdp: devices that share both the state and the batch.
      tensor: devices that share the state of single layers.
      devices: all devices by default. At most one axis may be -1, "the rest".
      slices: parts of the cluster between which the network is slow; the data axis goes
        over them. See `topology.slices_of`.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or do not suit the
        slices.
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
    data, fsdp, tensor = shape
    # Auto: the compiler places activations. jax's default, Explicit, wants shardings
    # spelt out inside the networks, which know no devices.
    return Mesh(
        topology.arrange(devices, (data, fsdp, tensor), slices),
        AXES,
        axis_types=(AxisType.Auto,) * 3,
    )


def replicate(shape: Shape, mesh: AnyMesh, find: Find | None = None) -> PartitionSpec:
    """A rule: every device holds the whole array."""
    return PartitionSpec()


def fsdp(min_size: int = 2**14) -> Rule:
    """A rule: the largest axis that divides is split over `fsdp`.

    Arrays of fewer than `min_size` elements are copied instead: gathering a bias costs
    a message each step and saves nothing worth having.
    """

    def rule(shape: Shape, mesh: AnyMesh, find: Find | None = None) -> PartitionSpec:
        return _split_largest(shape, mesh, min_size, taken=None)

    return rule


def tensor(axis: int, heads: str | None = None, min_size: int = 2**14) -> Rule:
    """A rule: `axis` is split over `tensor` if it divides, another one over `fsdp`.

    Args:
      axis: counted from the end, -1 is the last.
      heads: relative path of an array whose last axis but two is that of attention
        heads, for an axis on which heads and their features are merged: it is split
        only between heads.
      min_size: as in `fsdp`.
    """

    def rule(shape: Shape, mesh: AnyMesh, find: Find | None = None) -> PartitionSpec:
        ways, whole = mesh.shape["tensor"], shape[axis]
        if heads is not None and find is not None:
            beside = find(heads)
            whole = whole if beside is None else beside[-3]
        if ways == 1 or whole % ways:
            return _split_largest(shape, mesh, min_size, taken=None)
        return _split_largest(shape, mesh, min_size, taken=len(shape) + axis)

    return rule


def table(min_size: int = 2**14) -> Rules:
    """Returns the rules for all networks here; `min_size` as in `fsdp`.

    Tensor parallelism is that of transformer blocks, and of attention in U-Nets: the
    first map of a pair is split by its outputs, the second by its inputs, so that one
    sum over `tensor` closes each pair. Heads or widths that do not divide are not
    split, and everything else is FSDP.
    """
    return (
        (r"mlp/dense_1/(kernel|bias)$", tensor(-1, min_size=min_size)),
        (r"mlp/film/dense/(kernel|bias)$", tensor(-1, min_size=min_size)),
        (r"mlp/dense_2/kernel$", tensor(-2, min_size=min_size)),
        (r"attention/qkv/(kernel|bias)$", tensor(-3, min_size=min_size)),
        (r"attention/out/kernel$", tensor(-2, "../../qkv/bias", min_size)),
        (r".*", fsdp(min_size)),
    )


RULES = table()


def _split_largest(
    shape: Shape, mesh: AnyMesh, min_size: int, taken: int | None
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


def state_shardings(tree: Any, mesh: AnyMesh, rules: Rules = RULES) -> Any:
    """Returns a tree of shardings like `tree`, arrays or shapes.

    Of blocks that are stacked for a scan, a rule sees the shape of one: the axis of the
    stack stays whole, or every turn of the scan would gather all blocks.

    Raises:
      ValueError: no pattern of the table is found in the path of some array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes = {path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        shape = shapes[name]

        def find(relative: str) -> Shape | None:
            return shapes.get(posixpath.normpath(posixpath.join(name, relative)))

        for pattern, rule in rules:
            if not re.search(pattern, name):
                continue
            if _STACKED.search(name) and shape:
                spec = PartitionSpec(None, *rule(shape[1:], mesh, find))
            else:
                spec = rule(shape, mesh, find)
            return NamedSharding(mesh, spec)
        raise ValueError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: its first axis over all hosts."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def batch_shardings(
    mesh: Mesh, split_rows: bool = False
) -> Callable[[int], NamedSharding]:
    """Returns the sharding of an array of a batch by its rank.

    Args:
      mesh: the devices.
      split_rows: whether the rows of pixels of each image, the one array of rank 4, are
        split over `tensor`, too. The compiler then splits all feature maps likewise:
        for images so large that the activations of one do not fit on a device.
    """
    examples = batch_sharding(mesh)
    rows = NamedSharding(mesh, PartitionSpec(*examples.spec, "tensor"))
    return lambda rank: rows if split_rows and rank == 4 else examples


def share(mesh: Mesh) -> Share:
    """Returns which part of each batch this process has to read.

    It follows from the devices and not from the number of the process: where `tensor`
    goes over several processes they hold the same examples. The rows that a process
    holds need not follow one another; the batch of all processes then has the examples
    of one process's batch in another order.

    Raises:
      ValueError: the processes' rows overlap, or are unequal in number.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = batch_sharding(mesh).devices_indices_map((ways,))
    held = [(device.process_index, at[0].start or 0) for device, at in rows.items()]
    return topology.share_of(held, jax.process_index())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole, such as metrics."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: Any) -> str:
    """Returns the path of a leaf as `params/dense/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def pin_maps(
    function: Callable[..., Any], mesh: Mesh, split_rows: bool = False
) -> Callable[..., Any]:
    """Returns the function, to be jitted, with the feature maps in it pinned.

    With a single device it is returned as it is.

    Each map [b, h, w, ...] that a linen module returns is split over `data` and `fsdp`
    by its first axis. Whether and how it is split over `tensor` stays the compiler's
    choice, unless rows are. Batches that the devices cannot share equally are left
    alone.

    Args:
      function: such as a training step.
      mesh: the devices it is compiled for.
      split_rows: whether maps are split over `tensor` by their rows, in transformer
        blocks too: kernels then travel over `tensor` as they do over `fsdp`. Maps with
        fewer rows than devices are left to the compiler.
    """
    if mesh.size == 1:
        return function
    ways = mesh.shape["data"] * mesh.shape["fsdp"]

    def pin(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 4 or x.shape[0] % ways:
            return x
        split = split_rows and x.shape[1] % mesh.shape["tensor"] == 0
        rows = "tensor" if split else _FREE
        spec = PartitionSpec(("data", "fsdp"), rows, *(_FREE,) * (x.ndim - 2))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return pin(call(*args, **kwargs))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return function(*args, **kwargs)

    return wrapped
