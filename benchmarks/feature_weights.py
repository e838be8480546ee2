"""Random weights for the Inception network of FID, equal in every environment.

Each tensor depends only on its name in the ports to PyTorch, so that a tensor in the
wrong place gives other features.
"""

import zlib

import numpy as np

# Spread evenly between these, away from 0 and 1, at which mistakes do not show.
_RANGES = {"bn.weight": (0.6, 1.4), "bn.running_var": (0.3, 2.0)}
# Normal, of this mean and spread.
_NORMAL = {
    "bn.bias": (0.1, 0.2),
    "bn.running_mean": (0.0, 0.3),
    "fc.bias": (0.0, 1.0),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor; kernels keep the scale of what they act on."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = ".".join(name.split(".")[-2:])
    if kind in _RANGES:
        return rng.uniform(*_RANGES[kind], shape).astype(np.float32)
    mean, spread = _NORMAL.get(kind, (0, np.sqrt(2 / np.prod(shape[1:]))))
    return (mean + spread * rng.standard_normal(shape)).astype(np.float32)


def images(count: int, side: int) -> np.ndarray:
    """Returns noise, uint8 [count, side, side, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
