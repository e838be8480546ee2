"""Resizing by the rules of the reference implementations of metrics.

A feature network takes images of one size, and the rule of resizing changes an FID by
several percent. The rules differ in the positions of pixels, in the filter, and in
whether it widens for smaller sizes (antialiasing). All are separable, so each is one
sparse matrix for the rows and one for the columns.

  tf1_bilinear    resize_bilinear of TensorFlow 1: pixel i lies at i, no antialiasing.
                  The Inception graph itself, the evaluator of ADM, torch-fidelity.
  torch_bilinear  interpolate of PyTorch: pixel i lies at i + 1/2, no antialiasing.
                  pytorch-fid.
  clean_bicubic   BICUBIC of Pillow on channels of floats: antialiased, clipped to 0 to
                  255, not rounded. clean-fid.
  torch_bicubic   interpolate of PyTorch with antialias=True: the same filter, not
                  clipped. EDM2, for DINOv2.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

_Matrix = Float[np.ndarray, "new old"]


def resize(
    images: UInt8[Array, "b h w c"], size: tuple[int, int], rule: str
) -> Float[Array, "b H W 3"]:
    """Returns resized RGB images, float32 from 0 to 255, not rounded.

    Args:
      images: RGB, or grey with one channel, which is repeated.
      size: new height and width.
      rule: one of `RULES`.

    Raises:
      ValueError: for an unknown rule, or another number of channels.
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} to resize by: known are {', '.join(RULES)}")
    _, h, w, c = images.shape
    if c not in (1, 3):
        raise ValueError(f"features are those of RGB or grey images, got {c} channels")
    x = images
    # Along rows first, as in all implementations. An unchanged axis is not rounded.
    for axis, old, new in ((2, w, size[1]), (1, h, size[0])):
        if old != new:
            x = _resize_axis(x, axis, *_taps(rule, old, new))
    x = x.astype(jnp.float32)
    if rule == "clean_bicubic":
        x = jnp.clip(x, 0, 255)
    return jnp.repeat(x, 3, axis=-1) if c == 1 else x


def _resize_axis(
    x: Shaped[Array, "b h w c"],
    axis: int,
    pixels: Int[np.ndarray, "new taps"],
    weights: Float[np.ndarray, "new taps"],
) -> Float[Array, "b H W c"]:
    """Returns weighted sums of pixels; cheaper than a dense matrix for large images."""
    shape = [-1 if k == axis else 1 for k in range(4)]
    parts = [
        jnp.take(x, at, axis, mode="clip").astype(jnp.float32)
        * jnp.asarray(weight.reshape(shape))
        for at, weight in zip(pixels.T, weights.T, strict=True)
    ]
    return functools.reduce(jnp.add, parts)


@functools.lru_cache(maxsize=64)
def _taps(
    rule: str, old: int, new: int
) -> tuple[Int[np.ndarray, "new taps"], Float[np.ndarray, "new taps"]]:
    """Returns the source pixels of each new pixel, and their weights."""
    matrix = RULES[rule](old, new)
    first = (matrix != 0).argmax(1)
    last = old - 1 - (matrix != 0)[:, ::-1].argmax(1)
    count = np.max(last - first) + 1
    pixels = np.minimum(first, old - count)[:, None] + np.arange(count)
    weights = np.take_along_axis(matrix, pixels, 1).astype(np.float32)
    for array in (pixels, weights):  # they are cached
        array.flags.writeable = False
    return pixels, weights


def _tf1_bilinear(old: int, new: int) -> _Matrix:
    # In TensorFlow's precision, which decides on which side of a pixel a position is.
    return _interpolate(np.arange(new, dtype=np.float32) * np.float32(old / new), old)


def _torch_bilinear(old: int, new: int) -> _Matrix:
    scale = np.float32(old / new)
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    return _interpolate(np.maximum(at, 0), old)


def _interpolate(at: Float[np.ndarray, "new"], old: int) -> _Matrix:
    """Returns the linear weights of the two pixels around each position."""
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, old - 1)  # the last pixel is repeated
    share = at - below
    matrix, new = np.zeros((len(at), old)), np.arange(len(at))
    np.add.at(matrix, (new, below), 1 - share)
    np.add.at(matrix, (new, above), share)
    return matrix


def _bicubic(old: int, new: int) -> _Matrix:
    """Returns Keys' filter with a = -1/2, widened if the image shrinks."""
    scale = old / new
    width = max(scale, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - center) / width
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    matrix = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return matrix / matrix.sum(
        1, keepdims=True
    )  # normalised over the pixels inside the image


RULES: dict[str, Callable[[int, int], _Matrix]] = {
    "tf1_bilinear": _tf1_bilinear,
    "torch_bilinear": _torch_bilinear,
    "clean_bicubic": _bicubic,
    "torch_bicubic": _bicubic,
}
