"""Views of a source: full images of one size, or patches at many sizes.

A view reads one example or, where the source can, a batch of them. Its result for an
image depends only on the image and on the example's position in the stream. The other
fields that are wanted are cropped and mirrored as the image is.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from simple_diffusion.core.examples import Example
from simple_diffusion.data import fields, order, transforms
from simple_diffusion.data.errors import BadImage, DataError, UnsuitableImage
from simple_diffusion.data.patches import PatchDistribution
from simple_diffusion.data.skipping import SmallImageCounter
from simple_diffusion.data.sources.protocols import (
    BatchSource,
    CropSource,
    Examples,
    MapSource,
    ObjectSource,
    Source,
    list_fields,
)

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
    """A batch of images, their boxes as in `BoxedExample`, and their class numbers.

    examples: the same, with their other fields; empty if none are wanted.
    """

    image: UInt8[np.ndarray, "b h w c"]
    box: Float32[np.ndarray, "b 4"]
    label: Int[np.ndarray, "b"]
    examples: Sequence[Example] = ()


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

    def name(self, index: int) -> str:
        """Returns the name of an example in messages."""
        ...


class _Fields:
    """The fields of a source besides its images and classes, as they are wanted.

    Args:
      source: the source.
      wanted: their names, as in `fields.select`; None for all.
      swap_sides: whether left and right are exchanged in captions of mirrored images.
      has_alpha: whether the last of four channels is transparency.
    """

    def __init__(
        self,
        source: Source,
        wanted: frozenset[str] | None,
        swap_sides: bool,
        has_alpha: bool,
    ):
        self.wanted = wanted
        self._has_alpha = has_alpha
        self._source = source
        self._swap_sides = swap_sides
        self._listed = list_fields(source) - {"image", "label"}
        self._known: dict[str, Any] = {}
        if isinstance(source, ObjectSource):
            self._known["num_categories"] = len(source.category_names)
        if isinstance(source, MapSource):
            counts = {name: len(v) for name, v in source.map_classes.items() if v}
            self._known["map_classes"] = counts

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `read_batch`; empty if no fields are wanted."""
        chosen = self._listed if self.wanted is None else self.wanted
        return {"fields": chosen} if chosen else {}

    def name(self, index: int) -> str:
        """Returns the name of an example in messages."""
        if isinstance(self._source, CropSource):
            return self._source.name(index)
        return f"example {index} of data.source"

    @contextlib.contextmanager
    def name_errors(self, index: int) -> Iterator[None]:
        """Adds the name of an example to errors about it."""
        try:
            yield
        except UnsuitableImage as error:
            raise BadImage(self.name(index), str(error)) from None

    def apply_crop(self, example: Example, crop: transforms.Crop) -> Example:
        """Returns a part of an example, with all fields that are wanted."""
        h, w, _ = example.image.shape
        checked = self._check(example)
        cropped = fields.crop_fields(checked, crop, h, w)
        image = transforms.apply_crop(example.image, crop, self._has_alpha)
        return self._mirror_caption(dataclasses.replace(cropped, image=image), crop)

    def finish(self, example: Example, crop: transforms.Crop) -> Example:
        """Returns an example that its source has already cropped, as `apply_crop`."""
        return self._mirror_caption(self._check(example), crop)

    def finish_rows(
        self, examples: Examples, mirrored: Sequence[bool]
    ) -> list[Example]:
        """Returns generated examples, mirrored; empty if no fields are wanted."""
        if not self.options:
            return []
        size = examples.image.shape[1:3]
        full = 0.0, 0.0, 1.0, 1.0
        part = transforms.Crop((0, 0, *size), size, False, "area", full, "", True)
        return [
            self.apply_crop(examples.at(k), part._replace(mirrored=bool(flip)))
            for k, flip in enumerate(mirrored)
        ]

    def _check(self, example: Example) -> Example:
        example = fields.select(example, self.wanted)
        fields.check_example(example, wanted=self.wanted, **self._known)
        return example

    def _mirror_caption(self, example: Example, crop: transforms.Crop) -> Example:
        if example.caption is None or not (crop.mirrored and self._swap_sides):
            return example
        return dataclasses.replace(example, caption=fields.swap_sides(example.caption))


