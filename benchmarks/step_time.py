"""Formulas for the time of a training step on many devices.

Units are bytes, seconds, and bytes or operations per second. Latencies are neglected,
because whole layers are sent at once. Every function states its assumptions;
`scaling_model` combines them, and README.md here says which of them were compared with
a measurement.
"""

import math
from dataclasses import dataclass

from benchmarks.devices import Device


@dataclass(frozen=True)
class Mesh:
    """Devices along the axes of `training.sharding`; `tensor` are next neighbours."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """The number of devices."""
        return self.data * self.fsdp * self.tensor

    def stride(self, axis: str) -> int:
        """Returns how many devices lie between neighbours along an axis."""
        inner = {"tensor": 1, "fsdp": self.tensor, "data": self.tensor * self.fsdp}
        return inner[axis]


def ring(nbytes: float, n: int, bandwidth: float) -> float:
    """Returns the time in which n devices gather an array, or reduce-scatter it.

    Each sends n - 1 of its n parts on: the least that any scheme can.

    Args:
      nbytes: of the whole array.
      n: devices that hold a part each.
      bandwidth: with which each device sends, and receives at the same time.
    """
    return nbytes * (n - 1) / n / bandwidth


def inside(mesh: Mesh, axis: str, device: Device) -> int:
    """Returns how many devices of a group along an axis one island holds."""
    n = getattr(mesh, axis)
    return max(1, min(n, device.island // mesh.stride(axis)))


def link(mesh: Mesh, axis: str, device: Device) -> float:
    """Returns the bandwidth of fast links that a group along an axis can use.

    A switch gives all of it to any group. The axes of a torus are divided: each other
    axis of the mesh that goes over the island takes one away, the group has the rest,
    one at least. In an island too small to be closed, rings are lines, which are half
    as fast.
    """
    if not device.torus:
        return device.link
    axes = [a for a in ("data", "fsdp", "tensor") if inside(mesh, a, device) > 1]
    free = max(1, device.torus - len([a for a in axes if a != axis]))
    closed = min(mesh.size, device.island) >= device.wraps
    return device.link * free / device.torus * (1.0 if closed else 0.5)


def gather(nbytes: float, mesh: Mesh, axis: str, device: Device) -> float:
    """Returns the time to gather or reduce-scatter an array along an axis.

    Over several islands each holds several members of the group: they share the bytes
    from outside and exchange them inside, both at the same time, in pieces.
    """
    n = getattr(mesh, axis)
    within = inside(mesh, axis, device)
    islands = math.ceil(n / within)
    fast = ring(nbytes, within, link(mesh, axis, device))
    slow = ring(nbytes, islands, device.network * within)
    return max(fast, slow)


def all_reduce(nbytes: float, mesh: Mesh, axis: str, device: Device) -> float:
    """Returns the time to sum an array along an axis: reduce-scatter, then gather."""
    return 2 * gather(nbytes, mesh, axis, device)


def exposed(communication: float, compute: float, overlap: float) -> float:
    """Returns what remains of communication beside computation.

    Args:
      communication: its time.
      compute: time of the computation it can hide behind.
      overlap: share of the communication that can be started early enough; an
        assumption.
    """
    return communication - min(overlap * communication, compute)


def compute(operations: float, device: Device, utilisation: float) -> float:
    """Returns the time of so many operations of one device at a share of its peak."""
    return operations / (device.flops * utilisation)


def update(parameters: float, averages: int, device: Device) -> float:
    """Returns the time of Adam and the averages for so many parameters of one device.

    Bound by memory: gradient, parameter, two moments and averages are read, all but the
    gradient written, 4 bytes each.
    """
    return 4 * parameters * (1 + 2 * (3 + averages)) / device.bandwidth


def feed(batch: int, devices: int, device: Device, images_per_second: float) -> float:
    """Returns the time in which all hosts make a batch, each its share."""
    hosts = math.ceil(devices / device.per_host)
    return batch / (hosts * images_per_second)


def checkpoint(
    local_bytes: float,
    whole_bytes: float,
    device: Device,
    write_bandwidth: float,
    interval: float,
) -> float:
    """Returns how long a checkpoint stops the steps.

    The copy to the host does, since the next step overwrites the state; the write goes
    on beside the steps and stops them only if it is not done when the next is due.

    Args:
      local_bytes: of the state on one device.
      whole_bytes: of the state; each array is written once.
      device: whose copies go to the host side by side.
      write_bandwidth: of all hosts together.
      interval: seconds of training between two checkpoints.
    """
    written = whole_bytes / write_bandwidth
    return local_bytes / device.to_host + max(0.0, written - interval)
