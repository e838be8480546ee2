"""Positions of pixels and tokens: grids, Fourier features, tables, rotary embeddings.

Coordinates are those of cell centres within the full image, of which the input may be a
part. A point of the image has the same coordinate at every resolution, in every patch
and at every level of a network (the mean over a 2x2 block of fine cells is the
coordinate of the coarse cell).
"""

import math
from dataclasses import dataclass
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Conditioning

# Wavelengths run from 2π tokens to about this many times as much.
_BASE = 10000.0


@flax.struct.dataclass
class Region:
    """The part of its full image that each input of a network covers.

    box: corners (y0, x0, y1, x1) of each input in units of its full image.
    full_size: height and width of the full images in pixels; one row if all are equal.
    size: height and width of the inputs in pixels.
    """

    box: Float[Array, "b 4"]
    full_size: Float[Array, "_ 2"]
    size: tuple[int, int] = flax.struct.field(pytree_node=False)

    def cells(self, size: tuple[int, int]) -> Float[Array, "_ 2"]:
        """Returns the size of the full images in cells of a feature map of `size`."""
        pixels_per_cell = [n / m for n, m in zip(self.size, size, strict=True)]
        return self.full_size / jnp.array([pixels_per_cell], jnp.float32)


def region_of(cond: Conditioning, batch: int, size: tuple[int, int]) -> Region:
    """Returns the region of each input; without a box an input is a full image.

    Args:
      cond: `box` and `full_size` are used.
      batch: number of inputs.
      size: their height and width in pixels.
    """
    box = cond.box
    if box is None:
        box = jnp.broadcast_to(jnp.array([[0.0, 0.0, 1.0, 1.0]]), (batch, 4))
        return Region(box, jnp.array([size], jnp.float32), size)
    if cond.full_size is not None:
        return Region(box, jnp.array([cond.full_size], jnp.float32), size)
    extent = box[:, 2:] - box[:, :2]
    return Region(box, jnp.array([size], jnp.float32) / extent, size)


def grid(
    box: Float[Array, "b 4"], size: tuple[int, int]
) -> tuple[Float[Array, "b h"], Float[Array, "b w"]]:
    """Returns the coordinates of rows and of columns, from 0 to 1 over the full image.

    Args:
      box: corners of each input in units of its full image.
      size: height and width of a feature map that covers the input.
    """
    low, high = box[:, :2], box[:, 2:]
    ends = jnp.stack([low, high - low], 1)  # [b, 2, axis]
    rows, columns = (
        ends[:, :1, axis]
        + ends[:, 1:, axis] * ((jnp.arange(n, dtype=jnp.float32) + 0.5) / n)[None]
        for axis, n in enumerate(size)
    )
    return rows, columns


def fourier(
    region: Region, size: tuple[int, int], bands: int
) -> tuple[Float[Array, "b h f"], Float[Array, "b w f"]]:
    """Returns Fourier features of the rows and of the columns, f = 2 bands + 1 each.

    The features of a coordinate g in [-1, 1] are g, and sin(2^k π g) and cos(2^k π g)
    for each band k. A band near or above the Nyquist frequency of the map would alias.
    With R cells along the full image it is therefore weighted by
    clip(log2(R / 2) - k, 0, 1). Rows and columns stay apart: a map of both would be
    [b, h, w, 2 f], and linear functions of it are computed on the two parts.

    Args:
      region: of the inputs.
      size: height and width of a feature map that covers the input.
      bands: number of frequencies.
    """
    cells = region.cells(size)
    band = jnp.arange(bands, dtype=jnp.float32)
    weight = jnp.clip(jnp.log2(cells / 2)[:, :, None] - band[None, None], 0, 1)
    rows, columns = grid(region.box, size)
    by_row = _fourier(2 * rows - 1, weight[:, 0])
    return by_row, _fourier(2 * columns - 1, weight[:, 1])


