"""The topology of a cluster: slices of devices, and which process feeds which device.

Devices of one slice talk over the fast interconnect (ICI, NVLink); slices talk over the
network of the data centre (DCN), which is slower by one or two orders of magnitude.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import mesh_utils


class Shard(NamedTuple):
    """Part `index` of the `count` equal parts of every batch."""

    index: int
    count: int


def arrange_devices(
    devices: Sequence[Any], shape: tuple[int, int, int], slices: int = 1
) -> np.ndarray:
    """Returns the devices as an array [data, fsdp, tensor] that fits the network.

    The data axis spans the slices, because it only carries gradients, once per step.
    `fsdp` and `tensor` exchange parameters and activations in every layer and stay
    inside a slice.

    Args:
      devices: all of them.
      shape: devices along each axis.
      slices: see `group_by_slice`.

    Raises:
      ValueError: there are no such slices, or they do not divide the data axis.
    """
    groups = group_by_slice(devices, slices)
    data, *inner = shape
    if data % len(groups):
        raise ValueError(
            f"mesh.data={data} must be a multiple of the {len(groups)} slices "
            f"(mesh.slices={slices}), or mesh.fsdp and mesh.tensor would span the "
            "slow network between them"
        )
    slice_shape = (data // len(groups), *inner)
    return np.concatenate(
        [
            mesh_utils.create_device_mesh(
                slice_shape, group, allow_split_physical_axes=True
            )
            for group in groups
        ]
    )


def group_by_slice(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """Returns the devices of each slice.

    Args:
      devices: their attribute `slice_index` gives the physical slice; on platforms
        without it, the devices of one process form a slice.
      slices: number of slices. 1 ignores slices, -1 takes the physical ones, a number
        in between joins neighbours.

    Raises:
      ValueError: the number does not divide the number of physical slices, or slices
        would have unequal sizes.
    """
    key = "slice_index"
    if not all(hasattr(device, key) for device in devices):
        key = "process_index"
    slice_ids = [getattr(device, key) for device in devices]
    physical = sorted(set(slice_ids))
    if slices == 1:
        # Each TPU slice is a separate torus; other networks connect all devices.
        if len(physical) > 1 and key == "slice_index" and devices[0].platform == "tpu":
            raise ValueError(
                f"the devices are in {len(physical)} slices; set mesh.slices=-1, and "
                f"mesh.data to a multiple of {len(physical)}"
            )
        return [list(devices)]
    count = len(physical) if slices == -1 else slices
    if count < 1 or len(physical) % count:
        raise ValueError(
            f"mesh.slices={slices} does not divide the {len(physical)} slices that the "
            f"devices are in by their {key}; -1 takes them as they are, 1 ignores them"
        )
    joined = len(physical) // count
    groups = [
        [
            d
            for d, p in zip(devices, slice_ids, strict=True)
            if p in physical[k : k + joined]
        ]
        for k in range(0, len(physical), joined)
    ]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(
            f"the {count} slices (mesh.slices={slices}) have unequal numbers of "
            f"devices, {[len(group) for group in groups]}; use mesh.slices=1"
        )
    return groups


def shard_of(held: Iterable[tuple[int, int]], process: int) -> Shard:
    """Returns the shard of each batch that a process has to read.

    Processes that hold the same rows get the same shard. Shards are numbered by their
    first rows.

    Args:
      held: (process, number of the row block) for every device; the rows of a batch are
        cut into equal blocks along the mesh, numbered from 0.
      process: number of the process.

    Raises:
      ValueError: the rows of the processes overlap, or are unequal in number.
    """
    rows: dict[int, set[int]] = {}
    for owner, number in held:
        rows.setdefault(owner, set()).add(number)
    parts = sorted({tuple(sorted(numbers)) for numbers in rows.values()})
    blocks = [number for part in parts for number in part]
    if len(blocks) != len(set(blocks)) or len({len(part) for part in parts}) > 1:
        raise ValueError(
            "the processes cannot read a batch in equal, separate parts: their devices "
            f"hold the rows {[list(part) for part in parts]}; mesh.tensor must divide "
            "the devices of a process, or be a multiple of them"
        )
    return Shard(parts.index(tuple(sorted(rows[process]))), len(parts))
