"""What a data source is: it returns an example for any index.

To add a source, see `catalogue.open_source`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.transforms import Crop

Split = Literal["train", "holdout"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The fields of b examples, as arrays; see `Example`."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int[np.ndarray, "b"]


@runtime_checkable
class Source(Protocol):
    """A finite set of examples, read in any order and from several threads at a time.

    class_names: the classes; empty if the images have none.
    fields: names of the fields of `Example` that this source fills.
    channels: number of channels of its images.
    """

    class_names: tuple[str, ...]
    fields: frozenset[str]
    channels: int

    def __len__(self) -> int:
        """Returns the number of examples, readable or not."""
        ...

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example.

        Args:
          index: in range(len(self)).
          resolution: the shorter side that is needed later, in pixels. The image may be
            larger or, if the source has no more pixels, smaller; a source that can
            render or decode at a size of its choice uses this one.

        Raises:
          BadImage: if this image cannot be read.
        """
        ...


@runtime_checkable
class CropSource(Source, Protocol):
    """A source of stored images that can decode and resample a part of one."""

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns an example whose image is a part of the stored one, and which part.

        Args:
          index: in range(len(self)).
          choose: height and width of the image -> the part.

        Raises:
          BadImage: if this image cannot be read, or `choose` raises `UnsuitableImage`.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name of an image in reports: its file, or its index."""
        ...


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose images may change on disk."""

    def fingerprint(self) -> str:
        """Returns a text that changes if images are added, removed or changed.

        It does not depend on the folder; it sees only names and sizes of the images.
        """
        ...


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source that generates its images: at any size, and faster many at once."""

    def read_batch(
        self,
        indices: Int[np.ndarray, "b"],
        size: tuple[int, int],
        window: Float[np.ndarray, "b 4"] | None = None,
    ) -> Examples:
        """Returns many examples, as `read` would one by one.

        Args:
          indices: in range(len(self)).
          size: height and width of the images.
          window: the part of each full image to generate, (y0, x0, y1, x1) in units of
            the full image; the full image has as many pixels as give the part this
            size. None for the full image.
        """
        ...


def check_fields(source: Source, fields: Iterable[str], user: str) -> None:
    """Checks that a source has the fields that a config needs.

    Args:
      source: the source.
      fields: names of fields of `Example`.
      user: the config key, with its value, that needs them.

    Raises:
      DataError: if the source lacks one; the message names it.
    """
    missing = sorted(set(fields) - source.fields)
    if missing:
        raise DataError(
            f"{user} needs {', '.join(missing)}, which this data.source does not have; "
            f"it has {', '.join(sorted(source.fields))}"
        )
