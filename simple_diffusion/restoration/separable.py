"""Separable operators along height and width: bicubic scaling and blur.

A = A_y ⊗ A_x, each a small matrix over the positions of one axis. With A_y = U_y S_y
V_yᵀ and the same for x, the singular values of A are all products of one of S_y and one
of S_x, so no matrix over all pixels is needed.

A blur almost removes some frequencies. Singular values below a threshold are set to 0,
in A as well as in A⁺. If they were 0 only in A⁺, y would contain components that
correct no estimate, and A A⁺ y would not equal y. Images are mirrored at the border,
d c b a | a b c d | d c b a.

Source: DDNM (arXiv 2212.00490), appendix on the operators, and its code, whose blur
differs (see `blur`).
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simple_diffusion.restoration import operators
from simple_diffusion.restoration.operators import LinearOperator, Size, Spectrum

Image = Float[Array, "b h w c"]
Small = Float[Array, "b H W c"]
Kernel = Float[np.ndarray, "_"]
Singulars = Float[
    np.ndarray, "1 m n _"
]  # of each coefficient; of each channel or of all

# Relative to the largest, float32 cannot tell smaller singular values from 0.
_FLOOR = 1e-6
# The matrix of an axis is dense: 134 MB at this side, with minutes to decompose it.
LARGEST_SIDE = 4096


class _Axis(NamedTuple):
    """The matrix [m, n] of one axis as U [m, m], s [m], Vᵀ [n, n]; m <= n."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray


def uniform_kernel(taps: int = 9) -> Kernel:
    """Returns equal weights over `taps` pixels."""
    return np.ones(taps) / taps


def gaussian_kernel(sigma: float, taps: int) -> Kernel:
    """Returns a truncated Gaussian with sum 1; `sigma` is in pixels.

    Raises:
      ValueError: if sigma is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"restore.blur_sigma={sigma} must be more than 0")
    offsets = np.arange(taps) - (taps - 1) / 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def bicubic(size: Size, factor: int) -> LinearOperator:
    """Returns antialiased bicubic scaling by 1/factor: y [b, h/r, w/r, c].

    Keys' cubic with a = -1/2, widened by the factor: 4 r taps along each axis.

    Args:
      size: height and width of x.
      factor: r, a divisor of both.

    Raises:
      ValueError: if the factor does not divide the size.
    """
    operators.check_divides("restore.factor", factor, size)
    _check_sides(size)
    y, x = (_bicubic_axis(n, factor) for n in size)
    return _separable(y, x, _singulars(y.s, x.s, threshold=0.0))


def blur(
    size: Size,
    kernel_y: Kernel,
    kernel_x: Kernel,
    threshold: float = 3e-2,
    compat: bool = False,
) -> LinearOperator:
    """Returns the blur by kernel_y along the height and kernel_x along the width.

    With `compat` it is that of the code of DDNM, which differs in four things. The last
    tap of a kernel is missing: contrast shrinks by 21 % with 9 equal taps. Pixels
    beyond the border are 0. The threshold is absolute and applies to the singular
    values of each axis, so that products of them down to its square remain. And the
    singular values are assigned wrongly, see `_published_singulars`; what results
    hardly is a blur. With noise in the measurement DDNM+ takes the singular values
    that this operator has; that code takes those before threshold and mistake.

    Args:
      size: height and width of x and y.
      kernel_y: an odd number of taps, the middle one at the pixel itself.
      kernel_x: the same for the width.
      threshold: singular values below this fraction of the largest are set to 0.
      compat: as published; for images of three channels.

    Raises:
      ValueError: if a kernel has an even number of taps, or more than can be mirrored,
        or the threshold is outside [0, 1); with `compat`, if images have not three
        channels (when called).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"restore.blur_threshold={threshold} must lie in [0, 1)")
    _check_sides(size)
    kernels = [tuple(np.asarray(k, float).tolist()) for k in (kernel_y, kernel_x)]
    for kernel in kernels:
        _check_taps(len(kernel), size)
    y, x = (_blur_axis(n, k, compat) for n, k in zip(size, kernels, strict=True))
    if compat:
        return _separable(y, x, _published_singulars(y.s, x.s, threshold))
    return _separable(y, x, _singulars(y.s, x.s, threshold))


def _singulars(
    s_y: Float[np.ndarray, "m"], s_x: Float[np.ndarray, "n"], threshold: float
) -> Singulars:
    """Returns the products, 0 below the threshold, which is relative to the largest."""
    s = np.outer(s_y, s_x)
    return np.where(s < max(threshold, _FLOOR) * s.max(), 0.0, s)[None, ..., None]


