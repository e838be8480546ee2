"""The host encoder of small versions of images, for super-resolution."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from simple_diffusion.core.examples import Example
from simple_diffusion.data.conditioning import degradation
from simple_diffusion.data.conditioning.encoders import Spec

# Bounds of finite levels. At the upper one sigma is 5e-5, far below a step of 8 bits;
# at the lower one there is as little of the image.
_MAX_LOGSNR = 20.0


@dataclasses.dataclass(frozen=True)
class LowResolutionEncoder:
    """A small version of the image, and the noise to add to it.

    The arrays are "low_resolution.small" [h/factor, w/factor, c], uint8;
    "low_resolution.logsnr" [], the level of the noise, infinity for none; and
    "low_resolution.seed" [], uint32, of the noise, which the device draws.

    Training with noise of a random level, which the network is told, keeps it from
    relying on details that small images from another model do not have (arXiv
    2106.15282, section 4.2; 2205.11487, section 2.4).

    factor: a divisor of the height and width of the images.
    degradation: how images become small, see `degradation.degrade`.
    channels: of the images.
    augmentation: the range of the noise, as times of the cosine schedule from 0 (none)
      to 1 (nothing but noise), drawn uniformly; None for no noise.

    Raises:
      ValueError: an argument is wrong; the message names its config key.
    """

    factor: int
    degradation: str = "bicubic"
    channels: int = 3
    augmentation: tuple[float, float] | None = None
    name: str = "low_resolution"
    # Also where a source yields nothing but images: without any field that is needed,
    # no example would be made for encoders.
    needs: frozenset[str] = frozenset({"image"})

    def __post_init__(self):
        degradation.check(self.degradation, self.factor, self.channels)
        low, high = self.augmentation or (0.0, 0.0)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"conditions.low_resolution.augmentation={self.augmentation} must be a "
                "range (low, high) between 0, no noise, and 1, nothing but noise, or "
                "None"
            )

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the arrays; see `encoders.Encoder`.

        Raises:
          ValueError: the factor does not divide the size.
        """
        degradation.check(self.degradation, self.factor, self.channels, size)
        h, w = (n // self.factor for n in size)
        return {
            f"{self.name}.small": Spec((h, w, self.channels), "uint8"),
            f"{self.name}.logsnr": Spec((), "float32", math.inf),
            f"{self.name}.seed": Spec((), "uint32"),
        }

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the arrays; see `encoders.Encoder`."""
        # First, so that they are the same for every degradation.
        place = rng.random()
        seed = rng.integers(2**32, dtype=np.uint32)
        low, high = self.augmentation or (0.0, 0.0)
        logsnr = to_logsnr(low + (high - low) * place)
        small = degradation.degrade(example.image, self.factor, self.degradation, rng)
        return {
            f"{self.name}.small": small,
            f"{self.name}.logsnr": np.array(logsnr, np.float32),
            f"{self.name}.seed": np.array(seed, np.uint32),
        }


def to_logsnr(time: float) -> float:
    """Returns the level at a time of the cosine schedule, -2 log tan(pi time / 2).

    It only spreads the levels; the schedule of the model may be another one.

    Args:
      time: from 0, where the level is infinite, to 1. All other levels are between -20
        and 20.
    """
    if time == 0:
        return math.inf
    logsnr = -2 * math.log(math.tan(math.pi / 2 * time))
    return min(max(logsnr, -_MAX_LOGSNR), _MAX_LOGSNR)
