"""Image files as a person sees them, and whether they have colours."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage

# Modes of Pillow in which an image has no colours.
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# Decoding reduces an image that is larger than this twice over; none is.
_AS_STORED = 1 << 20

Size = tuple[int, int]


class Photo(NamedTuple):
    """An image file.

    pixels: as RGB.
    stored: height and width of the file, before anything was cut or resized.
    is_grey: whether the file has no colours.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    stored: Size
    is_grey: bool


def read(path: Path, size: Size | None = None) -> Photo:
    """Returns an image file; with a size cut to its shape in the middle and resized.

    Raises:
      ValueError: it is no image.
      OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            pixels = decode.decode(file, path, _AS_STORED)
            with Image.open(file) as opened:
                is_grey = opened.mode in _GREY
    except BadImage as error:
        raise ValueError(str(error)) from error
    stored = pixels.shape[0], pixels.shape[1]
    if size is not None:
        rng = np.random.default_rng(0)  # what it draws is not used
        pixels = transforms.fitted(pixels, rng, size=size, resize="antialias")
    return Photo(pixels, stored, is_grey)
