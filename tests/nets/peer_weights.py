"""Random weights by name, the same where PyTorch writes a fixture and in our tests."""

import zlib

import numpy as np


def weight(name, shape):
    """Returns an array by its name in PyTorch: of a norm, a bias, or any kernel."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = rng.standard_normal(shape)
    if len(shape) > 1:
        drawn /= np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):  # of a norm
        drawn = 1 + 0.3 * drawn
    else:
        drawn *= 0.1
    return drawn.astype(np.float32)
