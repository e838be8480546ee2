"""The trunk of the predictors that say something about each place of an image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Cells along the shorter side: enough for a prediction, and cheap on a CPU.
_CELLS = 32
_GROUPS = 8
# Channels at each level, from fine to coarse: the coarsest sees the full image.
WIDTHS = (16, 32, 64, 96)


def cell_size(size: tuple[int, int]) -> int:
    """Returns the pixels along a side of a cell, for images of this size."""
    return max(1, min(size) // _CELLS)


class Pyramid(nn.Module):
    """A small U-Net on cells of an image.

    Fields:
      cell: pixels along a side of a cell.
      widths: channels at each level, from fine to coarse.
    """

    cell: int
    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        """Returns features of each cell; cells at the end may lie half outside."""
        x = to_cells(x, self.cell)
        levels = []
        for k, width in enumerate(self.widths):
            if k:
                x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
            x = conv(conv(x, width), width)
            levels.append(x)
        for fine in levels[-2::-1]:
            x = nn.Dense(fine.shape[-1])(x)
            x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
            x = conv(x[:, : fine.shape[1], : fine.shape[2]] + fine, fine.shape[-1])
        return x


def conv(x: Float[Array, "b h w c"], width: int) -> Float[Array, "b h w d"]:
    """Returns a convolution with norm and nonlinearity; part of a module."""
    return nn.relu(nn.GroupNorm(_GROUPS)(nn.Conv(width, (3, 3))(x)))


def to_cells(x: Float[Array, "b h w c"], cell: int) -> Float[Array, "b y x d"]:
    """Returns the pixels of each cell as channels; edges are repeated to fill cells."""
    b, h, w, c = x.shape
    rest = -h % cell, -w % cell
    x = jnp.pad(x, ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)), "edge")
    rows, columns = x.shape[1] // cell, x.shape[2] // cell
    x = x.reshape(b, rows, cell, columns, cell, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows, columns, cell * cell * c)


def to_pixels(
    x: Float[Array, "b y x d"], cell: int, size: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """Returns d = cell * cell * c channels of each cell as c channels of its pixels."""
    b, rows, columns, d = x.shape
    c = d // cell**2
    x = x.reshape(b, rows, columns, cell, cell, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * cell, columns * cell, c)[:, : size[0], : size[1]]


def cell_centres(
    shape: tuple[int, int], cell: int, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Returns y and x of the centres of all cells, in units of the image.

    Args:
      shape: rows and columns of cells.
      cell: pixels along a side of a cell.
      size: height and width of the image.
    """
    y, x = ((jnp.arange(n) + 0.5) * cell / m for n, m in zip(shape, size, strict=True))
    return y, x
