"""Images: [-1, 1] to and from uint8, grids, and PNG files."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8
from PIL import Image

from simple_diffusion.core.types import HostOrDevice


def to_unit_range(image: UInt8[HostOrDevice, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Returns float32 in [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1.0


def to_uint8(x: Float[HostOrDevice, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """Returns the nearest uint8 pixels; values outside [-1, 1] are clipped."""
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def to_rgb(images: UInt8[HostOrDevice, "*b h w c"]) -> UInt8[Any, "*b h w 3"]:
    """Returns images as RGB: grey is repeated, transparency is put on white.

    Args:
      images: of 1 (grey), 3 (RGB) or 4 channels (RGB with transparency); arrays of
        NumPy give arrays of NumPy.

    Raises:
      ValueError: there is another number of channels.
    """
    xp = np if isinstance(images, np.ndarray) else jnp
    match images.shape[-1]:
        case 1:
            return xp.repeat(images, 3, axis=-1)
        case 3:
            return images
        case 4:
            wide = images.astype(xp.int32)
            colour, alpha = wide[..., :3], wide[..., 3:]
            on_white = (colour * alpha + 255 * (255 - alpha) + 127) // 255
            return on_white.astype(xp.uint8)
    raise ValueError(f"images must have 1, 3 or 4 channels, got {images.shape[-1]}")


def make_grid(
    images: UInt8[np.ndarray, "n h w c"], columns: int | None = None, pad: int = 2
) -> UInt8[np.ndarray, "H W c"]:
    """Returns all images side by side on white, in rows of `columns`.

    Args:
      images: at least one image.
      columns: images in a row; by default the grid is as square as possible.
      pad: pixels of white between and around the images.
    """
    n, h, w, c = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    shape = (rows * (h + pad) + pad, columns * (w + pad) + pad, c)
    sheet = np.full(shape, 255, np.uint8)
    for k, image in enumerate(images):
        y = pad + (k // columns) * (h + pad)
        x = pad + (k % columns) * (w + pad)
        sheet[y : y + h, x : x + w] = image
    return sheet


def enlarge(
    image: UInt8[np.ndarray, "h w c"], factor: int
) -> UInt8[np.ndarray, "H W c"]:
    """Returns the image with each pixel repeated, so that small samples can be seen."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def write_png(path: epath.PathLike, image: UInt8[np.ndarray, "h w c"]) -> None:
    """Writes a PNG atomically: a reader never sees an incomplete file."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    with partial.open("wb") as file:  # not by path: it may be in a bucket
        Image.fromarray(pixels).save(file, format="PNG")
    partial.replace(path)


def read_png(path: epath.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image file as RGB."""
    with epath.Path(path).open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
