"""From an image of any size to the pixels that the network sees, on the host."""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Place = Literal["center", "random"]
Resize = Literal["area", "antialias"]

# "area" is the box filter, as in the down-sampled ImageNet data sets: the mean of the
# pixels that fall into each new one. "antialias" is sharper, three pixels wide a side.
_SHRINK = {
    "area": Image.Resampling.BOX,
    "antialias": Image.Resampling.LANCZOS,
}
# A box would enlarge by repeating pixels, and Lanczos rings.
_ENLARGE = Image.Resampling.BICUBIC
# Half the width of the widest of these filters, in pixels of the smaller image.
_WIDEST = 3
# A pixel on the edge between two areas belongs to the first. Were it not for this many
# pixels, rounding would decide, and differently in a part and in the whole; Pillow's
# coordinates have 24 bits.
_NUDGE = 1e-3

# A reduced image keeps this many pixels for each that is needed: the filter that comes
# later then hides that averages over squares went before it.
SPARE = 2


class Crop(NamedTuple):
    """A part of a stored image, and what becomes of it.

    rectangle: (y0, x0, y1, x1) in pixels of the image as a viewer shows it; its corners
      may lie inside pixels.
    size: height and width of the result in pixels.
    mirrored: left and right are exchanged in the end.
    resize: the filter; pixels around the rectangle take part in it.
    box: corners (y0, x0, y1, x1) of the result in units of the whole it is a part of,
      mirrored like that.
    short_of: the config key, with its value, that the image is too small to follow all
      the way; empty if it is not.
    """

    rectangle: tuple[float, float, float, float]
    size: tuple[int, int]
    mirrored: bool
    resize: Resize
    box: tuple[float, float, float, float]
    short_of: str

    @property
    def reduction(self) -> tuple[int, int]:
        """Rows and columns of the image that may become one before it is resized."""
        y0, x0, y1, x1 = self.rectangle
        pixels = (y1 - y0) / self.size[0], (x1 - x0) / self.size[1]
        rows, columns = (int(v / SPARE + 1e-6) for v in pixels)
        return max(rows, 1), max(columns, 1)


def cut(
    image: Image.Image, crop: Crop, reduced: int = 1
) -> UInt8[np.ndarray, "{crop.size[0]} {crop.size[1]} 3"]:
    """Returns a part of an image; only that part, and what it needs, is resampled.

    The result is that part of the whole image resized, within rounding. (An image that
    is reduced first is reduced whole, so that its parts fit together.)

    Args:
      image: in RGB.
      crop: in pixels of the image before it was reduced.
      reduced: so many pixels, both ways, have already become one.
    """
    rows, columns = (max(1, v // reduced) for v in crop.reduction)
    if rows > 1 or columns > 1:
        image = image.reduce((columns, rows))
    rows, columns = rows * reduced, columns * reduced
    (y0, x0, y1, x1), (h, w) = crop.rectangle, crop.size
    shrinks = y1 - y0 >= h and x1 - x0 >= w
    kind = _SHRINK[crop.resize] if shrinks else _ENLARGE
    more = _NUDGE if kind == Image.Resampling.BOX else 0.0
    y0, y1 = max(y0 / rows, 0.0) + more, min(y1 / rows + more, image.height)
    x0, x1 = max(x0 / columns, 0.0) + more, min(x1 / columns + more, image.width)
    # One axis after the other, since Pillow chooses the order by the size of the part.
    around = _WIDEST * max((y1 - y0) / h, 1.0) + 1
    top, bottom = max(int(y0 - around), 0), min(int(y1 + around) + 1, image.height)
    if bottom - top < image.height:
        image = image.crop((0, top, image.width, bottom))
    image = image.resize((w, bottom - top), kind, (x0, 0, x1, bottom - top))
    image = image.resize((w, h), kind, (0, y0 - top, w, y1 - top))
    pixels = np.asarray(image)
    return pixels[:, ::-1] if crop.mirrored else pixels


def fitted(
    image: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    place: Place = "center",
    flip: bool = False,
    resize: Resize = "area",
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """Returns the largest part of an image that has the shape of `size`, at that size.

    Cropping comes first, so that an image of extreme aspect is never enlarged whole.

    Args:
      image: any size.
      rng: the draws of this example; the same two are made whatever is asked for.
      size: height and width of the result, in pixels.
      place: where the part lies along the side that is cut: in the middle, or anywhere.
      flip: mirror left and right with probability 1/2.
      resize: the filter that reduces; enlarging is always bicubic.
    """
    where, coin = rng.random(2)
    h, w, _ = image.shape
    rows = min(h, max(1, round(w * size[0] / size[1])))
    columns = min(w, max(1, round(h * size[1] / size[0])))
    where = 0.5 if place == "center" else where
    y = math.floor(where * (h - rows + 1))
    x = math.floor(where * (w - columns + 1))
    image = resized(image[y : y + rows, x : x + columns], size, resize)
    return image[:, ::-1] if flip and coin < 0.5 else image


def resized(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], resize: Resize
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """Returns an image at another size."""
    (h, w, _), (height, width) = image.shape, size
    if (h, w) == size:
        return image
    kind = _SHRINK[resize] if h >= height and w >= width else _ENLARGE
    return np.asarray(Image.fromarray(image).resize((width, height), kind))
