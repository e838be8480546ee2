"""Views of a source: full images of one size, or patches at many sizes.

A view reads one example or, where the source can, a batch of them. Its result for an
image depends only on the image and on the example's position in the stream.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from simple_diffusion.core.examples import Example
from simple_diffusion.data import order, transforms
from simple_diffusion.data.errors import BadImage, DataError, UnsuitableImage
from simple_diffusion.data.patches import PatchDistribution
from simple_diffusion.data.skipping import SmallImageCounter
from simple_diffusion.data.sources.protocols import BatchSource, CropSource, Source

_FULL_BOX = np.array([0, 0, 1, 1], np.float32)


class BoxedExample(NamedTuple):
    """An example of a full image or a patch, and its corners in the full image.

    box: (y0, x0, y1, x1) in units of the full image.
    """

    example: Example
    box: Float32[np.ndarray, "4"]

    @property
    def label(self) -> int:
        """The class number of the example."""
        return self.example.label


class BoxedExamples(NamedTuple):
    """A batch of images, their boxes as in `BoxedExample`, and their class numbers."""

    image: UInt8[np.ndarray, "b h w c"]
    box: Float32[np.ndarray, "b 4"]
    label: Int[np.ndarray, "b"]


@runtime_checkable
class View(Protocol):
    """One way to make examples of one size from the images of a source.

    size: height and width of the examples.
    small_images: counts the images that are too small for the settings.
    """

    size: tuple[int, int]
    small_images: SmallImageCounter

    def read(self, index: int, position: int) -> BoxedExample:
        """Returns the example at a position of the stream.

        Args:
          index: of the example in the source.
          position: in the stream; it decides what is random.

        Raises:
          BadImage: if the image cannot be read, or does not suit the settings.
        """
        ...

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> BoxedExamples:
        """Returns many at once; only where the source is a `BatchSource`."""
        ...


class FullImages:
    """Full images, cropped to the aspect of one size and resized to it.

    Args:
      source: the images.
      size: height and width of the results.
      seed: of crops and flips.
      crop: as `transforms.crop_and_resize`, like the others.
      flip: see there.
      resize: see there.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        seed: int,
        *,
        crop: transforms.CropMode = "center",
        flip: bool = False,
        resize: transforms.Resize = "area",
    ):
        self.size = size
        self.small_images = SmallImageCounter()
        self._source = source
        self._seed = seed
        self._options: dict[str, Any] = dict(crop=crop, flip=flip, resize=resize)

    def read(self, index: int, position: int) -> BoxedExample:
        """Returns one example; see `View`."""
        example = self._source.read(index, max(self.size))
        (h, w, _), (rows, columns) = example.image.shape, self.size
        if (h < rows or w < columns) and isinstance(self._source, CropSource):
            self.small_images.record(
                index,
                f"{self._source.name(index)} has {h}x{w} pixels and is enlarged to "
                f"{rows}x{columns}: such images are blurred",
            )
        image = self._crop_and_resize(example.image, position)
        return BoxedExample(_replace_image(example, image), _FULL_BOX)

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> BoxedExamples:
        """Returns many at once; see `View`."""
        assert isinstance(self._source, BatchSource)
        examples = self._source.read_batch(indices, self.size)
        images = map(self._crop_and_resize, examples.image, positions.tolist())
        box = np.tile(_FULL_BOX, (len(indices), 1))
        return BoxedExamples(np.stack(list(images)), box, examples.label)

    def _crop_and_resize(
        self, image: UInt8[np.ndarray, "h w c"], position: int
    ) -> UInt8[np.ndarray, "h2 w2 c"]:
        rng = order.make_generator(self._seed, position)
        return transforms.crop_and_resize(image, rng, size=self.size, **self._options)


def check_patches(source: Source, patches: PatchDistribution) -> None:
    """Raises DataError if patches refer to the images' own size and there is none."""
    if patches.largest is None and not isinstance(source, CropSource):
        raise DataError(
            "data.patches.largest=None means each image's own size, but images of this "
            "data.source are generated at any size; say how large"
        )


class Patches:
    """Patches of full images of many sizes.

    Args:
      source: the images.
      distribution: of the patches.
      seed: of the random numbers.

    Raises:
      DataError: as `check_patches`.
    """

    def __init__(self, source: Source, distribution: PatchDistribution, seed: int):
        self.size = distribution.patch, distribution.patch
        self.small_images = SmallImageCounter()
        self._source = source
        self._distribution = distribution
        self._seed = seed
        check_patches(source, distribution)

    def read(self, index: int, position: int) -> BoxedExample:
        """Returns one example; see `View`."""
        draws = self._distribution.draw(self._seed, position)
        source = self._source
        if isinstance(source, CropSource):
            example, crop = source.read_crop(
                index, lambda h, w: self._distribution.choose_crop(draws, h, w)
            )
            name = source.name(index) if crop.unmet_setting else ""
        else:
            assert self._distribution.largest is not None
            name = f"example {index} of data.source"
            full = source.read(index, self._distribution.largest)
            try:
                crop = self._distribution.choose_crop(draws, *full.image.shape[:2])
            except UnsuitableImage as error:
                raise BadImage(name, str(error)) from None
            image = transforms.resample_array_crop(full.image, crop)
            example = _replace_image(full, image)
        if crop.unmet_setting:
            self.small_images.record(
                index,
                f"{crop.unmet_setting} is too large for {name}: its range is cut, "
                "since patches are never enlarged",
            )
        return BoxedExample(example, np.array(crop.box, np.float32))

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> BoxedExamples:
        """Returns many at once, see `View`; generates only what the patches show."""
        assert isinstance(self._source, BatchSource)
        crops = [
            self._distribution.choose_box(self._distribution.draw(self._seed, position))
            for position in positions.tolist()
        ]
        box = np.array([crop.box for crop in crops])
        mirrored = np.array([crop.mirrored for crop in crops])
        y0, x0, y1, x1 = box.T
        left, right = np.where(mirrored, (1 - x1, 1 - x0), (x0, x1))
        window = np.stack([y0, left, y1, right], -1)
        examples = self._source.read_batch(indices, self.size, window)
        image = examples.image
        image = np.where(mirrored[:, None, None, None], image[:, :, ::-1], image)
        return BoxedExamples(image, box.astype(np.float32), examples.label)


def _replace_image(example: Example, image: UInt8[np.ndarray, "h w c"]) -> Example:
    """Returns the example with its image cropped or resized.

    Drops the other spatial fields: they would still show the image as it was.
    """
    return dataclasses.replace(example, image=image, objects=None, maps={})
