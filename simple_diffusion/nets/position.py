"""Where a token is: coordinates, sin-cos tables, rotary embeddings, in two dimensions.

Coordinates are pixel centres in units of the training grid's tokens: i + 1/2 on the
grid of the training, and stretched over the same extent on any other grid, so that a
place in the image keeps its coordinate at every resolution.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Wavelengths run from 2π tokens to about this many times as much.
_BASE = 10000.0


def centres(n: int, extent: int) -> Float[Array, "n"]:
    """Returns the centres of n equal cells that together span [0, extent]."""
    return (jnp.arange(n, dtype=jnp.float32) + 0.5) * (extent / n)


def sincos_2d(
    rows: Float[Array, "h"], columns: Float[Array, "w"], channels: int
) -> Float[Array, "h w {channels}"]:
    """Returns sines and cosines of the row in the first half, of the column after it.

    Args:
      rows: the row coordinate of each line of tokens, see `centres`.
      columns: the column coordinate of each token in a line.
      channels: a multiple of 4.

    Raises:
      ValueError: if channels is not a multiple of 4.
    """
    _check(channels, "the width")
    size = (len(rows), len(columns), channels // 4)
    row = _angles(rows, channels // 2)[:, None]
    column = _angles(columns, channels // 2)[None]
    parts = [jnp.sin(row), jnp.cos(row), jnp.sin(column), jnp.cos(column)]
    return jnp.concatenate([jnp.broadcast_to(p, size) for p in parts], axis=-1)


def rope_2d(
    x: Float[Array, "b h w k d"], rows: Float[Array, "h"], columns: Float[Array, "w"]
) -> Float[Array, "b h w k d"]:
    """Returns x with half of each head rotated by the row and half by the column.

    The product of two rotated vectors depends on their places only through the
    difference (RoFormer, arXiv 2104.09864, section 3.2.2, along each axis).

    Args:
      x: queries or keys; d is a multiple of 4.
      rows: the row coordinate of each line of tokens, see `centres`.
      columns: the column coordinate of each token in a line.

    Raises:
      ValueError: if d is not a multiple of 4.
    """
    _check(x.shape[-1], "the width of a head")
    by_row, by_column = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    row = _angles(rows, x.shape[-1] // 2)[None, :, None, None]
    column = _angles(columns, x.shape[-1] // 2)[None, None, :, None]
    turned = [_rotate(by_row, row), _rotate(by_column, column)]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def resize_table(
    table: Float[Array, "h w c"], size: tuple[int, int]
) -> Float[Array, "H W c"]:
    """Returns a learned table at another grid size, bilinear without antialiasing."""
    if table.shape[:2] == size:
        return table
    shape = (*size, table.shape[-1])
    return jax.image.resize(table, shape, "bilinear", antialias=False)


def _angles(coordinate: Array, channels: int) -> Array:
    """Returns [n, channels/2] angles at geometrically falling frequencies."""
    frequency = _BASE ** (-jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)
    return coordinate[:, None] * frequency[None]


def _rotate(x: Array, angle: Array) -> Array:
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _check(channels: int, what: str) -> None:
    if channels % 4:
        raise ValueError(
            f"2-D positions need {what} to be a multiple of 4, not {channels}"
        )
