"""Small array functions that several packages use."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def expand_dims_like(v: Shaped[Array, "b"], like: Shaped[Array, "b ..."]) -> Array:
    """Returns v with trailing axes of size one, so that it broadcasts over `like`."""
    return v.reshape(v.shape + (1,) * (like.ndim - v.ndim))


def mean_per_example(v: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """Returns the mean over all axes but the first, in float32."""
    return jnp.mean(v.astype(jnp.float32), axis=tuple(range(1, v.ndim)))


def tree_norm(tree: Any) -> Float[Array, ""]:
    """Returns the Euclidean norm of all leaves together, in float32."""
    squares = [
        jnp.sum(jnp.square(v.astype(jnp.float32))) for v in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(sum(squares, start=jnp.float32(0)))


def tree_size(tree: Any) -> int:
    """Returns the number of elements of all leaves; shapes are enough."""
    return sum(v.size for v in jax.tree.leaves(tree))
