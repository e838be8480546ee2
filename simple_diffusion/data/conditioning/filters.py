"""Blurs and resizes images of floats, on the host.

The filters are those with which published degradations were made. Pillow's differ: it
widens each filter when it shrinks an image, which hides fine waves. "linear" and
"cubic", as in OpenCV, look at the nearest pixels only and turn fine waves into coarse
ones, which a network for super-resolution has to undo.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

Filter = Literal["linear", "cubic", "area", "antialiased"]
FloatImage = Float32[np.ndarray, "h w c"]

# The parameter of cubic convolution (Keys 1981): OpenCV's; and that of MATLAB and
# Pillow, the only one that reproduces parabolas.
_SHARP, _SMOOTH = -0.75, -0.5


def resize(
    image: FloatImage, size: tuple[int, int], filter: Filter
) -> Float32[np.ndarray, "h2 w2 c"]:
    """Returns an image at another size; pixels outside it repeat those at its edge.

    Args:
      image: of any range; values may exceed it, unless the filter is "linear" or
        "area".
      size: height and width of the result.
      filter: "linear" and "cubic" use the 2 and 4 nearest pixels along each axis,
        "area" the mean of the pixels that become one (where it enlarges, "linear"),
        "antialiased" a cubic that widens as the image shrinks.
    """
    for axis, length in enumerate(size):
        index, weight = _find_taps(image.shape[axis], length, filter)
        shape = [1, 1, 1]
        shape[axis] = length
        rows = zip(index.T, weight.T, strict=True)
        image = sum(
            (np.take(image, i, axis) * w.reshape(shape) for i, w in rows),
            start=np.zeros((), np.float32),
        )
    return image


def gaussian(taps: int, sigma: float) -> Float[np.ndarray, "taps"]:
    """Returns a Gaussian around the middle of `taps` pixels, of sum 1.

    Args:
      taps: if it is even, the middle lies between two pixels.
      sigma: its standard deviation in pixels, above 0.
    """
    place = np.arange(taps) - (taps - 1) / 2
    return _normalise(place**2 / sigma**2)


def gaussian_2d(
    taps: int, variances: tuple[float, float], angle: float
) -> Float[np.ndarray, "taps taps"]:
    """Returns a Gaussian, wider along one direction than across it, of sum 1.

    Args:
      taps: pixels along each axis.
      variances: along and across the direction, in squared pixels, above 0.
      angle: from the axis x to the direction, towards y, in radians.
    """
    y, x = np.mgrid[:taps, :taps] - (taps - 1) / 2
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    return _normalise(along**2 / variances[0] + across**2 / variances[1])


def convolve(image: FloatImage, kernel: Float[np.ndarray, "k k"]) -> FloatImage:
    """Returns the convolution of each channel, by a Fourier transform.

    The image is mirrored at its edges, without repeating the last pixel. A kernel with
    an even side moves the picture up and left by half a pixel.
    """
    h, w, _ = image.shape
    k = len(kernel)
    padded = np.pad(image, [(k - 1 - k // 2, k // 2)] * 2 + [(0, 0)], mode="reflect")
    # What wraps around at the ends of the transform stays in the first k - 1 rows and
    # columns, which are cut off.
    size = tuple(_round_up(n) for n in padded.shape[:2])
    spectrum = np.fft.rfft2(padded, size, axes=(0, 1))
    spectrum *= np.fft.rfft2(kernel.astype(np.float32), size)[:, :, None]
    blurred = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return blurred[k - 1 : k - 1 + h, k - 1 : k - 1 + w].astype(np.float32)


def convolve_axes(
    image: FloatImage, profile: Float[np.ndarray, "k"], step: int = 1
) -> Float32[np.ndarray, "h2 w2 c"]:
    """Returns every `step`-th pixel of the convolution along both axes in turn.

    As `convolve` with the outer product of the profile with itself, and faster for few
    taps.
    """
    k = len(profile)
    for axis in (0, 1):
        length = image.shape[axis]
        margins = [(0, 0)] * 3
        margins[axis] = k - 1 - k // 2, k // 2
        padded = np.moveaxis(np.pad(image, margins, mode="reflect"), axis, 0)
        result = np.zeros((), np.float32)
        for j, weight in enumerate(profile.astype(np.float32)):
            if weight > 0:
                start = k - 1 - j
                result = result + weight * padded[start : start + length : step]
        image = np.moveaxis(result, 0, axis)
    return image


def _find_taps(
    length: int, new_length: int, filter: Filter
) -> tuple[Int[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Returns which pixels of an axis make each new pixel, and their weights."""
    scale = length / new_length
    if filter == "area" and scale > 1:
        start = np.arange(new_length)[:, None] * scale
        # Without the small number, rounding may add a pixel of weight 0 in front.
        index = np.floor(start + 1e-9).astype(int) + np.arange(math.ceil(scale) + 1)
        overlap = np.minimum(index + 1, start + scale) - np.maximum(index, start)
        weight = np.maximum(overlap, 0)
    else:
        kernel, reach, stretch = _describe(filter, scale)
        centre = (np.arange(new_length)[:, None] + 0.5) * scale - 0.5
        first = np.floor(centre - reach * stretch).astype(int) + 1
        index = first + np.arange(math.ceil(2 * reach * stretch))
        weight = kernel((index - centre) / stretch)
    weight /= weight.sum(1, keepdims=True)
    return np.clip(index, 0, length - 1), weight.astype(np.float32)


def _describe(filter: Filter, scale: float) -> tuple[Callable, int, float]:
    """Returns a kernel, where it ends, and by how much it is widened."""
    if filter == "antialiased":
        return lambda v: _cubic(v, _SMOOTH), 2, max(scale, 1.0)
    if filter == "cubic":
        return lambda v: _cubic(v, _SHARP), 2, 1.0
    return lambda v: np.maximum(1 - np.abs(v), 0), 1, 1.0


def _cubic(v: np.ndarray, a: float) -> np.ndarray:
    """Returns the kernel of cubic convolution with the parameter a."""
    v = np.abs(v)
    inner = (a + 2) * v**3 - (a + 3) * v**2 + 1
    outer = a * (v**3 - 5 * v**2 + 8 * v - 4)
    return np.where(v <= 1, inner, np.where(v < 2, outer, 0.0))


def _normalise(distance: np.ndarray) -> np.ndarray:
    """Returns exp(-distance / 2), of sum 1."""
    # The smallest distance is subtracted, or all values may be too small for a float.
    values = np.exp(-0.5 * (distance - distance.min()))
    return values / values.sum()


def _round_up(length: int) -> int:
    """Returns the next length without prime factors above 5, for a fast transform."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
