"""Every random key of the program is derived here, from (seed, step, name).

No key is ever stored: a resumed run derives the same keys from the step it resumes at,
and an image sampled with a given seed and index does not depend on its neighbours.
"""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer

from simple_diffusion.core.types import Key


def derive_key(
    seed: int | Integer[Array, ""], step: int | Int[Array, ""], name: str
) -> Key:
    """Returns the key for one purpose at one step.

    Args:
      seed: the seed of the run.
      step: the training step, or 0 where there is none; may be traced.
      name: what the key is for, such as "noise"; different names are independent.
    """
    # crc32 rather than hash(): the same in every process and every Python.
    purpose = jnp.uint32(zlib.crc32(name.encode()))
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)


def derive_example_keys(key: Key, index: Int[Array, "b"]) -> Key:
    """Returns one key [b] per example, from its index and not from its batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def derive_example_key(
    seed: Integer[Array, ""], name: str, index: Int[Array, ""]
) -> Key:
    """Returns the key for one purpose of one sampled image, from its seed and index.

    It equals one element of `per_example(key_for(seed, 0, name), index)`, but allows
    images with different seeds in one batch.
    """
    return jax.random.fold_in(derive_key(seed, 0, name), index)


def fold_in_all(keys: Key, index: Int[Array, ""]) -> Key:
    """Returns the keys [b] of the same examples for one of several draws."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def normal_per_example(keys: Key, shape: tuple[int, ...]) -> Array:
    """Returns standard normal float32 noise [b, *shape], one key per example."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
