"""Crops, flips and resizes images of any size to what the network sees, on the host."""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

CropMode = Literal["center", "random"]
Resize = Literal["area", "antialias"]
# Pixels, or a map of measures such as depth.
Plane = UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]

# "area" is the box filter, as in the down-sampled ImageNet datasets: the mean of the
# pixels that fall into each new one. "antialias" is sharper, three pixels wide a side.
_SHRINK = {
    "area": Image.Resampling.BOX,
    "antialias": Image.Resampling.LANCZOS,
}
# A box would enlarge by repeating pixels, and Lanczos rings.
_ENLARGE = Image.Resampling.BICUBIC
# Half the width of the widest of these filters, in pixels of the smaller image.
_MAX_SUPPORT = 3
# A pixel on the edge between two areas belongs to the first. Without this shift, in
# pixels, rounding would decide, and differently in a patch and in the full image;
# Pillow's coordinates have 24 bits.
_EDGE_SHIFT = 1e-3

# A reduced image keeps this many pixels for each output pixel: the filter that comes
# later then hides that averages over squares came before it.
OVERSAMPLING = 2


class Crop(NamedTuple):
    """A part of a stored image, and how it is resampled.

    rectangle: (y0, x0, y1, x1) in pixels of the image as a viewer shows it; its corners
      may lie inside pixels.
    size: height and width of the result in pixels.
    mirrored: whether left and right are exchanged at the end.
    resize: the filter; pixels around the rectangle take part in it.
    box: corners (y0, x0, y1, x1) of the result in units of the full image that it is a
      part of, which is mirrored if the result is.
    unmet_setting: the config key, with its value, for whose full range the image is too
      small; empty if there is none.
    is_cut: whether the rectangle, with integer corners, is cut out before anything
      else, so that pixels around it take no part.
    """

    rectangle: tuple[float, float, float, float]
    size: tuple[int, int]
    mirrored: bool
    resize: Resize
    box: tuple[float, float, float, float]
    unmet_setting: str
    is_cut: bool = False

    @property
    def reduction(self) -> tuple[int, int]:
        """Rows and columns of the image that may become one before it is resized."""
        y0, x0, y1, x1 = self.rectangle
        pixels = (y1 - y0) / self.size[0], (x1 - x0) / self.size[1]
        rows, columns = (int(v / OVERSAMPLING + 1e-6) for v in pixels)
        return max(rows, 1), max(columns, 1)


