"""Images whose holes were filled: what is known must stay."""

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8


def compose(
    images: UInt8[np.ndarray, "n h w c"],
    originals: UInt8[np.ndarray, "n h w c"],
    hole: Bool[np.ndarray, "n h w"],
) -> UInt8[np.ndarray, "n h w c"]:
    """Returns the images in the holes, and the originals around them."""
    return np.where(hole[..., None], images, originals)


def unchanged_share(
    images: UInt8[np.ndarray, "n h w c"],
    originals: UInt8[np.ndarray, "n h w c"],
    hole: Bool[np.ndarray, "n h w"],
) -> Float64[np.ndarray, "n"]:
    """Returns the share of known pixels that equal the original in all channels.

    Args:
      images: samples.
      originals: with the known pixels.
      hole: True in the hole. NaN for an image that is all hole.
    """
    known = ~hole
    same = (images == originals).all(-1) & known
    count = known.sum((1, 2))
    out = np.full(len(images), np.nan)
    return np.divide(same.sum((1, 2)), count, out=out, where=count > 0)


def fill_nearest(
    images: UInt8[np.ndarray, "n h w c"], hole: Bool[np.ndarray, "n h w"]
) -> UInt8[np.ndarray, "n h w c"]:
    """Returns images whose holes are filled by the nearest known pixel.

    The distance is Euclidean; of pixels at equal distance any may be taken. An image
    that is all hole becomes black. This is what needs no model.
    """
    filled = []
    for image, missing in zip(images, hole, strict=True):
        if missing.all():
            filled.append(np.zeros_like(image))
        else:
            rows, columns = _nearest_known(missing)
            filled.append(image[rows, columns])
    return np.stack(filled) if filled else images


def _nearest_known(
    hole: Bool[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Returns row and column of the known pixel nearest to each pixel.

    First the nearest known row within each column, then the best of these columns for
    each pixel: together they are the nearest of all pixels.
    """
    h, w = hole.shape
    number = np.arange(h)[:, None]
    above = np.maximum.accumulate(np.where(hole, -1, number), 0)
    below = np.minimum.accumulate(np.where(hole, h, number)[::-1], 0)[::-1]
    far = 2 * (h + w)  # further than any pixel
    up = np.where(above < 0, far, number - above)
    down = np.where(below >= h, far, below - number)
    row = np.where(up <= down, above, below)
    squares = np.minimum(up, down) ** 2
    across = (np.arange(w)[:, None] - np.arange(w)[None]) ** 2
    # One row at a time, so that memory grows with the square of the width only.
    column = np.stack([(across + line[None]).argmin(1) for line in squares])
    return np.take_along_axis(row, column, 1), column
