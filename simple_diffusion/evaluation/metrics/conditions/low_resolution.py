"""Images that were made from small ones: whether they have become the same again."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

# As Pillow computes them, for 8-bit pixels.
_RULES = {"area": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC}


class Consistency(NamedTuple):
    """Absolute differences of reduced images from their inputs, in levels of 255.

    Fields:
      mean: over the pixels and channels of each image.
      most: the largest of each image.
    """

    mean: Float64[np.ndarray, "n"]
    most: Float64[np.ndarray, "n"]


def reduce_images(
    images: UInt8[np.ndarray, "n h w c"], size: tuple[int, int], rule: str = "area"
) -> UInt8[np.ndarray, "n H W c"]:
    """Returns smaller images, rounded to 8 bits.

    Args:
      images: of any number of channels.
      size: the new height and width.
      rule: "area", the mean of the pixels that fall into each new one, or "bicubic",
        which is antialiased.

    Raises:
      ValueError: there is no such rule.
    """
    if rule not in _RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(_RULES)}")
    return _resize(images, size, _RULES[rule])


def enlarge(
    images: UInt8[np.ndarray, "n h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n H W c"]:
    """Returns larger images by bicubic interpolation: what needs no model."""
    return _resize(images, size, Image.Resampling.BICUBIC)


def _resize(
    images: UInt8[np.ndarray, "n h w c"],
    size: tuple[int, int],
    filter: Image.Resampling,
) -> UInt8[np.ndarray, "n H W c"]:
    # Channel by channel: Pillow would take the last of two or four for transparency.
    planes = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3])
    width_first = size[1], size[0]
    resized = [
        np.asarray(Image.fromarray(plane).resize(width_first, filter))
        for plane in planes
    ]
    stack = np.array(resized, np.uint8).reshape(len(images), -1, *size)
    return np.moveaxis(stack, 1, -1)


def compare(
    images: UInt8[np.ndarray, "n h w c"],
    small: UInt8[np.ndarray, "n H W c"],
    rule: str = "area",
) -> Consistency:
    """Returns how much images differ from their inputs, once they are reduced.

    Args:
      images: samples.
      small: the images that they were made from.
      rule: how the inputs were reduced, see `reduce_images`.

    Raises:
      ValueError: there is no such rule.
    """
    again = reduce_images(images, small.shape[1:3], rule).astype(np.float64)
    error = np.abs(again - small)
    return Consistency(error.mean((1, 2, 3)), error.max((1, 2, 3)))
