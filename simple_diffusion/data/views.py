"""What is made of the images of a source: whole images, or patches of them.

A view reads one example or, where the source can, a batch of them; what it makes of an
image depends only on the image and on the example's position in the stream.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8
from PIL import Image

from simple_diffusion.data import order, transforms
from simple_diffusion.data.errors import BadImage, DataError, Unfit
from simple_diffusion.data.patches import Law
from simple_diffusion.data.skipping import Small
from simple_diffusion.data.sources.protocols import BatchSource, CropSource, Source

_WHOLE = np.array([0, 0, 1, 1], np.float32)


class Picture(NamedTuple):
    """An image, or a patch of one, and its corners in units of the whole."""

    image: UInt8[np.ndarray, "h w 3"]
    box: Float32[np.ndarray, "4"]


class Pictures(NamedTuple):
    """A batch of pictures with their classes."""

    image: UInt8[np.ndarray, "b h w 3"]
    box: Float32[np.ndarray, "b 4"]
    label: Int[np.ndarray, "b"]


@runtime_checkable
class View(Protocol):
    """One way to make examples of the images of a source.

    size: height and width of the pictures.
    small: images that are too small for the settings.
    """

    size: tuple[int, int]
    small: Small

    def read(self, index: int, position: int) -> tuple[int, Picture]:
        """Returns class and picture of the example at a position of the stream.

        Raises:
          BadImage: if the image cannot be read, or not be used.
        """
        ...

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> Pictures:
        """Returns many at once; only where the source is a `BatchSource`."""
        ...


class Wholes:
    """Whole images, cut to the shape of one size and resized to it.

    Args:
      source: the images.
      size: height and width of the pictures.
      seed: of crops and flips.
      place: as `transforms.fitted`, like the others.
      flip: see there.
      resize: see there.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        seed: int,
        *,
        place: transforms.Place = "center",
        flip: bool = False,
        resize: transforms.Resize = "area",
    ):
        self.size = size
        self.small = Small()
        self._source = source
        self._seed = seed
        self._options: dict[str, Any] = dict(place=place, flip=flip, resize=resize)

    def read(self, index: int, position: int) -> tuple[int, Picture]:
        """Returns class and picture; see `View`."""
        image, label = self._source.read(index, max(self.size))
        (h, w, _), (rows, columns) = image.shape, self.size
        if (h < rows or w < columns) and isinstance(self._source, CropSource):
            self.small.note(
                index,
                f"{self._source.name(index)} has {h}x{w} pixels and is enlarged to "
                f"{rows}x{columns}: such images are blurred",
            )
        return label, Picture(self._fitted(image, position), _WHOLE)

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> Pictures:
        """Returns many at once; see `View`."""
        assert isinstance(self._source, BatchSource)
        images, labels = self._source.read_batch(indices, self.size)
        fitted = map(self._fitted, images, positions.tolist())
        box = np.tile(_WHOLE, (len(images), 1))
        return Pictures(np.stack(list(fitted)), box, labels)

    def _fitted(
        self, image: UInt8[np.ndarray, "h w 3"], position: int
    ) -> UInt8[np.ndarray, "h2 w2 3"]:
        rng = order.generator(self._seed, position)
        return transforms.fitted(image, rng, size=self.size, **self._options)


def check(source: Source, law: Law) -> None:
    """Raises DataError if a law refers to images' own size and a source has none."""
    if law.largest is None and not isinstance(source, CropSource):
        raise DataError(
            "data.patches.largest=None means each image's own size, but images of this "
            "data.source are made at any size; say how large"
        )


class Patches:
    """Patches of images of many sizes.

    Args:
      source: the images.
      law: which patches.
      seed: of the draws.

    Raises:
      DataError: as `check`.
    """

    def __init__(self, source: Source, law: Law, seed: int):
        self.size = law.patch, law.patch
        self.small = Small()
        self._source = source
        self._law = law
        self._seed = seed
        check(source, law)

    def read(self, index: int, position: int) -> tuple[int, Picture]:
        """Returns class and picture; see `View`."""
        draws = self._law.draws(self._seed, position)
        source = self._source
        if isinstance(source, CropSource):
            image, crop, label = source.read_crop(
                index, lambda h, w: self._law.crop_of(draws, h, w)
            )
            name = source.name(index) if crop.short_of else ""
        else:
            assert self._law.largest is not None
            name = f"example {index} of data.source"
            whole, label = source.read(index, self._law.largest)
            try:
                crop = self._law.crop_of(draws, *whole.shape[:2])
            except Unfit as error:
                raise BadImage(name, str(error)) from None
            image = transforms.cut(Image.fromarray(whole), crop)
        if crop.short_of:
            self.small.note(
                index,
                f"{crop.short_of}: more than {name} can give, whose range is cut; "
                "patches are never enlarged",
            )
        return label, Picture(image, np.array(crop.box, np.float32))

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> Pictures:
        """Returns many at once; see `View`. What is not in a patch is never made."""
        assert isinstance(self._source, BatchSource)
        crops = [
            self._law.crop_of_made(self._law.draws(self._seed, position))
            for position in positions.tolist()
        ]
        box = np.array([crop.box for crop in crops])
        mirrored = np.array([crop.mirrored for crop in crops])
        y0, x0, y1, x1 = box.T
        left, right = np.where(mirrored, (1 - x1, 1 - x0), (x0, x1))
        window = np.stack([y0, left, y1, right], -1)
        images, labels = self._source.read_batch(indices, self.size, window)
        turned = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return Pictures(turned, box.astype(np.float32), labels)