def resample_crop(
    image: Image.Image, crop: Crop, prior_reduction: int = 1
) -> UInt8[np.ndarray, "h w *c"] | Float32[np.ndarray, "h w"]:
    """Returns a part of an image; resamples only that part and what its filter needs.

    Within rounding, the result is that part of the resized full image. (An image that
    is reduced first is reduced in full, so that its parts fit together.)

    Args:
      image: of any mode; the result of one with a single channel, which may be of
        floats, has no channel axis.
      crop: in pixels of the image before it was reduced.
      prior_reduction: how many pixels, along both axes, have already become one.
    """
    rows, columns = (max(1, v // prior_reduction) for v in crop.reduction)
    if rows > 1 or columns > 1:
        image = image.reduce((columns, rows))
    rows, columns = rows * prior_reduction, columns * prior_reduction
    (y0, x0, y1, x1), (h, w) = crop.rectangle, crop.size
    shrinks = y1 - y0 >= h and x1 - x0 >= w
    kernel = _SHRINK[crop.resize] if shrinks else _ENLARGE
    shift = _EDGE_SHIFT if kernel == Image.Resampling.BOX else 0.0
    y0, y1 = max(y0 / rows, 0.0) + shift, min(y1 / rows + shift, image.height)
    x0, x1 = max(x0 / columns, 0.0) + shift, min(x1 / columns + shift, image.width)
    # One axis after the other, since Pillow chooses the order by the size of the part.
    margin = _MAX_SUPPORT * max((y1 - y0) / h, 1.0) + 1
    top, bottom = max(int(y0 - margin), 0), min(int(y1 + margin) + 1, image.height)
    if bottom - top < image.height:
        image = image.crop((0, top, image.width, bottom))
    image = image.resize((w, bottom - top), kernel, (x0, 0, x1, bottom - top))
    image = image.resize((w, h), kernel, (0, y0 - top, w, y1 - top))
    pixels = np.asarray(image)
    return pixels[:, ::-1] if crop.mirrored else pixels


def resample_array_crop(
    image: Plane, crop: Crop
) -> UInt8[np.ndarray, "h2 w2 c"] | Float32[np.ndarray, "h2 w2 c"]:
    """Returns `resample_crop` of an array with any number of channels."""
    return _join([resample_crop(plane, crop) for plane in _split(image)])


def choose_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    crop: CropMode = "center",
    flip: bool = False,
    resize: Resize = "area",
) -> Crop:
    """Returns the largest part of an image that has the aspect of `size`.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      rng: the random numbers of this example; always two are drawn, whatever the
        options are.
      size: height and width of the result, in pixels.
      crop: where the part lies along the side that is cut: in the middle, or anywhere.
      flip: mirror left and right with probability 1/2.
      resize: the filter that reduces; enlarging is always bicubic.
    """
    offset, coin = rng.random(2)
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    offset = 0.5 if crop == "center" else offset
    y = math.floor(offset * (height - rows + 1))
    x = math.floor(offset * (width - columns + 1))
    return Crop(
        rectangle=(y, x, y + rows, x + columns),
        size=size,
        mirrored=flip and bool(coin < 0.5),
        resize=resize,
        box=(0.0, 0.0, 1.0, 1.0),
        unmet_setting="",
        is_cut=True,
    )


def apply_crop(
    image: Plane, crop: Crop, has_alpha: bool = False
) -> UInt8[np.ndarray, "h2 w2 c"] | Float32[np.ndarray, "h2 w2 c"]:
    """Returns a part of an array, resized and mirrored as the crop says.

    Args:
      image: pixels, or a map.
      crop: the part.
      has_alpha: whether the last of four channels is transparency: colours that it
        hides then take no part in the mean with their neighbours.
    """
    shape = image.shape[:2]
    is_whole = (*crop.rectangle, *crop.size) == (0, 0, *shape, *shape)
    if has_alpha and not is_whole:
        weighted = Image.fromarray(image).convert("RGBa")
        result = apply_crop(np.asarray(weighted), crop)
        size = crop.size[1], crop.size[0]
        restored = Image.frombytes("RGBa", size, result.tobytes()).convert("RGBA")
        return np.asarray(restored)
    if not crop.is_cut:
        return resample_array_crop(image, crop)
    y0, x0, y1, x1 = (int(v) for v in crop.rectangle)
    image = resize_image(image[y0:y1, x0:x1], crop.size, crop.resize)
    return image[:, ::-1] if crop.mirrored else image


def crop_and_resize(
    image: UInt8[np.ndarray, "h w c"],
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    crop: CropMode = "center",
    flip: bool = False,
    resize: Resize = "area",
) -> UInt8[np.ndarray, "{size[0]} {size[1]} c"]:
    """Returns the part of an image that `choose_crop` chooses, at the given size.

    Cropping comes first, so that an image of extreme aspect is never enlarged in full.
    The other arguments are those of `choose_crop`.
    """
    height, width, _ = image.shape
    part = choose_crop(
        height, width, rng, size=size, crop=crop, flip=flip, resize=resize
    )
    return apply_crop(image, part)


def resize_image(
    image: Plane, size: tuple[int, int], resize: Resize
) -> UInt8[np.ndarray, "h2 w2 c"] | Float32[np.ndarray, "h2 w2 c"]:
    """Returns an image at another size (height, width)."""
    (h, w, _), (height, width) = image.shape, size
    if (h, w) == size:
        return image
    kernel = _SHRINK[resize] if h >= height and w >= width else _ENLARGE
    planes = (plane.resize((width, height), kernel) for plane in _split(image))
    return _join([np.asarray(plane) for plane in planes])


def _split(image: Plane) -> list[Image.Image]:
    """Returns an image as one of RGB, or as one of grey for each channel.

    Pillow knows few numbers of channels, and takes the last of two or four for alpha,
    by which it weights the others.
    """
    if image.shape[2] == 3 and image.dtype == np.uint8:
        return [Image.fromarray(image)]
    return [Image.fromarray(image[:, :, k]) for k in range(image.shape[2])]


def _join(planes: list[np.ndarray]) -> np.ndarray:
    """Returns the image that `_split` divided, without a copy if it is of RGB."""
    return planes[0] if planes[0].ndim == 3 else np.stack(planes, -1)
