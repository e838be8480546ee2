"""What is stored of each image: its own bytes, or a smaller one encoded anew."""

import dataclasses
import io
from typing import Any, Literal, NamedTuple

from PIL import Image

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage, DataError, printable
from simple_diffusion.data.records import shards
from simple_diffusion.data.records.ordered_pool import Ahead
from simple_diffusion.data.records.originals import Originals

Lossless = Literal["lossless"]

# To find out whether an image can be read, its smallest version does: all of the bytes
# are gone through for that, too.
_SMALLEST = 1
# Of JPEG; at half resolution, as is usual, colours would be learned coarse.
_FULL_COLOURS = 0
_JPEG_LIMIT = 65_500  # pixels of a side, in libjpeg
_PNG_LEVEL = 3  # of the usual 6: little larger, and faster


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides what comes out; flags of the command line.

    input: "folder:PATH" or "tfds:NAME".
    data_dir: where TFDS data sets were prepared; None for their usual place.
    size: the shorter side in pixels, which images are reduced to; None for "native",
      the original files.
    resize: the filter that reduces; None if nothing does.
    quality: of the JPEG files that this makes, or "lossless"; None if none are made.
    shard_megabytes: the images of a shard, at most, unless it is one.
    """

    input: str
    data_dir: str | None = None
    size: int | None = None
    resize: transforms.Resize | None = None
    quality: int | Lossless | None = None
    shard_megabytes: float = 256.0

    def encoded(self, encoded: bytes, name: str) -> bytes:
        """Returns what is stored of an image; raises BadImage."""
        if self.size is None:
            check(encoded, name)
            return encoded
        assert self.resize is not None and self.quality is not None
        return shrunk(encoded, name, self.size, self.resize, self.quality)

    def as_flags(self) -> dict[str, Any]:
        """Returns the flags that say this."""
        return {**dataclasses.asdict(self), "size": self.size or "native"}


class Stored(NamedTuple):
    """What is stored of an image."""

    label: int
    record: bytes


class Skipped(NamedTuple):
    """An image that cannot be read."""

    name: str
    why: str


def ahead_of(
    images: Originals, settings: Settings, position: int, workers: int
) -> Ahead[Stored | Skipped]:
    """Returns what is stored of the images from a position on."""
    classes = max(len(images.class_names), 1)

    def make(index: int) -> Stored | Skipped:
        name = images.names[index]
        try:
            encoded, label = images.read(index)
            encoded = settings.encoded(encoded, name)
        except BadImage as error:
            return Skipped(name, str(error).removeprefix(f"{printable(name)}: "))
        if not 0 <= label < classes:
            raise DataError(
                f"--input {settings.input}: {name} has label {label}, but the classes "
                f"are 0 to {classes - 1}"
            )
        return Stored(label, shards.pack(label, name, encoded))

    return Ahead(make, position, len(images.names), workers)


def check(encoded: bytes, name: str) -> None:
    """Raises BadImage if an image cannot be read."""
    decode.decode(io.BytesIO(encoded), name, _SMALLEST)


def shrunk(
    encoded: bytes,
    name: str,
    size: int,
    resize: transforms.Resize,
    quality: int | Lossless,
) -> bytes:
    """Returns an image whose shorter side is at most `size`, encoded.

    An image that is no larger comes back as it is, byte for byte: there is nothing to
    gain from decoding it once and encoding it again.

    Args:
      encoded: the image.
      name: what a complaint calls it.
      size: the shorter side, in pixels.
      resize: the filter.
      quality: of the JPEG, 1 to 100, or "lossless" for PNG.

    Raises:
      BadImage: if it cannot be read.
    """
    larger = False

    def whole(height: int, width: int) -> transforms.Crop:
        nonlocal larger
        larger = min(height, width) > size
        scale = min(size / min(height, width), 1.0)
        return transforms.Crop(
            rectangle=(0, 0, height, width),
            size=(round(height * scale), round(width * scale)),
            mirrored=False,
            resize=resize,
            box=(0, 0, 1, 1),
            short_of="",
        )

    pixels, _ = decode.decode_crop(io.BytesIO(encoded), name, whole)
    if not larger:
        return encoded
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if quality == "lossless" or max(image.size) > _JPEG_LIMIT:
        image.save(file, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(file, "JPEG", quality=quality, subsampling=_FULL_COLOURS)
    return file.getvalue()
