"""The host encoder of hole masks, for in-painting."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from simple_diffusion.core.examples import Example
from simple_diffusion.data.conditioning import hole_masks
from simple_diffusion.data.conditioning.encoders import Spec


@dataclasses.dataclass(frozen=True)
class InpaintingEncoder:
    """A random hole in the image: "inpainting.mask" [h, w], uint8, 1 in the hole.

    kinds: how often each kind of hole is drawn, see `hole_masks.draw_hole_mask`.

    Raises:
      ValueError: a kind is unknown, or no share is above 0.
    """

    kinds: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict(hole_masks.SHARES)
    )
    name: str = "inpainting"
    # Of the image, its size; see `LowResolutionEncoder.needs`.
    needs: frozenset[str] = frozenset({"image"})

    def __post_init__(self):
        hole_masks.check_shares(self.kinds)

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the array; see `encoders.Encoder`."""
        # A hole everywhere, as for a condition that is dropped.
        return {f"{self.name}.mask": Spec(size, "uint8", 1)}

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the array; see `encoders.Encoder`."""
        h, w, _ = example.image.shape
        mask = hole_masks.draw_hole_mask((h, w), rng, self.kinds)
        return {f"{self.name}.mask": mask}
