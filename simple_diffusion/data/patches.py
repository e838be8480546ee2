"""Patches of images at many resolutions, each with its place in the whole image.

Of each image that is drawn a whole of some size is imagined: as small as allowed, or of
a size drawn at random. A patch is cut from it at random, and only the patch is ever
resampled. At the smallest size the patch may be all of the whole. Where the whole is
itself a part of an image of another shape, it is cut out after resizing.

Source: "Any-resolution Image Synthesis by Diffusion Probabilistic Models", data; Chai
et al., Any-resolution Training for High-resolution Image Synthesis (2022).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64

from simple_diffusion.data import order, transforms
from simple_diffusion.data.errors import DataError, Unfit
from simple_diffusion.data.transforms import Crop

SIZE_LAWS = ("uniform", "log_uniform")

_DRAWS = 7
# A source that makes its images has them of any size.
_ENDLESS = 2**30
# Of quotients that are whole numbers but for rounding.
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Law:
    """How patches are drawn.

    patch: side of a patch in pixels.
    smallest: shorter side, in pixels, of the smallest whole.
    largest: of the largest; None for each image's own size.
    probability_smallest: of the smallest size; otherwise the size is drawn.
    law: of that draw, between smallest and largest, rounded: "uniform", or
      "log_uniform", as many in each octave.
    aspect: the largest ratio of the sides of a whole. 1: wholes are squares; a > 1:
      width / height is log-uniform in [1/a, a]; None: each image keeps its own.
    crop: where a whole lies in an image of another aspect.
    flip: mirror every second whole, at random, before the patch is cut.
    resize: the filter.

    Raises:
      DataError: if these contradict each other; the message names the config keys.
    """

    patch: int
    smallest: int
    largest: int | None
    probability_smallest: float = 0.5
    law: str = "uniform"
    aspect: float | None = 1.0
    crop: transforms.Place = "center"
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
        if self.law not in SIZE_LAWS:
            raise DataError(
                f"{key}.law={self.law!r} must be one of: {', '.join(SIZE_LAWS)}"
            )

    def draws(self, seed: int, position: int) -> Float64[np.ndarray, "7"]:
        """Returns the random numbers of one example, as many for every law."""
        return order.generator(seed, position).random(_DRAWS)

    def crop_of(self, draws: Float64[np.ndarray, "7"], height: int, width: int) -> Crop:
        """Returns the patch of an image of this size, in pixels.

        Raises:
          Unfit: if the image is smaller than the smallest size; patches are never
            enlarged.
        """
        whether, size, ratio, place, coin, row, column = draws.tolist()
        if min(height, width) < self.smallest:
            raise Unfit(
                f"{height}x{width} pixels are less than "
                f"data.patches.smallest={self.smallest}, and patches are not enlarged"
            )
        aspect, aspect_key = self._aspect(ratio, height, width)
        limit = min(height, height * aspect, width, width / aspect)
        h, w, size_key = self._whole(whether, size, aspect, int(limit + _TINY))
        # Pixels of the image that become one; alike both ways where anything is cut.
        rows, columns = height / h, width / w
        if self.aspect is not None:
            rows = columns = min(rows, columns)
        place = 0.5 if self.crop == "center" else place
        top = math.floor(place * math.floor(height - h * rows + 1 + _TINY))
        left = math.floor(place * math.floor(width - w * columns + 1 + _TINY))
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
            short_of=size_key or aspect_key,
        )

    def crop_of_made(self, draws: Float64[np.ndarray, "7"]) -> Crop:
        """Returns the patch of an image that can be made at any size.

        Only `mirrored` and `box` mean anything.
        """
        return self.crop_of(draws, _ENDLESS, _ENDLESS)

    def _aspect(self, u: float, height: int, width: int) -> tuple[float, str]:
        """Returns width / height of the whole, and the key that it falls short of."""
        if self.aspect is None:
            return width / height, ""
        # Narrower or wider wholes would be smaller than the smallest.
        low, high = self.smallest / height, width / self.smallest
        short = self.aspect > min(high, 1 / low)
        low, high = max(low, 1 / self.aspect), min(high, self.aspect)
        key = f"data.patches.aspect={self.aspect}" if short else ""
        return low * (high / low) ** u, key

    def _whole(
        self, whether: float, u: float, aspect: float, limit: int
    ) -> tuple[int, int, str]:
        """Returns the whole's height and width, and the key they fall short of."""
        low = self.smallest
        limit = max(limit, low)  # but for rounding, it is
        high = limit if self.largest is None else min(self.largest, limit)
        if whether < self.probability_smallest:
            size = low
        elif self.law == "uniform":
            size = round(low + u * (high - low))
        else:
            size = round(low * (high / low) ** u)
        short = self.largest is not None and limit < self.largest
        longer = round(size * max(aspect, 1 / aspect))
        h, w = (size, longer) if aspect >= 1 else (longer, size)
        return h, w, f"data.patches.largest={self.largest}" if short else ""
