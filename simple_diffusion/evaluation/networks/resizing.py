"""Resizing as the implementations of a metric do it, each by its own rule.

A feature network takes images of one size, and what it says of them depends on how they
came to it: by several percent of an FID. The rules differ in where pixels lie, in the
filter, and in whether it widens where images shrink (antialiasing). All are separable,
so each is one matrix for the rows and one for the columns, most of it zeros.

  tf1_bilinear    resize_bilinear of TensorFlow 1: pixel i lies at i, no antialiasing.
                  In the Inception graph itself; the evaluator of ADM, torch-fidelity.
  torch_bilinear  interpolate of PyTorch: pixel i lies at i + 1/2, no antialiasing.
                  pytorch-fid.
  clean_bicubic   BICUBIC of Pillow on channels of floats: antialiased, cut off at 0 and
                  255, not rounded. clean-fid.
  torch_bicubic   interpolate of PyTorch with antialias=True: the same filter, but not
                  cut off. EDM2, for DINOv2.
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
    """Returns RGB images of another size, float32 from 0 to 255, not rounded.

    Args:
      images: RGB, or grey with one channel, which is repeated.
      size: the new height and width.
      rule: one of `RULES`.

    Raises:
      ValueError: for another rule, or images of another number of channels.
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} to resize by: known are {', '.join(RULES)}")
    _, h, w, c = images.shape
    if c not in (1, 3):
        raise ValueError(f"features are those of RGB or grey images, got {c} channels")
    x = images
    # Rows first, as all of them do. Where nothing changes, nothing is rounded.
    for axis, old, new in ((2, w, size[1]), (1, h, size[0])):
        if old != new:
            x = _along(x, axis, *_taps(rule, old, new))
    x = x.astype(jnp.float32)
    if rule == "clean_bicubic":
        x = jnp.clip(x, 0, 255)
    return jnp.repeat(x, 3, axis=-1) if c == 1 else x


def _along(
    x: Shaped[Array, "b h w c"],
    axis: int,
    pixels: Int[np.ndarray, "new taps"],
    weights: Float[np.ndarray, "new taps"],
) -> Float[Array, "b H W c"]:
    """Returns weighted sums of pixels; for large images far fewer than by a matrix."""
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
    """Returns which neighbouring pixels each new one is made of, and their weights."""
    matrix = RULES[rule](old, new)
    first = (matrix != 0).argmax(1)
    last = old - 1 - (matrix != 0)[:, ::-1].argmax(1)
    count = np.max(last - first) + 1
    pixels = np.minimum(first, old - count)[:, None] + np.arange(count)
    weights = np.take_along_axis(matrix, pixels, 1).astype(np.float32)
    for kept in (pixels, weights):
        kept.flags.writeable = False
    return pixels, weights


def _tf1_bilinear(old: int, new: int) -> _Matrix:
    # TensorFlow's own precision, which decides on which side of a pixel a position is.
    return _between(np.arange(new, dtype=np.float32) * np.float32(old / new), old)


def _torch_bilinear(old: int, new: int) -> _Matrix:
    scale = np.float32(old / new)
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    return _between(np.maximum(at, 0), old)


def _between(at: Float[np.ndarray, "new"], old: int) -> _Matrix:
    """Returns the weights of the two pixels that each position lies between."""
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, old - 1)  # the last pixel goes on
    share = at - below
    matrix, new = np.zeros((len(at), old)), np.arange(len(at))
    np.add.at(matrix, (new, below), 1 - share)
    np.add.at(matrix, (new, above), share)
    return matrix


def _bicubic(old: int, new: int) -> _Matrix:
    """Returns Keys' filter with a = -1/2, widened where the image shrinks."""
    scale = old / new
    wide = max(scale, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - center) / wide
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    matrix = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return matrix / matrix.sum(1, keepdims=True)  # of what lies inside the image


RULES: dict[str, Callable[[int, int], _Matrix]] = {
    "tf1_bilinear": _tf1_bilinear,
    "torch_bilinear": _torch_bilinear,
    "clean_bicubic": _bicubic,
    "torch_bicubic": _bicubic,
}
