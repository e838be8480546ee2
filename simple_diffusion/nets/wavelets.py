"""Wavelet transforms of images, exactly invertible: LeGall 5/3 and Haar.

One level along one axis, for x of even length N, by lifting:

    LeGall 5/3   d[n] = x[2n+1] - (x[2n] + x[2n+2]) / 2      with x[N] := x[N-2]
                 s[n] = x[2n] + (d[n-1] + d[n]) / 4          with d[-1] := d[0]
    Haar         s[n] = (x[2n] + x[2n+1]) / √2,   d[n] = (x[2n] - x[2n+1]) / √2

The ends are mirrored at the outermost pixel (whole-sample symmetry), so nothing wraps
around and N values stay N values. LeGall's s keeps the mean (gain 1 at frequency zero)
and its d vanishes on straight lines. The inverse runs the steps backwards.

Two axes: width first, then height, as bands LL, LH, HL, HH of C channels each; LH is
low along the width and high along the height. Further levels split LL again (Mallat);
the finer bands are folded to its size by space-to-depth and follow it, so an image of
512 x 512 x 3 becomes 128 x 128 x 48 by two levels.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from simple_diffusion.nets import ops

Kind = Literal["legall", "haar"]


def dwt2(
    x: Float[Array, "b h w c"], levels: int = 1, kind: Kind = "legall"
) -> Float[Array, "b H W C"]:
    """Returns [b, h/2^L, w/2^L, 4^L c] for L levels, coarsest bands first.

    Args:
      x: images; height and width are multiples of 2^levels.
      levels: at least 1.
      kind: "legall" (5/3, smoother low band) or "haar" (orthonormal, 2x2 blocks).

    Source: simple diffusion (arXiv 2301.11093), section 3.3, DWT-1 and DWT-2.
    """
    low_w, high_w = _split(x, 2, kind)
    low, low_high = _split(low_w, 1, kind)
    high = (low_high, *_split(high_w, 1, kind))
    if levels == 1:
        return jnp.concatenate([low, *high], axis=-1)
    fine = ops.space_to_depth(jnp.concatenate(high, axis=-1), 2 ** (levels - 1))
    return jnp.concatenate([dwt2(low, levels - 1, kind), fine], axis=-1)


def idwt2(
    bands: Float[Array, "b h w c"], levels: int = 1, kind: Kind = "legall"
) -> Float[Array, "b H W C"]:
    """Inverts `dwt2`, exact up to rounding."""
    if levels == 1:
        low, low_high, high_low, high = jnp.split(bands, 4, axis=-1)
    else:
        coarse, fine = jnp.split(bands, [bands.shape[-1] // 4], axis=-1)
        low = idwt2(coarse, levels - 1, kind)
        details = ops.depth_to_space(fine, 2 ** (levels - 1))
        low_high, high_low, high = jnp.split(details, 3, axis=-1)
    low_w = _merge(low, low_high, 1, kind)
    high_w = _merge(high_low, high, 1, kind)
    return _merge(low_w, high_w, 2, kind)


def noise_std(channels: int, levels: int = 1, kind: Kind = "legall") -> np.ndarray:
    """Returns the standard deviation per output channel of `dwt2` of white unit noise.

    Valid away from the border; float32 [4^levels * channels]. Dividing by it gives all
    bands of pure noise the same scale.
    """
    if kind == "haar":
        return np.ones(4**levels * channels, np.float32)
    # Level j applies one filter to the original pixels: the convolution of the filters
    # up to it, dilated by 2^i at level i.
    low = np.ones(1)
    details = []
    for level in range(levels):
        d = np.convolve(low, _dilate([-0.5, 1.0, -0.5], 2**level))
        low = np.convolve(low, _dilate([-0.125, 0.25, 0.75, 0.25, -0.125], 2**level))
        s, d = np.linalg.norm(low), np.linalg.norm(d)
        bands = np.repeat([s * d, d * s, d * d], channels)
        details.append(np.tile(bands, 4 ** (levels - 1 - level)))
    coarse = np.repeat(np.linalg.norm(low) ** 2, channels)
    return np.concatenate([coarse, *reversed(details)]).astype(np.float32)


def _dilate(taps: list[float], step: int) -> np.ndarray:
    out = np.zeros((len(taps) - 1) * step + 1)
    out[::step] = taps
    return out


def _split(x: Array, axis: int, kind: Kind) -> tuple[Array, Array]:
    """Returns the low and the high band along one axis, half as long."""
    shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = jnp.unstack(x.reshape(shape), axis=axis + 1)
    if kind == "haar":
        return (even + odd) * math.sqrt(0.5), (even - odd) * math.sqrt(0.5)
    d = odd - (even + _next(even, axis)) / 2
    return even + (_previous(d, axis) + d) / 4, d


def _merge(s: Array, d: Array, axis: int, kind: Kind) -> Array:
    """Inverts `_split`."""
    if kind == "haar":
        even, odd = (s + d) * math.sqrt(0.5), (s - d) * math.sqrt(0.5)
    else:
        even = s - (_previous(d, axis) + d) / 4
        odd = d + (even + _next(even, axis)) / 2
    shape = (*s.shape[:axis], 2 * s.shape[axis], *s.shape[axis + 1 :])
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def _next(x: Array, axis: int) -> Array:
    """Returns x[n+1], the last one repeated: even samples mirrored at the end."""
    n = x.shape[axis]
    rest, last = _cut(x, 1, n, axis), _cut(x, n - 1, n, axis)
    return jnp.concatenate([rest, last], axis)


def _previous(x: Array, axis: int) -> Array:
    """Returns x[n-1], the first one repeated: odd samples mirrored at the start."""
    first, rest = _cut(x, 0, 1, axis), _cut(x, 0, x.shape[axis] - 1, axis)
    return jnp.concatenate([first, rest], axis)


def _cut(x: Array, start: int, stop: int, axis: int) -> Array:
    return lax.slice_in_dim(x, start, stop, axis=axis)
