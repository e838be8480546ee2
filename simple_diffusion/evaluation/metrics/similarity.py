"""How like its original one image is: PSNR and SSIM, pixel against pixel.

Both are computed in float64 on the host, from uint8 images as they are stored: all
channels as they come, which for colour is RGB (not the luma that papers on super
resolution often take), in the range 0 to 255. PSNR counts every pixel. SSIM counts the
interior, without the five pixels at each border where its window would leave the image.
"""

import numpy as np
from jaxtyping import Float, Float64, UInt8

_RANGE = 255.0
SMALLEST = 11
_SIGMA = 1.5
_C1 = (0.01 * _RANGE) ** 2
_C2 = (0.03 * _RANGE) ** 2


def psnr(
    images: UInt8[np.ndarray, "n h w c"], originals: UInt8[np.ndarray, "n h w c"]
) -> Float64[np.ndarray, "n"]:
    """Returns the peak signal-to-noise ratio of each image, in decibels.

    10 log10(255^2 / mean squared error), the mean over all pixels, borders included,
    and over the channels (RGB) together. Infinite where image and original are equal.

    Args:
      images: what is judged, 0 to 255.
      originals: what they should be.
    """
    error = images.astype(np.float64) - originals
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_RANGE**2 / np.mean(error**2, axis=(1, 2, 3)))


def ssim(
    images: UInt8[np.ndarray, "n h w c"], originals: UInt8[np.ndarray, "n h w c"]
) -> Float64[np.ndarray, "n"]:
    """Returns the structural similarity of each image, at most 1.

    Wang et al. 2004, eq. 13 with the constants of section III.C: a Gaussian window of
    11 x 11 pixels and sigma 1.5, K1 = .01, K2 = .03, weighted (population) variances.
    Each channel (RGB) for itself, then the mean. As in the paper's own program the map
    has values only where the whole window lies inside the image: five pixels at each
    border are no centre of a window. Large images are not shrunk first.

    Args:
      images: what is judged, 0 to 255.
      originals: what they should be.

    Raises:
      ValueError: for images smaller than the window.
    """
    _, h, w, _ = images.shape
    if min(h, w) < SMALLEST:
        raise ValueError(
            f"SSIM needs images of at least {SMALLEST}x{SMALLEST} pixels, got {h}x{w}"
        )
    values = [_ssim(*pair) for pair in zip(images, originals, strict=True)]
    return np.array(values, np.float64)


def _ssim(
    image: UInt8[np.ndarray, "h w c"], original: UInt8[np.ndarray, "h w c"]
) -> float:
    x, y = image.astype(np.float64), original.astype(np.float64)
    # One after another: five maps at once would leave the cache.
    mean_x, mean_y, xx, yy, xy = map(_blur, (x, y, x * x, y * y, x * y))
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    likeness = (2 * product + _C1) * (2 * (xy - product) + _C2)
    return float(np.mean(likeness / ((squares + _C1) * (xx + yy - squares + _C2))))


def _blur(x: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "H W c"]:
    """Returns the window's mean around each pixel of the interior."""
    offsets = np.arange(SMALLEST) - SMALLEST // 2
    window = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, SMALLEST, axis) @ window
    return x
