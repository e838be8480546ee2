"""Maps of an image, such as class ids, depth or another image: their files."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage

_NPY = b"\x93NUMPY"
_FULL_SIZE = 2**20  # as a resolution: larger than any image, so that none is reduced
_PNG_LEVEL = 3


def decode_map(
    encoded: bytes,
    name: str | Path,
    field: str,
    size: tuple[int, int] | None = None,
) -> Shaped[np.ndarray, "h w k"]:
    """Returns a map; what kind it is follows from how it is stored.

    - One channel of integers, such as a palette (its numbers count, not its colours)
      or 8-bit or 16-bit grey: class ids or other numbers, int32 [h, w, 1].
    - One channel of floating-point numbers: float32 [h, w, 1].
    - Any other image, as `decode.decode` shows it: uint8 [h, w, 3].
    - An array in the .npy format, [h, w] or [h, w, k]: as it is.

    Args:
      encoded: the bytes of the file.
      name: of the image that the map belongs to, in messages.
      field: the name of the map.
      size: height and width of the image; None for any.

    Raises:
      BadImage: if the map cannot be read or has another size; the message names it.
    """
    try:
        array = _decode(encoded)
    except BadImage as error:
        raise BadImage(name, f"map {field}: {str(error).removeprefix(': ')}") from None
    except Exception as error:  # of many types, see `decode`
        reason = f"map {field}: {error} ({type(error).__name__})"
        raise BadImage(name, reason) from error
    height, width = array.shape[:2]
    if size not in (None, (height, width)):
        raise BadImage(
            name,
            f"map {field}: has {height}x{width} pixels, and the image has "
            f"{size[0]}x{size[1]}",
        )
    return array


def _decode(encoded: bytes) -> Shaped[np.ndarray, "h w k"]:
    if encoded.startswith(_NPY):
        array = np.load(io.BytesIO(encoded), allow_pickle=False)
        if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
            raise ValueError(f"an array of {array.dtype} and shape {array.shape}")
        return array.reshape(*array.shape[:2], -1)
    file = io.BytesIO(encoded)
    try:
        with Image.open(file) as image:
            is_single = image.mode in ("1", "P", "L", "I", "F")
            if is_single or image.mode.startswith("I;16"):
                values = np.asarray(ImageOps.exif_transpose(image))
                kind = np.float32 if image.mode == "F" else np.int32
                return values.astype(kind)[..., None]
    except Image.UnidentifiedImageError:
        pass  # `decode` says so
    file.seek(0)
    return decode.decode(file, "", _FULL_SIZE)


def encode_map(array: Shaped[np.ndarray, "h w k"]) -> bytes:
    """Returns a file from which `decode_map` reads the same array, of the same type."""
    file = io.BytesIO()
    is_ids = array.dtype == np.int32 and array.shape[2] == 1
    if is_ids and array.size and 0 <= array.min() and array.max() < 2**16:
        kind = np.uint8 if array.max() < 2**8 else np.uint16
        Image.fromarray(array[..., 0].astype(kind)).save(
            file, "PNG", compress_level=_PNG_LEVEL
        )
    elif array.dtype == np.uint8 and array.shape[2] == 3:
        Image.fromarray(array).save(file, "PNG", compress_level=_PNG_LEVEL)
    else:
        np.save(file, array, allow_pickle=False)
    return file.getvalue()
