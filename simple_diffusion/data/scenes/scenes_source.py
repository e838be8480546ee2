"""The built-in scenes as a data source."""

from collections.abc import Collection, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.scenes import captions, combinations, scenes
from simple_diffusion.data.scenes.scenes import FULL_IMAGE, Scenes
from simple_diffusion.data.sources import protocols
from simple_diffusion.data.sources.protocols import Examples


class ScenesSource:
    """Scenes as a source of labelled images; see `protocols.Source`.

    Args:
      seed: of the series of scenes.
      length: number of scenes.
      split: "train" or "holdout".
      channels: of the images: 1 is grey, 3 RGB, 4 RGB with transparency.
      holds_out_combinations: whether the training scenes lack the combinations of
        `combinations.is_held_out_combination`. All other scenes stay as they are.

    Attributes:
      class_names: the names of the classes.
    """

    fields = frozenset({"image", "label", "caption", "objects", "maps"})
    category_names = scenes.CATEGORY_NAMES
    map_classes: ClassVar = {
        "semantic": scenes.CATEGORY_NAMES,
        "instance": (),
        "depth": (),
    }

    def __init__(
        self,
        seed: int = 0,
        length: int = 50_000,
        split: str = "train",
        channels: int = 3,
        holds_out_combinations: bool = False,
    ):
        if length < 1:
            raise ValueError(f"length={length} must be at least 1")
        if split not in scenes.SPLITS:
            known = ", ".join(scenes.SPLITS)
            raise ValueError(f"split={split!r} must be one of {known}")
        self.class_names = scenes.CLASS_NAMES
        self.seed = seed
        self.split = split
        self.channels = channels
        self._length = length
        self._is_reduced = holds_out_combinations and split == "train"

    def __len__(self) -> int:
        return self._length

    def describe(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """Returns the descriptions of these scenes; IndexError if one is outside."""
        indices = np.asarray(indices, np.int64)
        if np.any((indices < 0) | (indices >= self._length)):
            raise IndexError(f"index outside 0 to {self._length - 1}: {indices}")
        if self._is_reduced:
            return combinations.describe_without_held_out(
                self.seed, indices, self.split
            )
        return scenes.describe(self.seed, indices, split=self.split)

    def read(self, index: int, resolution: int) -> Example:
        """Returns one image of exactly this resolution, with all fields."""
        all_fields = protocols.list_fields(self)
        size = resolution, resolution
        return self.read_batch(np.array([index]), size, fields=all_fields).at(0)

    def read_batch(
        self,
        indices: Int[np.ndarray, "b"],
        size: tuple[int, int],
        window: Float[np.ndarray, "b 4"] | None = None,
        fields: Collection[str] = (),
    ) -> Examples:
        """Returns images, classes and other fields, much faster than one by one.

        Args:
          indices: numbers of the scenes.
          size: height and width of the images.
          window: the part of each scene to render, as in `render`.
          fields: the other fields, as in `protocols.BatchSource`.
        """
        found = self.describe(indices)
        part = FULL_IMAGE if window is None else window
        wanted = {name for name in self.map_classes if f"map:{name}" in fields}
        seen = scenes.maps(found, *size, part) if wanted else {}
        return Examples(
            decode.from_rgb(scenes.render(found, *size, part), self.channels),
            found.label,
            captions.write(found) if "caption" in fields else None,
            scenes.objects(found, *size, part) if "objects" in fields else None,
            {name: seen[name] for name in sorted(wanted)},
        )
