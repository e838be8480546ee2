"""Where devices stand: the slices of a cluster, and which process feeds which of them.

Devices of one slice talk over the fast interconnect (ICI, NVLink); slices talk over the
network of the data centre (DCN), which is slower by one or two orders of magnitude.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import mesh_utils


class Share(NamedTuple):
    """Part `index` of the `count` equal parts that every batch is read in."""

    index: int
    count: int


def arrange(
    devices: Sequence[Any], shape: tuple[int, int, int], slices: int = 1
) -> np.ndarray:
    """Returns the devices as an array [data, fsdp, tensor] that suits their wiring.

    The data axis goes over the slices: along it only gradients travel, once a step,
    while `fsdp` and `tensor` exchange parameters and activations in every layer and
    stay inside a slice.

    Args:
      devices: all of them.
      shape: devices along each axis.
      slices: see `slices_of`.

    Raises:
      ValueError: there are no such slices, or the data axis cannot go over them.
    """
    groups = slices_of(devices, slices)
    data, *inner = shape
    if data % len(groups):
        raise ValueError(
            f"mesh.data={data} must be a multiple of the {len(groups)} slices "
            f"(mesh.slices={slices}), or mesh.fsdp and mesh.tensor would go over the "
            "slow network between them"
        )
    each = (data // len(groups), *inner)
    return np.concatenate(
        [
            mesh_utils.create_device_mesh(each, group, allow_split_physical_axes=True)
            for group in groups
        ]
    )


def slices_of(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """Returns the devices of each slice.

    Args:
      devices: a device says by `slice_index` where it stands; on platforms whose
        devices say nothing, those of one process stand together.
      slices: how many there shall be: 1 is none, -1 takes as many as the devices say, a
        number between joins neighbours.

    Raises:
      ValueError: the number does not divide that of the devices' own slices, or slices
        would be of unequal size.
    """
    key = "slice_index"
    if not all(hasattr(device, key) for device in devices):
        key = "process_index"
    place = [getattr(device, key) for device in devices]
    own = sorted(set(place))
    if slices == 1:
        # TPU slices are tori of their own; other networks join all devices somehow.
        if len(own) > 1 and key == "slice_index" and devices[0].platform == "tpu":
            raise ValueError(
                f"the devices are in {len(own)} slices; set mesh.slices=-1, and "
                f"mesh.data to a multiple of {len(own)}"
            )
        return [list(devices)]
    count = len(own) if slices == -1 else slices
    if count < 1 or len(own) % count:
        raise ValueError(
            f"mesh.slices={slices} does not divide the {len(own)} slices that the "
            f"devices are in by their {key}; -1 takes them as they are, 1 ignores them"
        )
    joined = len(own) // count
    groups = [
        [d for d, p in zip(devices, place, strict=True) if p in own[k : k + joined]]
        for k in range(0, len(own), joined)
    ]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(
            f"the {count} slices (mesh.slices={slices}) have unequal numbers of "
            f"devices, {[len(group) for group in groups]}; use mesh.slices=1"
        )
    return groups


def share_of(held: Iterable[tuple[int, int]], process: int) -> Share:
    """Returns which part of each batch a process has to read.

    Processes that hold the same rows get the same share. Parts are numbered by their
    first rows.

    Args:
      held: (process, number of the rows) for every device; the rows of a batch are cut
        into as many runs as the mesh says, numbered from 0.
      process: whose share is asked for.

    Raises:
      ValueError: the processes' rows overlap, or are unequal in number.
    """
    rows: dict[int, set[int]] = {}
    for owner, number in held:
        rows.setdefault(owner, set()).add(number)
    parts = sorted({tuple(sorted(numbers)) for numbers in rows.values()})
    every = [number for part in parts for number in part]
    if len(every) != len(set(every)) or len({len(part) for part in parts}) > 1:
        raise ValueError(
            "the processes cannot read a batch in equal, separate parts: their devices "
            f"hold the rows {[list(part) for part in parts]}; mesh.tensor must divide "
            "the devices of a process, or be a multiple of them"
        )
    return Share(parts.index(tuple(sorted(rows[process]))), len(parts))
