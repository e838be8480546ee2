"""Published figures of accelerators: arithmetic, memory, links.

Figures are per device and in one direction, in bytes and operations per second; a
multiply-add is two operations. Nothing here was measured.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One kind of accelerator and what joins several of them.

    Fields:
      flops: bfloat16 products without sparsity.
      memory: bytes.
      bandwidth: of the memory.
      link: from one device to its neighbours, all fast links (ICI, NVLink) together.
      torus: axes of the torus that the links form; 0 if a switch joins all to all.
      wraps: least devices of an island whose torus is closed; below, the rings are
        lines, which have half the bandwidth.
      island: most devices that fast links join.
      network: share of a device in the network between islands or hosts.
      per_host: devices of one host.
      to_host: from the device's memory to the host's.
      kinds: how `jax.Device.device_kind` begins.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    torus: int
    wraps: int
    island: int
    network: float
    per_host: int
    to_host: float
    kinds: tuple[str, ...]


# PCI Express is in no data sheet of a TPU: the 16 GB/s of a third generation's x16 are
# an assumption there. For Hopper it is the fifth generation's x16, 64 GB/s one way.
TABLE = {
    # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, 400 GB/s both ways
    # per chip on 4 ports, pod of 16 x 16, 2 x 100 Gbit/s for the 8 chips of a host.
    # Only an axis of 16 is closed, that is, a whole pod.
    "v5e": Device(
        flops=197e12,
        memory=16e9,
        bandwidth=819e9,
        link=200e9,
        torus=2,
        wraps=256,
        island=256,
        network=200e9 / 8 / 8,
        per_host=8,
        to_host=16e9,
        kinds=("TPU v5 lite", "TPU v5e"),
    ),
    # cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GB, 2765 GB/s, 1200 GB/s both ways
    # per chip, slices of up to 6144 chips made of closed cubes of 4 x 4 x 4, 50 Gbit/s
    # per chip, 4 chips a host.
    "v5p": Device(
        flops=459e12,
        memory=95e9,
        bandwidth=2765e9,
        link=600e9,
        torus=3,
        wraps=64,
        island=6144,
        network=50e9 / 8,
        per_host=4,
        to_host=16e9,
        kinds=("TPU v5p", "TPU v5"),
    ),
    # NVIDIA's data sheet of the H100 (SXM): 1979 TFLOP/s with sparsity, half without,
    # 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways. Data sheet of DGX H100: 8 devices and
    # 8 ConnectX-7 of 400 Gbit/s.
    "h100": Device(
        flops=989.5e12,
        memory=80e9,
        bandwidth=3.35e12,
        link=450e9,
        torus=0,
        wraps=0,
        island=8,
        network=400e9 / 8,
        per_host=8,
        to_host=64e9,
        kinds=("NVIDIA H100",),
    ),
    # NVIDIA's data sheet of the H200 (SXM): arithmetic and NVLink of the H100, 141 GB,
    # 4.8 TB/s. DGX H200: 8 devices, 8 ConnectX-7.
    "h200": Device(
        flops=989.5e12,
        memory=141e9,
        bandwidth=4.8e12,
        link=450e9,
        torus=0,
        wraps=0,
        island=8,
        network=400e9 / 8,
        per_host=8,
        to_host=64e9,
        kinds=("NVIDIA H200",),
    ),
}


def of_kind(device_kind: str) -> str | None:
    """Returns the name in the table of what `jax.Device.device_kind` says, if any."""
    # The longest beginning: "TPU v5 lite" is no "TPU v5".
    found = [
        (len(kind), name)
        for name, device in TABLE.items()
        for kind in device.kinds
        if device_kind.startswith(kind)
    ]
    return max(found)[1] if found else None
