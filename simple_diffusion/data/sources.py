"""Where examples come from: every source gives image and class for any index.

New sources: a class with the members of `Source`, and a branch in `open_source`.
"""

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from simple_diffusion.data import (
    decode,
    digits,
    folder,
    records,
    scenes,
    shards,
    tfds_source,
)
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.transforms import Crop

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
class CropSource(Source, Protocol):
    """A source of stored images that can decode and resample a part of one."""

    def read_crop(
        self, index: int, choose: decode.Choose
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Crop, int]:
        """Returns a part of an image, which part it is, and the class number.

        Args:
          index: in range(len(self)).
          choose: height and width of the image -> the part.

        Raises:
          BadImage: if this image cannot be read, or `choose` says that it is `Unfit`.
        """
        ...

    def name(self, index: int) -> str:
        """Returns what a report calls an image: its file, or its place in the set."""
        ...


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose images someone may change."""

    def fingerprint(self) -> str:
        """Returns a text that is another if images have come, gone or changed.

        The same wherever the images lie; only their names and sizes are looked at.
        """
        ...


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source that makes its images: at any size, and faster many at once."""

    def read_batch(
        self,
        indices: Int[np.ndarray, "b"],
        size: tuple[int, int],
        window: Float[np.ndarray, "b 4"] | None = None,
    ) -> tuple[UInt8[np.ndarray, "b h w 3"], Int[np.ndarray, "b"]]:
        """Returns images and class numbers, as `read` would one by one.

        Args:
          indices: in range(len(self)).
          size: height and width of the images.
          window: the part of each whole image that is wanted, (y0, x0, y1, x1) in units
            of the whole, which then has as many pixels as make the part of this size;
            None for the whole.
        """
        ...


def open_source(
    spec: str,
    data_dir: str | None = None,
    split: Split = "train",
    *,
    seed: int = 0,
    holdout_fraction: float = 0.05,
    crop_box: tuple[int, ...] | None = None,
) -> Source:
    """Returns the source that `data.source` names.

    Args:
      spec: "scenes", "digits", "folder:PATH", "records:PATH" or "tfds:NAME".
      data_dir: where TFDS data sets were prepared; None for their usual place.
      split: what is trained on, or what is held out from it.
      seed: which endless series of scenes.
      holdout_fraction: share of a folder that is held out, also after it was prepared.
      crop_box: (y0, x0, y1, x1) in pixels: the part that is cut out of every stored
        image before anything else; None for all of it.

    Raises:
      DataError: if the source is not known, not there or empty, or the box is none.
    """
    box = decode.check_box(crop_box)
    kind, _, name = spec.partition(":")
    if box is not None and spec in ("scenes", "digits"):
        raise DataError(
            f"data.crop_box={box} is cut out of stored images, and data.source={spec} "
            "has none; use data.crop_box=None"
        )
    if spec == "scenes":
        return scenes.ScenesSource(seed, _SCENES[split], split)
    if spec == "digits":
        return digits.DigitsSource(split)
    if kind == "folder" and name:
        path = Path(name).expanduser()
        return folder.FolderSource(path, split, holdout_fraction, box)
    if kind == "records" and name:
        root = epath.Path(name).expanduser()
        return records.RecordsSource(root, split, holdout_fraction, box)
    if kind == "tfds" and name:
        return tfds_source.TfdsSource(name, data_dir, split, box)
    hint = ""
    if Path(spec).is_dir():
        kind = "records" if (Path(spec) / shards.MANIFEST).exists() else "folder"
        hint = f"; for this folder write {kind}:{spec}"
    raise DataError(
        f"data.source={spec} must be scenes, digits, folder:PATH, records:PATH or "
        f"tfds:NAME{hint}"
    )
