"""Encodes examples for storage: their original bytes, or smaller images and maps."""

import dataclasses
import io
from typing import Any, Literal, NamedTuple

from PIL import Image

from simple_diffusion.core.examples import Example
from simple_diffusion.data import transforms
from simple_diffusion.data.errors import BadImage, DataError, format_path
from simple_diffusion.data.records import record_fields, shards
from simple_diffusion.data.records.ordered_pool import OrderedPool
from simple_diffusion.data.records.originals import Originals
from simple_diffusion.data.stored import examples, maps

Lossless = Literal["lossless"]

# The smallest version is enough to find out whether an image can be read: decoding it
# reads all of the bytes too.
_MINIMAL_RESOLUTION = 1
# Of JPEG chroma: with the usual half resolution, a model would learn coarse colours.
_NO_SUBSAMPLING = 0
_JPEG_LIMIT = 65_500  # pixels of a side, in libjpeg
_PNG_LEVEL = 3  # the default is 6; files are little larger, and written faster


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that determine the records; flags of the command line.

    input: "folder:PATH", "tar:PATH" or "tfds:NAME".
    data_dir: the folder of prepared TFDS datasets; None for the default of TFDS.
    size: the shorter side in pixels, which images are reduced to; None for "native",
      the original files.
    resize: the filter that reduces; None without `size`.
    quality: of the JPEG files of reduced images, or "lossless"; None without `size`.
    shard_megabytes: the largest size of a shard, unless a single image is larger.
    fields: names of the fields to keep besides image and class, with commas between;
      empty for none, None for all.
    tfds_fields: as `data.tfds_fields`; None without such fields.
    """

    input: str
    data_dir: str | None = None
    size: int | None = None
    resize: transforms.Resize | None = None
    quality: int | Lossless | None = None
    shard_megabytes: float = 256.0
    fields: str | None = None
    tfds_fields: str | None = None

    @property
    def kept_fields(self) -> frozenset[str] | None:
        """The names in `fields`; None for all."""
        if self.fields is None:
            return None
        return frozenset(v.strip() for v in self.fields.split(",") if v.strip())

    def encode(self, original: examples.StoredExample) -> examples.StoredExample:
        """Returns the example to store for an original; raises BadImage."""
        if self.size is None:
            example = examples.read(original, _MINIMAL_RESOLUTION)
            return _check_fields(original, example)
        assert self.resize is not None and self.quality is not None
        return shrink(original, self.size, self.resize, self.quality)

    def as_flags(self) -> dict[str, Any]:
        """Returns the settings as flags of the command line."""
        return {**dataclasses.asdict(self), "size": self.size or "native"}


class EncodedImage(NamedTuple):
    """The record of an image, and its class number."""

    label: int
    record: bytes


class SkippedImage(NamedTuple):
    """An image that cannot be read."""

    name: str
    reason: str


def encode_in_order(
    images: Originals, settings: Settings, position: int, workers: int
) -> OrderedPool[EncodedImage | SkippedImage]:
    """Returns the records of the images from a position on."""
    classes = max(len(images.class_names), 1)

    def encode(index: int) -> EncodedImage | SkippedImage:
        name = images.names[index]
        try:
            example = settings.encode(images.read(index))
        except BadImage as error:
            return SkippedImage(name, str(error).removeprefix(f"{format_path(name)}: "))
        label = example.label
        if not 0 <= label < classes:
            raise DataError(
                f"--input {settings.input}: {name} has label {label}, but the classes "
                f"are 0 to {classes - 1}"
            )
        content = read_all(example)
        if images.other_fields:
            content = record_fields.join(example, content)
        return EncodedImage(label, shards.pack(label, name, content))

    return OrderedPool(encode, position, len(images.names), workers)


def read_all(example: examples.StoredExample) -> bytes:
    """Returns the encoded image of an example."""
    example.image.seek(0)
    return example.image.read()


def _check_fields(
    original: examples.StoredExample, example: Example
) -> examples.StoredExample:
    """Returns an example that has been read as it is stored, with its checked boxes."""
    objects = example.objects
    boxes = objects and examples.Boxes(*objects, is_in_pixels=False)
    return dataclasses.replace(original, boxes=boxes)


def shrink(
    original: examples.StoredExample,
    size: int,
    resize: transforms.Resize,
    quality: int | Lossless,
) -> examples.StoredExample:
    """Returns an example whose image has a shorter side of at most `size`, encoded.

    Maps are reduced to the same size. What is no larger is returned unchanged, byte for
    byte: decoding and encoding it again would only lose quality.

    Args:
      original: the example.
      size: the shorter side, in pixels.
      resize: the filter.
      quality: of the JPEG, 1 to 100, or "lossless" for PNG.

    Raises:
      BadImage: if it cannot be read.
    """
    is_larger = False

    def choose(height: int, width: int) -> transforms.Crop:
        nonlocal is_larger
        is_larger = min(height, width) > size
        scale = min(size / min(height, width), 1.0)
        return transforms.Crop(
            rectangle=(0, 0, height, width),
            size=(round(height * scale), round(width * scale)),
            mirrored=False,
            resize=resize,
            box=(0, 0, 1, 1),
            unmet_setting="",
        )

    example, _ = examples.read_crop(original, choose)
    checked = _check_fields(original, example)
    if not is_larger:
        return checked
    file = io.BytesIO()
    image = Image.fromarray(example.image)
    if quality == "lossless" or max(image.size) > _JPEG_LIMIT:
        image.save(file, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(file, "JPEG", quality=quality, subsampling=_NO_SUBSAMPLING)
    encoded = {name: maps.encode_map(v) for name, v in example.maps.items()}
    return dataclasses.replace(checked, image=file, maps=encoded)
