"""Denoising of images larger than the input of the network, in windows.

All windows are cut from one z_t, and the estimates of the network are fused at every
step. The result is one image with one noise, and the solver does not see the windows:

    x̂(p) = Σᵢ wᵢ(p) x̂ᵢ(p),   Σᵢ wᵢ(p) = 1 at every pixel p.                     (1)

At a fixed z_t every kind of prediction is an affine function of x̂, and (1) is an affine
combination: the mean of x̂ is the mean of eps and of v.

A weight is a product of one factor per end of the window. Towards an end of the image
itself it is 1. At an end inside the image the network lacks context for the outermost
pixels, so windows overlap by o = window - stride. With d the
distance of a pixel's centre from that end,

    u = 1/2 + (d - o/2) / (taper o),   w ∝ sin²(π/2 clip(u, 0, 1)).               (2)

It is 0 for d <= (1 - taper)/2 o, rises over the middle of the overlap, and is 1 beyond.
The fused windows therefore equal the full image for a network whose outputs depend on
inputs at most (1 - taper)/2 o pixels away.

Without the outer half of each overlap windows are one stride long and begin at most one
stride apart (less if the last one had to be moved back into the image): they still
cover the image. There u >= 1/2 at all ends, so that the sum of the weights, by which
(1) divides, is nowhere less than 1/4 along an axis.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped

from simple_diffusion.core.types import Conditioning, DenoiseFn

Image = Float[Array, "b h w c"]
LogSNR = Float[Array, "b"]
Bind = Callable[[Conditioning], DenoiseFn]


def fuse_windows(
    bind: Bind,
    *,
    window: int | tuple[int, int],
    stride: int,
    batch: int,
    taper: float = 0.5,
    devices: int = 1,
    constrain: Callable[[Array], Array] = lambda array: array,
) -> Bind:
    """Returns `bind` for images of any size, given `bind` for windows of them.

    The network is compiled once, for a group of windows. The memory is that of one
    group and of a few arrays of the size of the image.

    A window has the conditioning of its image, except for `box`, which becomes the box
    of the window, and for `image` and fields [b, h, w, ...] of the height and width of
    z_t, which are cut like z_t. A network that depends on the
    position needs the box of all of z_t: (0, 0, 1, 1) for a full image.

    Args:
      bind: conditioning -> denoise function of windows. For fused windows to equal the
        full image, `stride`, `window` and the image must be multiples of the pooling
        factor of the network.
      window: side in pixels, or height and width. Along an axis where the image is not
        larger there is one window, of the image's size.
      stride: pixels from one window to the next; the last one ends with the image.
      batch: most windows per call of the network, of all images together (rounded up to
        a multiple of `devices`).
      taper: fraction of the overlap over which windows blend: 0 switches in the middle,
        1 leaves no margin.
      devices: the number of windows per call is a multiple of it.
      constrain: applied to every array whose first axis are the windows of a call, such
        as `jax.lax.with_sharding_constraint`, to spread them over the devices. Each
        device then needs all of z_t.

    Raises:
      ValueError: a number out of range, by the name of its key in the config.
    """
    sides = _pair(window)
    _check(sides, stride, batch, taper)

    def bind_full(cond: Conditioning) -> DenoiseFn:
        def denoise(z_t: Image, logsnr: LogSNR) -> Image:
            images, *full_size, _ = z_t.shape
            y, x = (
                _Axis(
                    n,
                    window_starts(n, side, stride),
                    window_weights(n, side, stride, taper),
                )
                for n, side in zip(full_size, sides, strict=True)
            )
            tiling = _Tiling(images, y, x)
            calls, each = _groups(tiling.total, batch, devices)

            def add_group(mean: Image, call: Int[Array, ""]) -> tuple[Image, None]:
                index = call * each + jnp.arange(each)
                at = tiling.at(index)
                z = constrain(_cut(z_t, at, tiling.size))
                part = jax.tree.map(constrain, _part(cond, at, tiling))
                x_hat = bind(part)(z, constrain(logsnr[at[:, 0]]))
                weighted = constrain(tiling.weight(index)[..., None] * x_hat)
                return _add(mean, weighted, at), None

            mean = jnp.zeros(z_t.shape, jnp.float32)
            return jax.lax.scan(add_group, mean, jnp.arange(calls))[0]

        return denoise

    return bind_full


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Returns the starts of the windows along an axis; the last ends with the axis."""
    last = max(length - window, 0)
    return (*range(0, last, stride), last)


def count_windows(
    size: tuple[int, int], window: int | tuple[int, int], stride: int
) -> int:
    """Returns the number of windows of one image of this height and width."""
    y, x = (
        len(window_starts(length, side, stride))
        for length, side in zip(size, _pair(window), strict=True)
    )
    return y * x


def window_weights(
    length: int, window: int, stride: int, taper: float
) -> Float32[np.ndarray, "n w"]:
    """Returns the weights of each window along an axis, divided by their sum.

    The weights of an image are products of one weight along each axis. They sum to 1
    too: the sum of all products is the product of both sums.
    """
    starts = np.array(window_starts(length, window, stride))[:, None]
    overlap, window = window - stride, min(window, length)
    distance = np.arange(window)[None] + 0.5

    def ramp(distance: np.ndarray) -> np.ndarray:
        # A taper of 0 becomes a ramp much shorter than a pixel.
        u = 0.5 + (distance - overlap / 2) / max(taper * overlap, 1e-6)
        return np.sin(0.5 * np.pi * np.clip(u, 0.0, 1.0)) ** 2

    left = np.where(starts == 0, 1.0, ramp(distance))
    right = np.where(starts == starts[-1], 1.0, ramp(distance[:, ::-1]))
    pixel = starts + np.arange(window)[None]
    total = np.zeros(length)
    np.add.at(total, pixel, left * right)
    return (left * right / total[pixel]).astype(np.float32)


