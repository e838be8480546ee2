"""Compressed sensing: some rows of an orthogonal matrix over pixels.

Each row of Q measures one combination of many pixels. For m rows with Q Qᵀ = I the
pseudo-inverse is the transpose, all singular values are 1, and Vᵀ is the full matrix.
Each channel is measured by the same rows. Source: DDNM (arXiv 2212.00490), section 3.2
and its code.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simple_diffusion.restoration import operators
from simple_diffusion.restoration.operators import LinearOperator, Size, Spectrum

Image = Float[Array, "b h w c"]
Numbers = Float[Array, "b n c"]

# Larger matrices take minutes to generate.
LARGEST_BLOCK = 64


def hadamard(size: Size, ratio: float, seed: int) -> LinearOperator:
    """Returns randomly chosen Walsh-Hadamard coefficients: y [b, m, c], as published.

    A row asks for one pattern of the whole image: the sum of all pixels, half of them
    with a minus sign, over the root of their number. The patterns are the rows of the
    full transform of order h w in natural order, taken in a random, fixed order. They
    have every spatial frequency; the mean of the image is one of them, and measured
    with the probability `ratio`. The null space mixes all pixels: what is not measured
    is spread over the whole image.

    Args:
      size: height and width of x, both powers of two.
      ratio: measurements per pixel, in (0, 1].
      seed: of the choice.

    Raises:
      ValueError: if the size is no power of two, or the ratio not in its range.
    """
    rows, order, back = _shuffle(size, ratio, seed)

    def analyse(x: Image) -> Numbers:
        return _walsh_hadamard(_flat(x))[:, order]

    def synthesise(x: Numbers) -> Image:
        return _unflat(_walsh_hadamard(x[:, back]), size)

    return _first_rows(analyse, synthesise, size, rows)


def group_means(size: Size, ratio: float, seed: int) -> LinearOperator:
    """Returns means over random groups of pixels: y [b, m, c].

    A row asks about pixels in random places, most of them far apart. At a ratio of
    1/2^k the measurements are equivalent to the means of disjoint groups of 2^k pixels:
    of 4 pixels at 1/4. At a ratio in between, some of the groups are halves of others.
    They are computed as the first Walsh-Hadamard coefficients, in natural order, of the
    shuffled pixels; the first one is the mean of the image. DDNM measures otherwise,
    see `hadamard`.

    Args:
      size: height and width of x, both powers of two.
      ratio: measurements per pixel, in (0, 1].
      seed: of the shuffling.

    Raises:
      ValueError: if the size is no power of two, or the ratio not in its range.
    """
    rows, order, back = _shuffle(size, ratio, seed)

    def analyse(x: Image) -> Numbers:
        return _walsh_hadamard(_flat(x)[:, order])

    def synthesise(x: Numbers) -> Image:
        return _unflat(_walsh_hadamard(x)[:, back], size)

    return _first_rows(analyse, synthesise, size, rows)


def _shuffle(
    size: Size, ratio: float, seed: int
) -> tuple[int, Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Returns the number of measurements, a permutation of n, and its inverse."""
    _check_powers(size)
    n = size[0] * size[1]
    order = _permutation(n, seed)
    return _rows(ratio, n), order, np.argsort(order)


def _first_rows(
    analyse: Callable[[Image], Numbers],
    synthesise: Callable[[Numbers], Image],
    size: Size,
    rows: int,
) -> LinearOperator:
    """Returns the operator of the first rows of an orthogonal matrix and its inverse.

    Coefficients are arranged as pixels are, row by row.
    """
    n = size[0] * size[1]

    def pinv(y: Numbers) -> Image:
        return synthesise(jnp.pad(y, ((0, 0), (0, n - rows), (0, 0))))

    spectrum = Spectrum(
        lambda x: _unflat(analyse(x), size),
        lambda x: synthesise(_flat(x)),
        (np.arange(n) < rows).astype(float).reshape(1, *size, 1),
    )
    return LinearOperator(lambda x: analyse(x)[:, :rows], pinv, spectrum)


