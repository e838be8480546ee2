"""Image degradations as linear operators A with their exact pseudo-inverses.

A⁺ is the one of Moore and Penrose: A A⁺ A = A, A⁺ A A⁺ = A⁺, and A A⁺ and A⁺ A are
symmetric. Then A⁺ A is the orthogonal projection onto the row space of A, and I - A⁺ A
the projection onto its null space. The spectrum is s and V of A = U diag(s) Vᵀ; U is
not needed here.

For the mean over a block with the mask m of known pixels (k of r²), the row of A is
m / r² = (√k / r²) vᵀ with v = m / √k. An orthogonal matrix with v as a column is a
Householder reflection: with u = v + e₀,

    H = I - 2 u uᵀ / uᵀu,     H e₀ = -v,     uᵀu = 2 + 2 v₀ >= 2,

so that nothing cancels for any mask.

This module has the operators on pixels and colours; `separable.py` has those that act
along the axes, `sensing.py` those of compressed sensing. Source: DDNM (arXiv
2212.00490), section 3.2, whose pseudo-inverse of a masked average does not fulfil A A⁺
A = A: that needs the mean over the known pixels alone.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from simple_diffusion.nets import ops

Image = Float[Array, "b h w c"]
Small = Float[Array, "b H W c"]
Mask = Shaped[Array | np.ndarray, "m h w 1"]
Size = tuple[int, int]

# Weights of the three colours in grey: equal, and those of the SVD code of DDNM. Its
# simplified sampler has equal ones.
_EQUAL = (1 / 3, 1 / 3, 1 / 3)
_PUBLISHED = (0.3333, 0.3334, 0.3333)


class Spectrum(NamedTuple):
    """The image side of A = U diag(s) Vᵀ: V and s.

    Attributes:
      analyse: x [b, h, w, c] -> Vᵀ x, in an array of the same shape.
      synthesise: its inverse, V.
      singulars: s of each number in Vᵀ x, broadcastable to [b, h, w, c]; exactly 0 in
        the null space.
    """

    analyse: Callable[[Array], Array]
    synthesise: Callable[[Array], Array]
    singulars: Array | np.ndarray


class LinearOperator(NamedTuple):
    """A linear map of images and its pseudo-inverse.

    Attributes:
      forward: x [b, h, w, c] -> y [b, ...].
      pinv: y -> x, the pseudo-inverse of Moore and Penrose.
      spectrum: None if the published pseudo-inverse (`compat`) has no spectrum.
    """

    forward: Callable[[Array], Array]
    pinv: Callable[[Array], Array]
    spectrum: Spectrum | None


def identity(size: Size) -> LinearOperator:
    """Returns the identity, for denoising."""
    return LinearOperator(_same, _same, Spectrum(_same, _same, np.ones((1, *size, 1))))


def inpaint(known_mask: Mask) -> LinearOperator:
    """Returns the operator that sets unknown pixels to 0; y has the shape of x.

    Args:
      known_mask: 1 where a pixel is known, else 0; one mask for all images or one per
        image. May be traced.

    Raises:
      ValueError: if images have another size (when called).
    """
    known = jnp.asarray(known_mask, float)

    def keep(x: Image) -> Image:
        _check_mask(known, x.shape[1:3])
        return known.astype(x.dtype) * x

    return LinearOperator(keep, keep, Spectrum(_same, _same, known))


def average(
    size: Size, factor: int, known_mask: Mask | None = None, compat: bool = False
) -> LinearOperator:
    """Returns the mean over blocks of factor x factor pixels: y [b, h/r, w/r, c].

    Unknown pixels count as 0 in the mean, which in images from -1 to 1 is mid-grey. The
    coefficient that carries a block's singular value stands at its first pixel.

    Args:
      size: height and width of x.
      factor: r, a divisor of both.
      known_mask: as for `inpaint`.
      compat: use the published pseudo-inverse. It repeats y over the known pixels,
        which is too close to mid-grey where some pixels are unknown; with a mask it has
        no spectrum.

    Raises:
      ValueError: if the factor does not divide the size, or the mask has another.
    """
    check_divides("restore.factor", factor, size)
    is_masked = known_mask is not None
    if known_mask is None:
        known_mask = np.ones((1, *size, 1), bool)
    _check_mask(known_mask, size)
    known = to_blocks(jnp.asarray(known_mask, float), factor)  # [m, H, W, r², 1]
    share = known.mean(3)
    # An empty block has y = 0, and the mask sets the result to 0 for any divisor.
    share = jnp.where(share > 0, share, 1.0)

    def forward(x: Image) -> Small:
        return (known.astype(x.dtype) * to_blocks(x, factor)).mean(3)

    def pinv(y: Small) -> Image:
        if not compat:
            y = y / share.astype(y.dtype)
        return from_blocks(known.astype(y.dtype) * y[:, :, :, None], factor)

    spectrum = None if compat and is_masked else _block_spectrum(known, factor)
    return LinearOperator(forward, pinv, spectrum)


def _block_spectrum(known: Float[Array, "m H W n 1"], factor: int) -> Spectrum:
    """Returns the spectrum of a masked mean: see the module."""
    first = jnp.eye(factor**2, 1, dtype=float).reshape(1, 1, 1, -1, 1)
    norm = jnp.sqrt(known.sum(3, keepdims=True))  # √k
    row = known / jnp.where(norm > 0, norm, 1.0)
    # A block without known pixels has no row in A: any reflection is valid.
    normal = jnp.where(norm > 0, row, first) + first
    normal = normal * jnp.sqrt(2.0 / jnp.square(normal).sum(3, keepdims=True))

    def reflect(x: Image) -> Image:
        blocks, u = to_blocks(x, factor), normal.astype(x.dtype)
        return from_blocks(blocks - u * (u * blocks).sum(3, keepdims=True), factor)

    return Spectrum(reflect, reflect, from_blocks(first * norm / factor**2, factor))


def grey(operator: LinearOperator, compat: bool = False) -> LinearOperator:
    """Returns `operator` followed by the mean over the three colours: y [..., 1].

    Mask, then average, then grey is `grey(average(size, factor, mask))`.

    Args:
      operator: must treat all channels alike.
      compat: weights .3333, .3334, .3333, with their pseudo-inverse, as in the SVD code
        of DDNM.

    Raises:
      ValueError: if images have not three channels (when called).
    """
    weights = np.array(_PUBLISHED if compat else _EQUAL)
    norm = np.linalg.norm(weights)
    first = np.array([1.0, 0.0, 0.0])
    normal = weights / norm + first
    basis = np.eye(3) - 2 * np.outer(normal, normal) / (normal @ normal)

    def forward(x: Image) -> Array:
        if x.shape[-1] != 3:
            raise ValueError(
                f"colour can be taken from images of 3 channels, got {x.shape[-1]}"
                " (restore.task)"
            )
        return _mix(operator.forward(x), weights[:, None])

    def pinv(y: Array) -> Image:
        return operator.pinv(_mix(y, weights[None] / norm**2))

    if operator.spectrum is None:
        return LinearOperator(forward, pinv, None)
    analyse, synthesise, singulars = operator.spectrum
    return LinearOperator(
        forward,
        pinv,
        Spectrum(
            lambda x: _mix(analyse(x), basis),
            lambda x: synthesise(_mix(x, basis)),
            singulars * (norm * first).reshape(1, 1, 1, 3),
        ),
    )


def _mix(x: Float[Array, "*s c"], matrix: np.ndarray) -> Float[Array, "*s d"]:
    """Returns x times a small matrix over the channels."""
    return jnp.matmul(x, jnp.asarray(matrix, x.dtype), precision="highest")


def _same(x: Array) -> Array:
    return x


def to_blocks(x: Image, side: int) -> Float[Array, "b H W n c"]:
    """Returns the pixels of each block of side x side along one axis, row by row."""
    deep = ops.space_to_depth(x, side)
    return deep.reshape(*deep.shape[:3], side**2, x.shape[-1])


def from_blocks(blocks: Float[Array, "b H W n c"], side: int) -> Image:
    """Inverts `to_blocks`."""
    return ops.depth_to_space(blocks.reshape(*blocks.shape[:3], -1), side)


def check_divides(key: str, side: int, size: Size) -> None:
    """Raises ValueError if blocks of side x side do not tile images of this size.

    Args:
      key: of the config, that states the side.
      side: in pixels.
      size: height and width.
    """
    pixels = f"the image's {size[0]}x{size[1]} pixels"
    if side < 1:
        raise ValueError(f"{key}={side} must be at least 1")
    if side > min(size):
        raise ValueError(f"{key}={side} is larger than {pixels} (restore.size)")
    if any(n % side for n in size):
        # Half-way the smaller: better to drop pixels than to make some up.
        height, width = (max(1, math.ceil(n / side - 0.5)) * side for n in size)
        raise ValueError(
            f"{key}={side} does not divide {pixels}; the nearest size is"
            f" {height}x{width} (restore.size)"
        )


def _check_mask(mask: Mask, size: tuple[int, ...]) -> None:
    if mask.shape[1:3] != tuple(size):
        raise ValueError(
            f"restore.hole_mask has {mask.shape[1]}x{mask.shape[2]} pixels, the image"
            f" {size[0]}x{size[1]} (restore.size)"
        )
