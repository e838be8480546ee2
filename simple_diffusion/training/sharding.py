"""The sharding of every array of a training run; no other module states shardings.

The mesh has three axes. The batch is split over `data` and `fsdp`; parameters,
optimizer state and averages are split over `fsdp` (by some rules, also over `tensor`)
and replicated along `data`. One device is the mesh 1 x 1 x 1 and runs the same code as
a pod.

A table of (pattern, rule) selects the sharding; the first pattern that matches the path
of an array wins. Paths look like `params/trunk/blocks/mlp/dense_1/kernel`, and
`ema/main/trunk/...` and `opt_state/1/mu/trunk/...`. A pattern for the end of the path
therefore treats a parameter, its moments and its averages alike.

If only parameters and batch have shardings, the compiler chooses those of the feature
maps. With a kernel that is split over `fsdp` it then multiplies by the local part of
the kernel, for which every device needs the examples of all others: tensor parallelism,
with the feature maps of the full batch on each device, instead of FSDP. So
`pin_feature_maps` constrains the outputs of all modules to the devices of their
examples during tracing, and the kernels are communicated instead.
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
from simple_diffusion.training.topology import Shard

AXES = ("data", "fsdp", "tensor")

Shape = tuple[int, ...]
# The path of an array, relative to the current one -> its shape, if there is one.
FindShape = Callable[[str], Shape | None]
# Rules need only the lengths of the axes, which an abstract mesh has too.
AnyMesh = Mesh | AbstractMesh
Rule = Callable[[Shape, AnyMesh, FindShape], PartitionSpec]
Rules = Sequence[tuple[str, Rule]]

# Parameters of a scan over blocks are stacked on the first axis.
_STACKED = re.compile(r"(^|/)blocks/")
_UNCONSTRAINED = PartitionSpec.UNCONSTRAINED


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
    slices: int = 1,
) -> Mesh:
    """Returns the mesh ('data', 'fsdp', 'tensor').

    Args:
      data: replicas of the state, between which the batch is split.
      fsdp: devices over which both the state and the batch are split.
      tensor: devices over which single layers are split.
      devices: all devices by default. At most one axis may be -1, the remaining ones.
      slices: parts of the cluster between which the network is slow; the data axis
        spans them. See `topology.group_by_slice`.

    Raises:
      ValueError: the product of the axes is not the number of devices, or the slices
        do not divide the data axis.
    """
    devices = jax.devices() if devices is None else devices
    shape = [data, fsdp, tensor]
    if shape.count(-1) == 1:
        free = shape.index(-1)
        shape[free] = len(devices) // max(1, -math.prod(shape))
    if min(shape) < 1 or math.prod(shape) != len(devices):
        raise ValueError(
            f"a mesh of data={data}, fsdp={fsdp}, tensor={tensor} does not cover "
            f"{len(devices)} devices exactly; one of the axes may be -1, the rest"
        )
    data, fsdp, tensor = shape
    # Auto: the compiler shards activations. jax's default, Explicit, needs shardings
    # inside the networks, which know no devices.
    return Mesh(
        topology.arrange_devices(devices, (data, fsdp, tensor), slices),
        AXES,
        axis_types=(AxisType.Auto,) * 3,
    )


def replicate(
    shape: Shape, mesh: AnyMesh, find: FindShape | None = None
) -> PartitionSpec:
    """A rule: every device holds the full array."""
    return PartitionSpec()


def fsdp(min_size: int = 2**14) -> Rule:
    """A rule: the largest divisible axis is split over `fsdp`.

    Arrays of fewer than `min_size` elements are replicated: gathering a bias would cost
    a message per step and save almost no memory.
    """

    def rule(
        shape: Shape, mesh: AnyMesh, find: FindShape | None = None
    ) -> PartitionSpec:
        return _split_largest(shape, mesh, min_size, tensor_axis=None)

    return rule


def tensor(axis: int, heads: str | None = None, min_size: int = 2**14) -> Rule:
    """A rule: `axis` is split over `tensor` if divisible, another one over `fsdp`.

    Args:
      axis: counted from the end, -1 is the last.
      heads: for an axis that merges attention heads and their features: relative path
        of an array whose third-last axis is that of the heads. The axis is then split
        only between heads.
      min_size: as in `fsdp`.
    """

    def rule(
        shape: Shape, mesh: AnyMesh, find: FindShape | None = None
    ) -> PartitionSpec:
        parts, units = mesh.shape["tensor"], shape[axis]
        if heads is not None and find is not None:
            other = find(heads)
            units = units if other is None else other[-3]
        if parts == 1 or units % parts:
            return _split_largest(shape, mesh, min_size, tensor_axis=None)
        return _split_largest(shape, mesh, min_size, tensor_axis=len(shape) + axis)

    return rule


def default_rules(min_size: int = 2**14) -> Rules:
    """Returns the rules for all networks of the library; `min_size` as in `fsdp`.

    Tensor parallelism applies to transformer blocks and to attention in U-Nets. The
    first linear map of a pair is split by its outputs, the second by its inputs. Each
    pair then needs one sum over `tensor`. Heads or widths that are not divisible are
    not split, and all other arrays use FSDP.
    """
    return (
        (r"mlp/dense_1/(kernel|bias)$", tensor(-1, min_size=min_size)),
        (r"mlp/film/dense/(kernel|bias)$", tensor(-1, min_size=min_size)),
        (r"mlp/dense_2/kernel$", tensor(-2, min_size=min_size)),
        (r"attention/qkv/(kernel|bias)$", tensor(-3, min_size=min_size)),
        (r"attention/out/kernel$", tensor(-2, "../../qkv/bias", min_size)),
        (r".*", fsdp(min_size)),
    )


RULES = default_rules()


def _split_largest(
    shape: Shape, mesh: AnyMesh, min_size: int, tensor_axis: int | None
) -> PartitionSpec:
    spec: list[str | None] = [None] * len(shape)
    if tensor_axis is not None:
        spec[tensor_axis] = "tensor"
    parts = mesh.shape["fsdp"]
    axes = [a for a in range(len(shape)) if a != tensor_axis and shape[a] % parts == 0]
    if axes and parts > 1 and math.prod(shape) >= min_size:
        # Of equally long axes the last one: the output channels.
        spec[max(axes, key=lambda a: (shape[a], a))] = "fsdp"
    return PartitionSpec(*spec)


def state_shardings(tree: Any, mesh: AnyMesh, rules: Rules = RULES) -> Any:
    """Returns a tree of shardings like `tree`, arrays or shapes.

    For blocks that are stacked for a scan, a rule sees the shape of one block. The
    stacked axis is never split, or every iteration of the scan would gather all blocks.

    Raises:
      ValueError: no pattern of the table matches the path of some array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes = {path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    def leaf_sharding(path: Any, leaf: Any) -> NamedSharding:
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

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the arrays of a batch: the first axis is split."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def batch_shardings(
    mesh: Mesh, split_rows: bool = False
) -> Callable[[int], NamedSharding]:
    """Returns a function from the rank of an array of a batch to its sharding.

    Args:
      mesh: the devices.
      split_rows: whether the rows of images and maps, the arrays of rank 4, are also
        split over `tensor`. The compiler then splits all feature maps likewise. For
        images so large that the activations of one do not fit on a device.
    """
    examples = batch_sharding(mesh)
    rows = NamedSharding(mesh, PartitionSpec(*examples.spec, "tensor"))
    return lambda rank: rows if split_rows and rank == 4 else examples