class FullImages:
    """Full images, cropped to the aspect of one size and resized to it.

    Args:
      source: the images.
      size: height and width of the results.
      seed: of crops and flips.
      crop: as `transforms.crop_and_resize`, like the others.
      flip: see there.
      resize: see there.
      wanted: the other fields that are kept, as in `fields.select`; None for all.
      swap_sides: whether left and right are exchanged in captions of mirrored images.
      has_alpha: whether the last of four channels is transparency, which then weights
        the colours when images are resized.
      turns_portrait: whether images that are higher than wide are turned, see
        `fields.turn_portrait`. Not for a source that reads batches.
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
        wanted: frozenset[str] | None = None,
        swap_sides: bool = False,
        has_alpha: bool = False,
        turns_portrait: bool = False,
    ):
        self._fields = _Fields(source, wanted, swap_sides, has_alpha)
        self.name = self._fields.name
        self.size = size
        self._turns_portrait = turns_portrait
        self.small_images = SmallImageCounter()
        self._source = source
        self._seed = seed
        self._options: dict[str, Any] = dict(crop=crop, flip=flip, resize=resize)

    def read(self, index: int, position: int) -> BoxedExample:
        """Returns one example; see `View`."""
        example = self._source.read(index, max(self.size))
        if self._turns_portrait:
            example = fields.turn_portrait(example)
        (h, w, _), (rows, columns) = example.image.shape, self.size
        if (h < rows or w < columns) and isinstance(self._source, CropSource):
            self.small_images.record(
                index,
                f"{self._source.name(index)} has {h}x{w} pixels and is enlarged to "
                f"{rows}x{columns}: such images are blurred",
            )
        with self._fields.name_errors(index):
            cropped = self._fields.apply_crop(example, self._choose(h, w, position))
        return BoxedExample(cropped, _FULL_BOX)

    def read_batch(
        self, indices: Int64[np.ndarray, "b"], positions: Int64[np.ndarray, "b"]
    ) -> BoxedExamples:
        """Returns many at once; see `View`."""
        assert isinstance(self._source, BatchSource)
        options = self._fields.options
        examples = self._source.read_batch(indices, self.size, **options)
        h, w = examples.image.shape[1:3]
        crops = [self._choose(h, w, position) for position in positions.tolist()]
        box = np.tile(_FULL_BOX, (len(indices), 1))
        if options:
            found = [
                self._fields.apply_crop(examples.at(k), crop)
                for k, crop in enumerate(crops)
            ]
            image = np.stack([example.image for example in found])
            return BoxedExamples(image, box, examples.label, found)
        images = map(transforms.apply_crop, examples.image, crops)
        return BoxedExamples(np.stack(list(images)), box, examples.label)

    def _choose(self, height: int, width: int, position: int) -> transforms.Crop:
        rng = order.make_generator(self._seed, position)
        return transforms.choose_crop(
            height, width, rng, size=self.size, **self._options
        )


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
      wanted: as `FullImages`.
      swap_sides: as `FullImages`.
      has_alpha: as `FullImages`.

    Raises:
      DataError: as `check_patches`.
    """

    def __init__(
        self,
        source: Source,
        distribution: PatchDistribution,
        seed: int,
        *,
        wanted: frozenset[str] | None = None,
        swap_sides: bool = False,
        has_alpha: bool = False,
    ):
        self._fields = _Fields(source, wanted, swap_sides, has_alpha)
        self.name = self._fields.name
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
        with self._fields.name_errors(index):
            if isinstance(source, CropSource):
                part, crop = source.read_crop(
                    index, lambda h, w: self._distribution.choose_crop(draws, h, w)
                )
                example = self._fields.finish(part, crop)
            else:
                assert self._distribution.largest is not None
                full = source.read(index, self._distribution.largest)
                crop = self._distribution.choose_crop(draws, *full.image.shape[:2])
                example = self._fields.apply_crop(full, crop)
        if crop.unmet_setting:
            self.small_images.record(
                index,
                f"{crop.unmet_setting} is too large for {self.name(index)}: its range "
                "is cut, since patches are never enlarged",
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
        options = self._fields.options
        examples = self._source.read_batch(indices, self.size, window, **options)
        image = examples.image
        image = np.where(mirrored[:, None, None, None], image[:, :, ::-1], image)
        found = self._fields.finish_rows(examples, mirrored.tolist())
        return BoxedExamples(image, box.astype(np.float32), examples.label, found)
