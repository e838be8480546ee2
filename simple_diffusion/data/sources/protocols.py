"""What a data source is: it gives an image and its class for any index.

To add a source, see `catalogue.open_source`.
"""

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from simple_diffusion.data import decode
from simple_diffusion.data.transforms import Crop

Split = Literal["train", "holdout"]


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
