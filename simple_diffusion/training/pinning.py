"""Keeping each example on its devices, from outside the networks, which know none.

Shardings of parameters and batch alone leave it to the compiler where feature maps
live. Of a kernel that is split over `fsdp` it then multiplies by the part that a device
holds, for which every device needs the examples of all the others: tensor parallelism,
with the feature maps of the whole batch on each device, where FSDP was meant. So the
maps that the modules of a network return are pinned to the devices of their examples
while the program is traced, and it is the kernels that travel.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_FREE = PartitionSpec.UNCONSTRAINED


def pinned(
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
