"""Encodes images for storage: their original bytes, or a smaller image."""

import dataclasses
import io
from typing import Any, Literal, NamedTuple

from PIL import Image

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage, DataError, format_path
from simple_diffusion.data.records import shards
from simple_diffusion.data.records.ordered_pool import OrderedPool
from simple_diffusion.data.records.originals import Originals

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

    input: "folder:PATH" or "tfds:NAME".
    data_dir: the folder of prepared TFDS datasets; None for the default of TFDS.
    size: the shorter side in pixels, which images are reduced to; None for "native",
      the original files.
    resize: the filter that reduces; None without `size`.
    quality: of the JPEG files of reduced images, or "lossless"; None without `size`.
    shard_megabytes: the largest size of a shard, unless a single image is larger.
    """

    input: str
    data_dir: str | None = None
    size: int | None = None
    resize: transforms.Resize | None = None
    quality: int | Lossless | None = None
    shard_megabytes: float = 256.0

    def encode(self, encoded: bytes, name: str) -> bytes:
        """Returns the bytes to store for an encoded image; raises BadImage."""
        if self.size is None:
            check(encoded, name)
            return encoded
        assert self.resize is not None and self.quality is not None
        return shrink(encoded, name, self.size, self.resize, self.quality)

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
            encoded, label = images.read(index)
            encoded = settings.encode(encoded, name)
        except BadImage as error:
            return SkippedImage(name, str(error).removeprefix(f"{format_path(name)}: "))
        if not 0 <= label < classes:
            raise DataError(
                f"--input {settings.input}: {name} has label {label}, but the classes "
                f"are 0 to {classes - 1}"
            )
        return EncodedImage(label, shards.pack(label, name, encoded))

    return OrderedPool(encode, position, len(images.names), workers)


def check(encoded: bytes, name: str) -> None:
    """Raises BadImage if an image cannot be read."""
    decode.decode(io.BytesIO(encoded), name, _MINIMAL_RESOLUTION)


def shrink(
    encoded: bytes,
    name: str,
    size: int,
    resize: transforms.Resize,
    quality: int | Lossless,
) -> bytes:
    """Returns an image whose shorter side is at most `size`, encoded.

    An image that is no larger is returned unchanged, byte for byte: decoding and
    encoding it again would only lose quality.

    Args:
      encoded: the image.
      name: its name in error messages.
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

    pixels, _ = decode.decode_crop(io.BytesIO(encoded), name, choose)
    if not is_larger:
        return encoded
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if quality == "lossless" or max(image.size) > _JPEG_LIMIT:
        image.save(file, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(file, "JPEG", quality=quality, subsampling=_NO_SUBSAMPLING)
    return file.getvalue()
