"""Image files as a viewer shows them, and whether they have colours."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage

# Modes of Pillow in which an image has no colours.
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# Decoding would reduce images of more than twice this size; there are none.
_AS_STORED = 1 << 20

Size = tuple[int, int]


class Photo(NamedTuple):
    """An image file.

    pixels: as RGB, or with a fourth channel of transparency.
    stored: height and width of the file, before cropping and resizing.
    is_grey: whether the file has no colours.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    stored: Size
    is_grey: bool


def read(path: Path, channels: int = 3) -> Photo:
    """Reads an image file.

    Args:
      path: of the file.
      channels: 4 keeps its transparency; otherwise it is put on white.

    Raises:
      ValueError: it is not an image.
      OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            kept = 4 if channels == 4 else 3
            pixels = decode.decode(file, path, _AS_STORED, channels=kept)
            with Image.open(file) as opened:
                is_grey = opened.mode in _GREY
    except BadImage as error:
        raise ValueError(str(error)) from error
    return Photo(pixels, (pixels.shape[0], pixels.shape[1]), is_grey)


def from_pixels(pixels: UInt8[np.ndarray, "h w c"]) -> Photo:
    """Returns an image that has no file; with one channel it is grey."""
    is_grey = pixels.shape[2] == 1
    if is_grey:
        pixels = pixels.repeat(3, axis=2)
    return Photo(pixels, (pixels.shape[0], pixels.shape[1]), is_grey)


def fit(pixels: UInt8[np.ndarray, "h w c"], size: Size) -> UInt8[np.ndarray, "H W c"]:
    """Crops an image centrally to the aspect ratio of a size, and resizes it."""
    if pixels.shape[:2] == size:
        return pixels
    rng = np.random.default_rng(0)  # its random numbers are not used
    height, width, _ = pixels.shape
    crop = transforms.choose_crop(height, width, rng, size=size, resize="antialias")
    return transforms.apply_crop(pixels, crop, has_alpha=pixels.shape[2] == 4)
