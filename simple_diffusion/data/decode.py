"""From the bytes of an image file to the RGB pixels that a viewer would show.

Grey, palette, 16-bit, CMYK and transparent images become 8-bit RGB (transparent ones on
white), a rotation noted in EXIF is carried out, and of an animation the first frame is
taken. What cannot be decoded raises `BadImage`.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from simple_diffusion.data.errors import BadImage

# EXIF orientation -> the turn that undoes it; 1 is upright.
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A reduced image keeps this many pixels for each that is needed: the filter that comes
# later then hides that averages over squares went before it.
_SPARE = 2


def decode(
    file: io.BytesIO | io.BufferedReader, name: str | Path, resolution: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image as RGB, reduced where it is far larger than needed.

    Args:
      file: the encoded image, in any format that Pillow reads.
      name: what a complaint calls the image.
      resolution: the shorter side that is needed later, in pixels; the result is
        reduced only if its shorter side stays at least twice as long.

    Raises:
      BadImage: if the bytes are no image, are cut short or are of an unknown kind.
    """
    try:
        with Image.open(file) as image:
            size = _SPARE * resolution
            image.draft(None, (size, size))  # JPEG: leave out high frequencies
            image.load()
            return np.asarray(_upright(_reduce(_rgb(image), size), image))
    except Image.UnidentifiedImageError:
        raise BadImage(name, "not an image, or of an unknown format") from None
    except Exception as error:
        # Decoders raise all kinds of errors on damaged bytes: OSError, SyntaxError,
        # struct.error, ... None of them may stop a training run.
        raise BadImage(name, f"{error} ({type(error).__name__})") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Returns a loaded image of any mode as 8-bit RGB, on white if transparent."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        # 32 bits per pixel state no white: from the darkest to the brightest pixel.
        v = np.nan_to_num(np.asarray(image, np.float64))
        v = (v - v.min()) / max(np.ptp(v), 1e-9)
        image = Image.fromarray(np.round(v * 255).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _reduce(image: Image.Image, size: int) -> Image.Image:
    """Returns the image averaged over squares, both sides being at least `size`."""
    factor = min(image.size) // size
    return image.reduce(factor) if factor > 1 else image


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Returns the pixels turned as the EXIF data of the image say, if it has any."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return pixels  # damaged EXIF data: a viewer shows the image as it lies
    return pixels if turn is None else pixels.transpose(turn)