def _published_singulars(
    s_y: Float[np.ndarray, "m"], s_x: Float[np.ndarray, "n"], threshold: float
) -> Singulars:
    """Returns the singular values as the code of DDNM assigns them to coefficients.

    It sorts the products and repeats the sorted list three times, one after the other.
    The coefficients it multiplies with them are in the same order, but the three
    channels of each stand together. The coefficient of rank k and channel c therefore
    has the product of rank (3 k + c) mod m n. Which of two equal products comes first
    is not defined there; here it is the one that stands first.
    """
    s = np.outer(*(np.where(s < threshold, 0.0, s) for s in (s_y, s_x)))
    s = np.where(s < _FLOOR * s.max(), 0.0, s)
    order = np.argsort(-s.ravel(), kind="stable")
    assigned = np.empty((s.size, 3))
    assigned[order] = np.tile(s.ravel()[order], 3).reshape(s.size, 3)
    return assigned.reshape(1, *s.shape, 3)


def _separable(y_axis: _Axis, x_axis: _Axis, s: Singulars) -> LinearOperator:
    """Returns the operator of two axes with these singular values."""
    (u_y, s_y, vt_y), (u_x, s_x, vt_x) = y_axis, x_axis
    inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > 0)
    rows_y, rows_x = vt_y[: len(s_y)], vt_x[: len(s_x)]
    singulars = np.zeros((1, len(vt_y), len(vt_x), s.shape[-1]))
    singulars[:, : len(s_y), : len(s_x)] = s

    def forward(x: Image) -> Small:
        if s.shape[-1] not in (1, x.shape[-1]):
            raise ValueError(
                f"the published blur is for images of {s.shape[-1]} channels, got"
                f" {x.shape[-1]} (restore.compat)"
            )
        coefficients = _along_axes(rows_y, x, rows_x) * jnp.asarray(s, x.dtype)
        return _along_axes(u_y, coefficients, u_x)

    def pinv(y: Small) -> Image:
        coefficients = _along_axes(u_y.T, y, u_x.T) * jnp.asarray(inverse, y.dtype)
        return _along_axes(rows_y.T, coefficients, rows_x.T)

    spectrum = Spectrum(
        lambda x: _along_axes(vt_y, x, vt_x),
        lambda x: _along_axes(vt_y.T, x, vt_x.T),
        singulars,
    )
    return LinearOperator(forward, pinv, spectrum)


def _along_axes(left: np.ndarray, x: Small, right: np.ndarray) -> Image:
    """Returns left x rightᵀ for each image and channel."""
    # Without "highest" an accelerator would round the factors to 8 or 11 bits.
    return jnp.einsum(
        "hH,bHWc,wW->bhwc",
        jnp.asarray(left, x.dtype),
        x,
        jnp.asarray(right, x.dtype),
        precision="highest",
    )


@functools.lru_cache(16)
def _bicubic_axis(n: int, factor: int) -> _Axis:
    # Pixel k of the result has its centre at (k + 1/2) r - 1/2 of the pixels.
    centres = (np.arange(n // factor)[:, None] + 0.5) * factor - 0.5
    reach = 2 * factor
    positions = np.floor(centres).astype(int) + np.arange(1 - reach, reach + 1)
    weights = _cubic((positions - centres) / factor)
    weights /= weights.sum(1, keepdims=True)
    return _decompose(_scatter(weights, _mirror(positions, n), n))


@functools.lru_cache(16)
def _blur_axis(n: int, kernel: tuple[float, ...], compat: bool) -> _Axis:
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    positions = np.arange(n)[:, None] + offsets
    weights = np.broadcast_to(kernel, positions.shape)
    if compat:
        dropped = (positions < 0) | (positions >= n) | (offsets == offsets[-1])
        weights = np.where(dropped, 0.0, weights)
    return _decompose(_scatter(weights, _mirror(positions, n), n))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Returns Keys' cubic with a = -1/2 (IEEE ASSP 29, 1981, equation 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _mirror(positions: np.ndarray, n: int) -> np.ndarray:
    """Returns the mirrored position inside the image."""
    folded = positions % (2 * n)
    return np.minimum(folded, 2 * n - 1 - folded)


def _scatter(weights: np.ndarray, positions: np.ndarray, n: int) -> np.ndarray:
    """Returns the matrix whose row i has weights[i, j] added at positions[i, j]."""
    matrix = np.zeros((len(positions), n))
    np.add.at(matrix, (np.arange(len(positions))[:, None], positions), weights)
    return matrix


def _decompose(matrix: np.ndarray) -> _Axis:
    axis = _Axis(*np.linalg.svd(matrix))
    for array in axis:
        array.flags.writeable = False  # cached, so shared by all callers
    return axis


def _check_sides(size: Size) -> None:
    if max(size) > LARGEST_SIDE:
        raise ValueError(
            f"restore.size: {size[0]}x{size[1]} pixels, but blurs and bicubic scaling "
            f"take at most {LARGEST_SIDE} along a side, for the decomposition of its "
            "matrix; downsampling=average takes any"
        )


def _check_taps(taps: int, size: Size) -> None:
    if taps % 2 == 0:
        raise ValueError(f"restore.blur_taps={taps} must be odd: one tap in the middle")
    if taps // 2 > min(size):
        raise ValueError(
            f"restore.blur_taps={taps} reach further beyond the border than the image's"
            f" {size[0]}x{size[1]} pixels; at most {2 * min(size) + 1} (restore.size)"
        )
