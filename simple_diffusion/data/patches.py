"""Patches of images at many resolutions, each with its box in the full image.

For each example a full image of some size is chosen: the smallest size allowed, or a
random one. A patch is cut from it at random, and only the patch is ever resampled. At
the smallest size the patch may cover all of the full image. If the full image is itself
a part of a stored image of another aspect, it is cut out after resizing.

Source: "Any-resolution Image Synthesis by Diffusion Probabilistic Models", data; Chai
et al., Any-resolution Training for High-resolution Image Synthesis (2022).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64

from simple_diffusion.data import order, transforms
from simple_diffusion.data.errors import DataError, UnsuitableImage
from simple_diffusion.data.transforms import Crop

SIZE_DISTRIBUTIONS = ("uniform", "log_uniform")

_DRAWS = 7
# Height and width of the images of a source that generates them at any size.
_UNLIMITED = 2**30
# Tolerance for quotients that would be integers without rounding.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class PatchDistribution:
    """The distribution of patches, and of the full images they are cut from.

    patch: side of a patch in pixels.
    smallest: shorter side, in pixels, of the smallest full image.
    largest: shorter side of the largest; None for each stored image's own size.
    probability_smallest: of the smallest size; otherwise the size is random.
    size_distribution: of the random size, between smallest and largest, rounded:
      "uniform", or "log_uniform" (equally many in each octave).
    aspect: the largest ratio of the sides of a full image. 1: full images are squares;
      a > 1: width / height is log-uniform in [1/a, a]; None: each stored image keeps
      its own.
    crop: where a full image lies in a stored image of another aspect.
    flip: mirror half of the full images, at random, before the patch is cut.
    resize: the filter.

    Raises:
      DataError: if these contradict each other; the message names the config keys.
    """

    patch: int
    smallest: int
    largest: int | None
    probability_smallest: float = 0.5
    size_distribution: str = "uniform"
    aspect: float | None = 1.0
    crop: transforms.CropMode = "center"
    flip: bool = False
    resize: transforms.Resize = "antialias"

    def __post_init__(self):
        key = "data.patches"
        if self.patch < 1:
            raise DataError(f"data.resolution={self.patch} must be at least 1")
        if self.patch > self.smallest:
            raise DataError(
                f"data.resolution={self.patch} must not exceed "
                f"{key}.smallest={self.smallest}, from which patches are cut too; use "
                f"data.resolution={self.smallest} or {key}.smallest={self.patch}"
            )
        if self.largest is not None and self.smallest > self.largest:
            raise DataError(
                f"{key}.smallest={self.smallest} must not exceed "
                f"{key}.largest={self.largest}; use {key}.smallest={self.largest} or "
                f"{key}.largest={self.smallest}"
            )
        p = self.probability_smallest
        if not 0 <= p <= 1:
            raise DataError(
                f"{key}.probability_smallest={p} must be 0 to 1; use {float(p > 1)}"
            )
        if self.aspect is not None and not 1 <= self.aspect < math.inf:
            raise DataError(
                f"{key}.aspect={self.aspect} must be at least 1, or None for each "
                "image's own; use 1.0"
            )
        if self.size_distribution not in SIZE_DISTRIBUTIONS:
            raise DataError(
                f"{key}.law={self.size_distribution!r} must be one of: "
                f"{', '.join(SIZE_DISTRIBUTIONS)}"
            )

    def draw(self, seed: int, position: int) -> Float64[np.ndarray, "7"]:
        """Returns the uniform random numbers of one example.

        Their number does not depend on the settings.
        """
        return order.make_generator(seed, position).random(_DRAWS)

    def choose_crop(
        self, draws: Float64[np.ndarray, "7"], height: int, width: int
    ) -> Crop:
        """Returns the patch of an image of this size, in pixels.

        Args:
          draws: the random numbers that `draw` returned.
          height: of the image.
          width: of the image.

        Raises:
          UnsuitableImage: if the image is smaller than the smallest size; patches are
            never enlarged.
        """
        choice, size, ratio, offset, coin, row, column = draws.tolist()
        if min(height, width) < self.smallest:
            raise UnsuitableImage(
                f"{height}x{width} pixels are less than "
                f"data.patches.smallest={self.smallest}, and patches are not enlarged"
            )
        aspect, unmet_aspect = self._choose_aspect(ratio, height, width)
        limit = min(height, height * aspect, width, width / aspect)
        h, w, unmet_size = self._choose_full_size(
            choice, size, aspect, int(limit + _ROUNDING)
        )
        # Pixels of the image that become one; equal along both axes if it is cropped.
        rows, columns = height / h, width / w
        if self.aspect is not None:
            rows = columns = min(rows, columns)
        offset = 0.5 if self.crop == "center" else offset
        top = math.floor(offset * math.floor(height - h * rows + 1 + _ROUNDING))
        left = math.floor(offset * math.floor(width - w * columns + 1 + _ROUNDING))
        p = self.patch
        y = math.floor(row * (h - p + 1))
        x = math.floor(column * (w - p + 1))
        mirrored = self.flip and coin < 0.5
        x_stored = w - p - x if mirrored else x
        return Crop(
            rectangle=(
                top + y * rows,
                left + x_stored * columns,
                top + (y + p) * rows,
                left + (x_stored + p) * columns,
            ),
            size=(p, p),
            mirrored=mirrored,
            resize=self.resize,
            box=(y / h, x / w, (y + p) / h, (x + p) / w),
            unmet_setting=unmet_size or unmet_aspect,
        )

    def choose_box(self, draws: Float64[np.ndarray, "7"]) -> Crop:
        """Returns the patch of an image that can be generated at any size.

        Only `mirrored` and `box` of the result have a meaning.
        """
        return self.choose_crop(draws, _UNLIMITED, _UNLIMITED)

    def _choose_aspect(self, u: float, height: int, width: int) -> tuple[float, str]:
        """Returns width / height of the full image, and the setting it cannot meet."""
        if self.aspect is None:
            return width / height, ""
        # Narrower or wider full images would be smaller than the smallest.
        low, high = self.smallest / height, width / self.smallest
        is_limited = self.aspect > min(high, 1 / low)
        low, high = max(low, 1 / self.aspect), min(high, self.aspect)
        key = f"data.patches.aspect={self.aspect}" if is_limited else ""
        return low * (high / low) ** u, key

    def _choose_full_size(
        self, choice: float, u: float, aspect: float, limit: int
    ) -> tuple[int, int, str]:
        """Returns the full image's height and width, and the setting it cannot meet."""
        low = self.smallest
        limit = max(limit, low)  # holds already, except for rounding
        high = limit if self.largest is None else min(self.largest, limit)
        if choice < self.probability_smallest:
            size = low
        elif self.size_distribution == "uniform":
            size = round(low + u * (high - low))
        else:
            size = round(low * (high / low) ** u)
        is_limited = self.largest is not None and limit < self.largest
        longer = round(size * max(aspect, 1 / aspect))
        h, w = (size, longer) if aspect >= 1 else (longer, size)
        return h, w, f"data.patches.largest={self.largest}" if is_limited else ""
