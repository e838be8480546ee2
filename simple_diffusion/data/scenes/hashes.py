"""Random numbers as hashes of integers: what a scene is does not depend on others."""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt64

DRAWS = 128  # random numbers that a picture may use


def mix64(v: UInt64[np.ndarray, "*s"]) -> UInt64[np.ndarray, "*s"]:
    """Returns 64-bit words hashed one to one (SplitMix64)."""
    v = v + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return v ^ (v >> np.uint64(31))


def hash_words(*words: Any) -> UInt64[np.ndarray, "n"]:
    """Returns a 64-bit hash of several integers, or of arrays [n] of them."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = mix64(state ^ np.atleast_1d(np.asarray(word)).astype(np.uint64))
    return state


def to_uniform(words: UInt64[np.ndarray, "*s"]) -> Float32[np.ndarray, "*s"]:
    """Returns 64-bit words as numbers in [0, 1), by their highest 24 bits."""
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def hash_to_uniforms(keys: UInt64[np.ndarray, "n"]) -> Float32[np.ndarray, "k n"]:
    """Returns `DRAWS` random numbers in [0, 1) for each key."""
    return to_uniform(mix64(keys + mix64(np.arange(DRAWS, dtype=np.uint64))[:, None]))
