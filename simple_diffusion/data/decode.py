"""Decodes image files to the pixels that a viewer would show.

Grey, palette, 16-bit, CMYK and transparent images become 8-bit RGB (transparent ones on
white), grey, or RGB with transparency, as the number of channels asks. A rotation noted
in EXIF is applied. An animation gives its first frame. An image that cannot be decoded
raises `BadImage`.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

from simple_diffusion.data import transforms
from simple_diffusion.data.errors import BadImage, DataError, UnsuitableImage

File = io.BytesIO | io.BufferedReader
# (y0, x0, y1, x1) in pixels of the image as a viewer shows it.
Box = tuple[int, int, int, int]
# Height and width of an image -> the part to return.
ChooseCrop = Callable[[int, int], transforms.Crop]

# Number of channels -> Pillow's mode.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Red, green and blue in grey (ITU-R 601-2), in 65536ths as in Pillow.
_LUMA = np.array([19595, 38470, 7471], np.uint32)

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
_SIDEWAYS = tuple(_TURNS[k] for k in (5, 6, 7, 8))


def check_box(box: tuple[int, ...] | None) -> Box | None:
    """Returns `data.crop_box`, four pixel numbers in order, or None.

    Raises:
      DataError: if it is anything else.
    """
    if box is None:
        return None
    if len(box) == 4:
        y0, x0, y1, x1 = (int(v) for v in box)
        if 0 <= y0 < y1 and 0 <= x0 < x1:
            return y0, x0, y1, x1
    raise DataError(
        f"data.crop_box={tuple(box)} must be (y0, x0, y1, x1) in pixels, with "
        "0 <= y0 < y1 and 0 <= x0 < x1, or None"
    )


def decode(
    file: File,
    name: str | Path,
    resolution: int,
    crop_box: Box | None = None,
    channels: int = 3,
) -> UInt8[np.ndarray, "h w {channels}"]:
    """Returns an image, reduced where it is far larger than needed.

    Args:
      file: the encoded image, in any format that Pillow reads.
      name: the name of the image in error messages.
      resolution: the shorter side that is needed later, in pixels; the result is
        reduced only if its shorter side stays at least twice as long.
      crop_box: the part to use as the image; None for all of it.
      channels: of the result: 1 is grey, 3 RGB, 4 RGB with transparency.

    Raises:
      BadImage: if the bytes are no image, are cut short or are of an unknown kind, or
        the box is not inside the image.
    """
    with _raise_bad_image(name), Image.open(file) as image:
        size = transforms.OVERSAMPLING * resolution
        if crop_box is not None:
            loaded = _apply_turn(_load(image, channels), _find_turn(image))
            return _to_array(_reduce(_crop_to_box(loaded, crop_box), size))
        image.draft(None, (size, size))  # JPEG: leave out high frequencies
        reduced = _reduce(_load(image, channels), size)
        return _to_array(_apply_turn(reduced, _find_turn(image)))


def decode_crop(
    file: File,
    name: str | Path,
    choose: ChooseCrop,
    crop_box: Box | None = None,
    channels: int = 3,
) -> tuple[UInt8[np.ndarray, "h w {channels}"], transforms.Crop]:
    """Returns a part of an image and its `Crop`; resamples no more than that part.

    A JPEG is decoded at the reduced scale that the part allows. Decoding only the part,
    as libjpeg can, was no faster: nearly all the time goes into the entropy decoding,
    which has to run from the top left to the last row.

    Args:
      file: as in `decode`.
      name: as in `decode`.
      choose: height and width of the image -> the part; raises `UnsuitableImage` if
        there is none.
      crop_box: as in `decode`.
      channels: as in `decode`.

    Raises:
      BadImage: as `decode`, or if `choose` finds no part.
    """
    with _raise_bad_image(name), Image.open(file) as image:
        if crop_box is None and isinstance(image, JpegImagePlugin.JpegImageFile):
            return _decode_jpeg_crop(image, choose, channels)
        pixels = _apply_turn(_load(image, channels), _find_turn(image))
        if crop_box is not None:
            pixels = _crop_to_box(pixels, crop_box)
        crop = choose(pixels.height, pixels.width)
        return _with_channel_axis(transforms.resample_crop(pixels, crop)), crop


def from_rgb(
    pixels: UInt8[np.ndarray, "*b h w 3"], channels: int
) -> UInt8[np.ndarray, "*b h w {channels}"]:
    """Returns RGB images as grey, or as RGB without transparency."""
    if channels == 1:
        grey = (pixels.astype(np.uint32) @ _LUMA + (1 << 15)) >> 16
        return grey.astype(np.uint8)[..., None]
    if channels == 4:
        opaque = np.full((*pixels.shape[:-1], 1), 255, np.uint8)
        return np.concatenate([pixels, opaque], -1)
    return pixels


def read_size(file: File) -> tuple[int, int]:
    """Returns height and width of an image that can be decoded, as a viewer shows it.

    Reads no more than its header.
    """
    file.seek(0)
    with Image.open(file) as image:
        width, height = image.size
        try:
            # Not `image.getexif()`, which decodes all of a PNG.
            number = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
        except Exception:
            number = 1  # as `_find_turn`
    return (width, height) if _TURNS.get(number) in _SIDEWAYS else (height, width)


def _decode_jpeg_crop(
    image: JpegImagePlugin.JpegImageFile, choose: ChooseCrop, channels: int
) -> tuple[UInt8[np.ndarray, "h w c"], transforms.Crop]:
    """Returns the chosen part of an image that is not loaded yet, and its `Crop`."""
    turn, (w, h) = _find_turn(image), image.size
    crop = choose(w, h) if turn in _SIDEWAYS else choose(h, w)
    limit = min(crop.reduction)
    scale = max(k for k in (1, 2, 4, 8) if k <= limit)
    draft = image.draft(None, (max(w // scale, 1), max(h // scale, 1)))
    reduced = 1 if draft is None else round(w / draft[1][2])
    loaded = _apply_turn(_load(image, channels), turn)
    return _with_channel_axis(transforms.resample_crop(loaded, crop, reduced)), crop


@contextlib.contextmanager
def _raise_bad_image(name: str | Path) -> Iterator[None]:
    """Turns any error of decoding into a `BadImage` that names the image."""
    try:
        yield
    except UnsuitableImage as error:
        raise BadImage(name, str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImage(name, "not an image, or of an unknown format") from None
    except Exception as error:
        # Decoders raise all kinds of errors on damaged bytes: OSError, SyntaxError,
        # struct.error, ... None of them may stop a training run.
        raise BadImage(name, f"{error} ({type(error).__name__})") from error


def _load(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image of any mode as 8-bit grey, RGB or RGBA.

    Without transparency in the result, a transparent image is put on white.
    """
    mode = _MODES[channels]
    image.load()
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        # 32-bit formats define no white: scale from the darkest to the brightest pixel.
        v = np.nan_to_num(np.asarray(image, np.float64))
        v = (v - v.min()) / max(np.ptp(v), 1e-9)
        image = Image.fromarray(np.round(v * 255).astype(np.uint8))
    elif image.has_transparency_data and mode != "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    return _with_channel_axis(np.asarray(image))


def _with_channel_axis(pixels: np.ndarray) -> UInt8[np.ndarray, "h w c"]:
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _crop_to_box(image: Image.Image, box: Box) -> Image.Image:
    """Returns the part inside the box; UnsuitableImage if the box exceeds the image."""
    y0, x0, y1, x1 = box
    if y1 > image.height or x1 > image.width:
        size = f"{image.height}x{image.width}"
        raise UnsuitableImage(
            f"data.crop_box={box} reaches outside of its {size} pixels"
        )
    return image.crop((x0, y0, x1, y1))


def _reduce(image: Image.Image, size: int) -> Image.Image:
    """Returns the image averaged over squares, both sides being at least `size`."""
    factor = min(image.size) // size
    return image.reduce(factor) if factor > 1 else image


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """Returns the turn that the EXIF data of the image specify, if any."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return None  # damaged EXIF data: a viewer shows the image as it is stored


def _apply_turn(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """Returns the image turned."""
    return image if turn is None else image.transpose(turn)