def blocks(size: Size, ratio: float, seed: int, side: int = 32) -> LinearOperator:
    """Returns random projections of each block of pixels: y [b, h/s, w/s, m, c].

    One random orthogonal matrix for all blocks; the coefficients of a block are
    arranged in it as its pixels are, row by row.

    Args:
      size: height and width of x.
      ratio: measurements per pixel, in (0, 1].
      seed: of the matrix.
      side: s of a block, a divisor of both.

    Raises:
      ValueError: if the blocks do not tile the image, or the ratio is not in its range.
    """
    operators.check_divides("restore.block_side", side, size)
    if side > LARGEST_BLOCK:
        raise ValueError(
            f"restore.block_side={side} must be at most {LARGEST_BLOCK}: the matrix "
            f"has {side**2}x{side**2} numbers"
        )
    n = side**2
    rows = _rows(ratio, n)
    matrix = _orthogonal(n, seed)

    def analyse(x: Image) -> Image:
        return operators.from_blocks(_times(matrix, operators.to_blocks(x, side)), side)

    def synthesise(x: Image) -> Image:
        pixels = _times(matrix.T, operators.to_blocks(x, side))
        return operators.from_blocks(pixels, side)

    def forward(x: Image) -> Float[Array, "b H W m c"]:
        return _times(matrix[:rows], operators.to_blocks(x, side))

    def pinv(y: Float[Array, "b H W m c"]) -> Image:
        return operators.from_blocks(_times(matrix[:rows].T, y), side)

    measured = (np.arange(n) < rows).astype(float).reshape(1, side, side, 1)
    tiles = (1, size[0] // side, size[1] // side, 1)
    spectrum = Spectrum(analyse, synthesise, np.tile(measured, tiles))
    return LinearOperator(forward, pinv, spectrum)


def _walsh_hadamard(x: Numbers) -> Numbers:
    """Returns H x / √n in natural order, by log₂ n rounds of sums and differences.

    H is a product over the bits of the index. Each round transforms the highest bit and
    makes it the lowest, so that all rounds are identical and restore the order.
    """
    b, n, c = x.shape
    for _ in range(n.bit_length() - 1):
        low, high = x[:, : n // 2], x[:, n // 2 :]
        x = jnp.stack([low + high, low - high], axis=2).reshape(b, n, c)
    return x / math.sqrt(n)


def _times(
    matrix: np.ndarray, x: Float[Array, "b H W n c"]
) -> Float[Array, "b H W m c"]:
    # Without "highest" an accelerator would round the factors to 8 or 11 bits.
    q = jnp.asarray(matrix, x.dtype)
    return jnp.einsum("mn,bHWnc->bHWmc", q, x, precision="highest")


def _flat(x: Image) -> Numbers:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _unflat(x: Numbers, size: Size) -> Image:
    return x.reshape(x.shape[0], *size, x.shape[-1])


@functools.lru_cache(8)
def _permutation(n: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(n)
    order.flags.writeable = False  # cached, so shared by all callers
    return order


@functools.lru_cache(8)
def _orthogonal(n: int, seed: int) -> np.ndarray:
    """Returns a random orthogonal matrix from the uniform (Haar) distribution."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    # These signs make Q independent of the library, and its distribution uniform
    # (Mezzadri, arXiv math-ph/0609050).
    q = q * np.sign(np.diag(r))
    q.flags.writeable = False  # cached, so shared by all callers
    return q


def _rows(ratio: float, n: int) -> int:
    """Returns the number of measured rows of n, at least one."""
    if not 0 < ratio <= 1:
        raise ValueError(f"restore.ratio={ratio} must lie in (0, 1]")
    return max(1, round(ratio * n))


def _check_powers(size: Size) -> None:
    if any(n < 1 or n & (n - 1) for n in size):
        height, width = (2 ** max(0, round(math.log2(max(1, n)))) for n in size)
        raise ValueError(
            "a Hadamard transform needs powers of two, the image has"
            f" {size[0]}x{size[1]} pixels; the nearest size is {height}x{width}"
            " (restore.size)"
        )
