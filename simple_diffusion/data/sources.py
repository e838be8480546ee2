"""Where examples come from: every source gives image and class for any index.

New sources: a class with the members of `Source`, and a branch in `open_source`.
"""

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from simple_diffusion.data import digits, folder, scenes, tfds_source
from simple_diffusion.data.errors import DataError

Split = Literal["train", "holdout"]

# Scenes never run out; but a pass over what is held out has to end.
_SCENES = {"train": 2**40, "holdout": 10_000}


@runtime_checkable
class Source(Protocol):
    """A finite set of images, in any order, from several threads at a time.

    class_names: the classes; empty if the images have none.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of examples, readable or not."""
        ...

    def read(
        self, index: int, resolution: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """Returns one image and its class number, 0 if there are no classes.

        Args:
          index: in range(len(self)).
          resolution: the shorter side that is needed later, in pixels. An image may
            come larger or, if it has no more to give, smaller; a source that can
            render or decode at a size of its choice uses this one.

        Raises:
          BadImage: if this image cannot be read.
        """
        ...


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source that is faster at many images at once, all of them readable."""

    def read_batch(
        self, indices: Int[np.ndarray, "b"], resolution: int
    ) -> tuple[UInt8[np.ndarray, "b r r 3"], Int[np.ndarray, "b"]]:
        """Returns square images and class numbers, as `read` would one by one."""
        ...


def open_source(
    spec: str,
    data_dir: str | None = None,
    split: Split = "train",
    *,
    seed: int = 0,
    holdout_fraction: float = 0.05,
) -> Source:
    """Returns the source that `data.source` names.

    Args:
      spec: "scenes", "digits", "folder:PATH" or "tfds:NAME".
      data_dir: where TFDS data sets were prepared; None for their usual place.
      split: what is trained on, or what is held out from it.
      seed: which endless series of scenes.
      holdout_fraction: share of a folder that is held out.

    Raises:
      DataError: if the source is not known, not there or empty.
    """
    kind, _, name = spec.partition(":")
    if spec == "scenes":
        return scenes.ScenesSource(seed, _SCENES[split], split)
    if spec == "digits":
        return digits.DigitsSource(split)
    if kind == "folder" and name:
        return folder.FolderSource(Path(name).expanduser(), split, holdout_fraction)
    if kind == "tfds" and name:
        return tfds_source.TfdsSource(name, data_dir, split)
    hint = f"; for this folder write folder:{spec}" if Path(spec).is_dir() else ""
    raise DataError(
        f"data.source={spec} must be scenes, digits, folder:PATH or tfds:NAME{hint}"
    )
