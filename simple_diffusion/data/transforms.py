"""From an image of any size to the square that the network sees, on the host."""

import math
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Crop = Literal["center", "random"]
Resize = Literal["area", "antialias"]

# "area" is the box filter, as in the down-sampled ImageNet data sets: the mean of the
# pixels that fall into each new one. "antialias" is sharper, three pixels wide a side.
_SHRINK = {
    "area": Image.Resampling.BOX,
    "antialias": Image.Resampling.LANCZOS,
}
# A box would enlarge by repeating pixels, and Lanczos rings.
_ENLARGE = Image.Resampling.BICUBIC


def square(
    image: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    *,
    resolution: int,
    crop: Crop = "center",
    flip: bool = False,
    resize: Resize = "area",
) -> UInt8[np.ndarray, "r r 3"]:
    """Returns the largest square of an image, at a resolution, perhaps mirrored.

    Cropping comes first, so that an image of extreme aspect is never enlarged whole.

    Args:
      image: any size.
      rng: the draws of this example; the same two are made whatever is asked for.
      resolution: the side r of the result, in pixels.
      crop: where the square lies along the longer side: in the middle, or anywhere.
      flip: mirror left and right with probability 1/2.
      resize: the filter that reduces; enlarging is always bicubic.
    """
    place, coin = rng.random(2)
    h, w, _ = image.shape
    side = min(h, w)
    place = 0.5 if crop == "center" else place
    y = math.floor(place * (h - side + 1))
    x = math.floor(place * (w - side + 1))
    image = resized(image[y : y + side, x : x + side], resolution, resize)
    return image[:, ::-1] if flip and coin < 0.5 else image


def resized(
    image: UInt8[np.ndarray, "s s 3"], resolution: int, resize: Resize
) -> UInt8[np.ndarray, "r r 3"]:
    """Returns a square image at another resolution."""
    side = image.shape[0]
    if side == resolution:
        return image
    kind = _SHRINK[resize] if side > resolution else _ENLARGE
    return np.asarray(Image.fromarray(image).resize((resolution, resolution), kind))