class _Axis(NamedTuple):
    """The windows along one axis; weights are [number of windows, side of a window]."""

    length: int
    starts: tuple[int, ...]
    weights: np.ndarray


@dataclass(frozen=True)
class _Tiling:
    """All windows of a batch, numbered image by image, row by row."""

    images: int
    y: _Axis
    x: _Axis

    @property
    def full_size(self) -> tuple[int, int]:
        return self.y.length, self.x.length

    @property
    def size(self) -> tuple[int, int]:
        return self.y.weights.shape[1], self.x.weights.shape[1]

    @property
    def total(self) -> int:
        return self.images * len(self.y.starts) * len(self.x.starts)

    def at(self, index: Int[Array, "n"]) -> Int[Array, "n 3"]:
        """Returns (image, y, x) of windows; numbers from `total` on wrap around."""
        image, row, column = self._unravel(index)
        y, x = (jnp.array(axis.starts, jnp.int32) for axis in (self.y, self.x))
        return jnp.stack([image, y[row], x[column]], axis=1)

    def weight(self, index: Int[Array, "n"]) -> Float[Array, "n h w"]:
        """Returns weights of windows; 0 from `total` on, for the padding of a group."""
        _, row, column = self._unravel(index)
        y, x = (jnp.asarray(axis.weights) for axis in (self.y, self.x))
        real = (index < self.total).astype(jnp.float32)
        return real[:, None, None] * y[row][:, :, None] * x[column][:, None, :]

    def _unravel(self, index: Array) -> tuple[Array, ...]:
        shape = (self.images, len(self.y.starts), len(self.x.starts))
        return jnp.unravel_index(index % self.total, shape)


def _groups(total: int, batch: int, devices: int) -> tuple[int, int]:
    """Returns the number of calls and the number of windows per call."""
    most = -(-batch // devices) * devices
    calls = -(-total // most)
    # Evenly: 9 windows in groups of at most 8 are 5 and 5, not 8 and 8.
    return calls, -(-total // (calls * devices)) * devices


def _cut(
    images: Shaped[Array, "b h w c"], at: Int[Array, "n 3"], size: tuple[int, int]
) -> Shaped[Array, "n window_h window_w c"]:
    def one(at: Int[Array, "3"]) -> Shaped[Array, "window_h window_w c"]:
        shape = (1, *size, images.shape[-1])
        return jax.lax.dynamic_slice(images, (*at, 0), shape)[0]

    return jax.vmap(one)(at)


def _add(
    images: Image, parts: Float[Array, "n window_h window_w c"], at: Int[Array, "n 3"]
) -> Image:
    def one(images: Image, step: tuple[Array, Array]) -> tuple[Image, None]:
        part, at = step
        old = jax.lax.dynamic_slice(images, (*at, 0), (1, *part.shape))
        new = old + part[None]
        return jax.lax.dynamic_update_slice(images, new, (*at, 0)), None

    # Sequential, because windows overlap and a scatter would sum them in a
    # nondeterministic order on some devices.
    return jax.lax.scan(one, images, (parts, at))[0]


def _part(cond: Conditioning, at: Int[Array, "n 3"], tiling: _Tiling) -> Conditioning:
    spatial = {name: v for name, v in cond.fields.items() if _is_map(v, tiling)}
    others = {name: v for name, v in cond.fields.items() if name not in spatial}
    part = replace(cond, image=None, fields=others)
    part = jax.tree.map(lambda a: a[at[:, 0]], part)
    cut = {name: _cut_map(v, at, tiling.size) for name, v in spatial.items()}
    part = replace(part, fields={**part.fields, **cut})
    if part.box is not None:
        low, extent = part.box[:, :2], part.box[:, 2:] - part.box[:, :2]
        ends = (at[:, 1:], at[:, 1:] + jnp.array([tiling.size]))
        full_size = jnp.array([tiling.full_size], jnp.float32)
        box = jnp.concatenate(
            [low + extent * (end / full_size) for end in ends], axis=1
        )
        part = replace(part, box=box)
    if cond.image is not None:
        part = replace(part, image=_cut(cond.image, at, tiling.size))
    return part


def _is_map(value: Array, tiling: _Tiling) -> bool:
    return value.ndim in (3, 4) and value.shape[1:3] == tiling.full_size


def _cut_map(value: Array, at: Int[Array, "n 3"], size: tuple[int, int]) -> Array:
    if value.ndim == 4:
        return _cut(value, at, size)
    return _cut(value[..., None], at, size)[..., 0]


def _pair(window: int | tuple[int, int]) -> tuple[int, int]:
    return (window, window) if isinstance(window, int) else window


def _check(sides: tuple[int, int], stride: int, batch: int, taper: float) -> None:
    if min(sides) < 1:
        raise ValueError(f"sample.window={min(sides)} must be at least 1")
    if not 1 <= stride <= min(sides):
        raise ValueError(
            f"sample.window_stride={stride} must be between 1 and "
            f"sample.window={min(sides)}, or windows leave gaps"
        )
    if batch < 1:
        raise ValueError(f"sample.window_batch={batch} must be at least 1")
    if not 0.0 <= taper <= 1.0:
        raise ValueError(f"sample.window_taper={taper} must be between 0 and 1")