def _fourier(g: Float[Array, "b n"], weight: Float[Array, "_ k"]) -> Array:
    frequency = jnp.pi * 2.0 ** jnp.arange(weight.shape[1], dtype=jnp.float32)
    angle = g[:, :, None] * frequency[None, None]
    parts = [jnp.sin(angle), jnp.cos(angle)]
    weighted = [part * weight[:, None] for part in parts]
    return jnp.concatenate([g[:, :, None], *weighted], axis=-1)


@dataclass(frozen=True)
class Scale:
    """The resolution of the full image as two numbers of order one.

    Fields:
      smallest: side in pixels of the smallest training images, where "log2" is 0.
      largest: side of the largest ones, where "log2" is 1. None counts doublings.
      kind: "log2", or "inverse" for smallest / side as in ArbSR (arXiv 2004.03791); the
        two differ most outside the range.
    """

    smallest: int
    largest: int | None = None
    kind: Literal["log2", "inverse"] = "log2"

    def __call__(self, full_size: Float[Array, "b 2"]) -> Float[Array, "b 2"]:
        """Returns a number per axis, given height and width in pixels."""
        ratio = full_size / self.smallest
        if self.kind == "inverse":
            return 1.0 / ratio
        width = 1.0
        if self.largest is not None and self.largest > self.smallest:
            width = math.log2(self.largest / self.smallest)
        return jnp.log2(ratio) / width


def centres(n: int, extent: int) -> Float[Array, "n"]:
    """Returns the centres of n equal cells that together span [0, extent]."""
    return (jnp.arange(n, dtype=jnp.float32) + 0.5) * (extent / n)


def sincos_2d(
    rows: Float[Array, "h"], columns: Float[Array, "w"], channels: int
) -> Float[Array, "h w {channels}"]:
    """Returns sines and cosines, of the row in the first half of the channels.

    The second half holds those of the column.

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
    x: Float[Array, "b h w k d"],
    rows: Float[Array, "... h"],
    columns: Float[Array, "... w"],
    fastest: float = 1.0,
) -> Float[Array, "b h w k d"]:
    """Returns x with half of each head rotated by the row and half by the column.

    The product of two rotated vectors depends on their positions only through the
    difference (RoFormer, arXiv 2104.09864, section 3.2.2, along each axis).

    Args:
      x: queries or keys; d is a multiple of 4.
      rows: the row coordinate of each line of tokens, in tokens of the training: [h],
        or [b, h] if the examples differ.
      columns: the column coordinate of each token in a line.
      fastest: rotation per token of the fastest pair of features, in radians.

    Raises:
      ValueError: if d is not a multiple of 4.
    """
    _check(x.shape[-1], "the width of a head")
    rows, columns = (fastest * v for v in jnp.atleast_2d(rows, columns))
    by_row, by_column = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    row = _angles(rows, x.shape[-1] // 2)[:, :, None, None]
    column = _angles(columns, x.shape[-1] // 2)[:, None, :, None]
    rotated = [_rotate(by_row, row), _rotate(by_column, column)]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def resize_table(
    table: Float[Array, "h w c"], size: tuple[int, int]
) -> Float[Array, "H W c"]:
    """Returns a learned table at another grid size, bilinear without antialiasing."""
    if table.shape[:2] == size:
        return table
    shape = (*size, table.shape[-1])
    return jax.image.resize(table, shape, "bilinear", antialias=False)


def _angles(coordinate: Array, channels: int) -> Array:
    """Returns [..., channels/2] angles at geometrically falling frequencies."""
    frequency = _BASE ** (-jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)
    ones = (1,) * coordinate.ndim
    return coordinate[..., None] * frequency.reshape(*ones, -1)


def _rotate(x: Array, angle: Array) -> Array:
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _check(channels: int, what: str) -> None:
    if channels % 4:
        raise ValueError(
            f"2-D positions need {what} to be a multiple of 4, not {channels}"
        )