def data_shard(mesh: Mesh) -> Shard:
    """Returns the shard of each batch that this process has to read.

    It depends on the devices and not on the number of the process: processes that
    `tensor` spans hold the same examples. The rows of a process need not be
    consecutive; the global batch then has the examples in another order than the batch
    of a single process.

    Raises:
      ValueError: the rows of the processes overlap, or are unequal in number.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = batch_sharding(mesh).devices_indices_map((parts,))
    held = [(device.process_index, at[0].start or 0) for device, at in rows.items()]
    return topology.shard_of(held, jax.process_index())


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of replicated arrays, such as metrics."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: Any) -> str:
    """Formats the path of a leaf as `params/dense/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def pin_feature_maps(
    function: Callable[..., Any], mesh: Mesh, split_rows: bool = False
) -> Callable[..., Any]:
    """Returns the function, to be jitted, with constraints on its feature maps.

    With a single device the function is returned unchanged.

    Each map [b, h, w, ...] that a linen module returns is split over `data` and `fsdp`
    by its first axis. The compiler chooses the split over `tensor`, unless
    `split_rows`. Batches that are not divisible by the devices are not constrained.

    Args:
      function: such as a training step.
      mesh: the devices it is compiled for.
      split_rows: whether maps are split over `tensor` by their rows, in transformer
        blocks too. Kernels are then communicated over `tensor` as over `fsdp`. Maps
        whose rows are not divisible are left to the compiler.
    """
    if mesh.size == 1:
        return function
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def pin(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 4 or x.shape[0] % parts:
            return x
        has_split_rows = split_rows and x.shape[1] % mesh.shape["tensor"] == 0
        rows = "tensor" if has_split_rows else _UNCONSTRAINED
        spec = PartitionSpec(("data", "fsdp"), rows, *(_UNCONSTRAINED,) * (x.ndim - 2))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return pin(call(*args, **kwargs))

    def call_pinned(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return function(*args, **kwargs)

    return call_pinned
