"""Similarity of an image to its original: PSNR and SSIM.

Both are computed in float64 on the host from uint8 images. Colour images are compared
in RGB, not in luma as in many papers on super-resolution. PSNR uses every pixel. SSIM
excludes the five pixels at each border, where its window would leave the image. Both
can be restricted to some of the pixels, such as those of a hole.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

_RANGE = 255.0
SMALLEST = 11
_SIGMA = 1.5
_C1 = (0.01 * _RANGE) ** 2
_C2 = (0.03 * _RANGE) ** 2


def psnr(
    images: UInt8[np.ndarray, "n h w c"],
    originals: UInt8[np.ndarray, "n h w c"],
    where: Bool[np.ndarray, "n h w"] | None = None,
) -> Float64[np.ndarray, "n"]:
    """Returns the peak signal-to-noise ratio of each image, in decibels.

    10 log10(255^2 / mean squared error), with the mean over all pixels and channels.
    Infinite if image and original are equal.

    Args:
      images: 0 to 255.
      originals: what they are compared with, 0 to 255.
      where: the pixels that count; None for all. NaN for an image without any.
    """
    error = (images.astype(np.float64) - originals) ** 2
    if where is None:
        mean = np.mean(error, axis=(1, 2, 3))
    else:
        count = where.sum((1, 2)) * images.shape[3]
        total = np.sum(error * where[..., None], axis=(1, 2, 3))
        mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_RANGE**2 / mean)


def ssim(
    images: UInt8[np.ndarray, "n h w c"],
    originals: UInt8[np.ndarray, "n h w c"],
    where: Bool[np.ndarray, "n h w"] | None = None,
) -> Float64[np.ndarray, "n"]:
    """Returns the structural similarity of each image, at most 1.

    Wang et al. 2004, eq. 13 with the constants of section III.C: a Gaussian window of
    11 x 11 pixels and sigma 1.5, K1 = .01, K2 = .03, weighted (population) variances.
    Computed for each channel (RGB), then averaged. As in the authors' implementation
    only windows inside the image count, and large images are not downsampled first.

    Args:
      images: 0 to 255.
      originals: what they are compared with, 0 to 255.
      where: the pixels around which windows count; None for all. NaN for an image
        without any.

    Raises:
      ValueError: for images smaller than the window.
    """
    _, h, w, _ = images.shape
    if min(h, w) < SMALLEST:
        raise ValueError(
            f"SSIM needs images of at least {SMALLEST}x{SMALLEST} pixels, got {h}x{w}"
        )
    margin = SMALLEST // 2
    centres = np.ones((len(images), h, w), bool) if where is None else where
    centres = centres[:, margin : h - margin, margin : w - margin]
    values = [
        np.mean(_ssim_map(image, original)[inside]) if inside.any() else np.nan
        for image, original, inside in zip(images, originals, centres, strict=True)
    ]
    return np.array(values, np.float64)


def _ssim_map(
    image: UInt8[np.ndarray, "h w c"], original: UInt8[np.ndarray, "h w c"]
) -> Float64[np.ndarray, "H W c"]:
    """Returns the similarity of the window around each interior pixel."""
    x, y = image.astype(np.float64), original.astype(np.float64)
    # One map after another: five at once would not fit into the cache.
    mean_x, mean_y, xx, yy, xy = map(_blur, (x, y, x * x, y * y, x * y))
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    similarity = (2 * product + _C1) * (2 * (xy - product) + _C2)
    return similarity / ((squares + _C1) * (xx + yy - squares + _C2))


def _blur(x: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "H W c"]:
    """Returns the weighted mean of the window around each interior pixel."""
    offsets = np.arange(SMALLEST) - SMALLEST // 2
    window = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, SMALLEST, axis) @ window
    return x
