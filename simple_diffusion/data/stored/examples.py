"""Examples as they are stored: encoded image and maps, and how they are read.

Every source of stored images reads its examples here, so that a map, a box and a
caption mean the same in a folder, in tar shards, in records and in TFDS.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.data import decode, fields
from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.stored import maps
from simple_diffusion.data.transforms import Crop

# Files round the corners of boxes; what lies outside by no more is cut off.
_OUTSIDE_PIXELS = 1.0
_OUTSIDE_UNITS = 0.01
MAX_CATEGORIES = 100_000  # a higher number is a mistake, and no class


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes and classes as a file gives them, not checked yet.

    box: [k, 4], (y0, x0, y1, x1).
    category: class number of each, from 0.
    is_in_pixels: whether the corners are in pixels of the image as a viewer shows it,
      and not in units of the image.
    """

    box: Any
    category: Any
    is_in_pixels: bool


@dataclasses.dataclass(frozen=True)
class StoredExample:
    """An example as it is stored; other fields as in `Example`.

    image: the encoded image.
    name: of the image, in messages.
    boxes: of the objects; None if they are not read.
    maps: encoded images, or arrays in the .npy format, by name.
    """

    image: decode.File
    name: str | Path
    label: int = 0
    caption: str | None = None
    boxes: Boxes | None = None
    maps: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def has_spatial_fields(self) -> bool:
        """Whether any field besides the image belongs to places in the image."""
        return self.boxes is not None or bool(self.maps)


def read(
    stored: StoredExample,
    resolution: int,
    crop_box: decode.Box | None = None,
    channels: int = 3,
) -> Example:
    """Returns an example; image and maps may be reduced, alike.

    Args:
      stored: the example.
      resolution: as `decode.decode`.
      crop_box: the part to use as the image, as `decode.decode`.
      channels: of the image, as `decode.decode`.

    Raises:
      BadImage: if the image or a map cannot be read, a map has another size than the
        image, or a box is invalid; the message names the field.
    """
    image = decode.decode(stored.image, stored.name, resolution, crop_box, channels)
    if not stored.has_spatial_fields:
        return _fill(stored, image)
    example, (height, width) = _decode_fields(stored, image, crop_box)
    if image.shape[:2] == (height, width):
        return example
    full = _make_crop((0, 0, height, width), image.shape[:2])
    return fields.crop_fields(example, full, height, width)


def read_crop(
    stored: StoredExample,
    choose: decode.ChooseCrop,
    crop_box: decode.Box | None = None,
    channels: int = 3,
) -> tuple[Example, Crop]:
    """Returns a part of an example, all fields alike, and which part.

    Args:
      stored: the example.
      choose: as `decode.decode_crop`.
      crop_box: the part to use as the image, as `decode.decode`.
      channels: of the image, as `decode.decode`.

    Raises:
      BadImage: as `read`, or if `choose` finds no part.
    """
    image, crop = decode.decode_crop(
        stored.image, stored.name, choose, crop_box, channels
    )
    if not stored.has_spatial_fields:
        return _fill(stored, image), crop
    example, size = _decode_fields(stored, image, crop_box)
    return fields.crop_fields(example, crop, *size), crop


def _fill(stored: StoredExample, image: np.ndarray) -> Example:
    return Example(image, stored.label, stored.caption, vectors=dict(stored.vectors))


def _decode_fields(
    stored: StoredExample, image: np.ndarray, crop_box: decode.Box | None
) -> tuple[Example, tuple[int, int]]:
    """Returns the example with the fields of the full image, and that image's size."""
    size = decode.read_size(stored.image)
    example = dataclasses.replace(
        _fill(stored, image),
        maps={
            key: maps.decode_map(encoded, stored.name, key, size)
            for key, encoded in stored.maps.items()
        },
        objects=stored.boxes and check_boxes(stored.boxes, size, stored.name),
    )
    if crop_box is None:
        return example, size
    y0, x0, y1, x1 = crop_box
    crop = _make_crop(crop_box, (y1 - y0, x1 - x0))
    return fields.crop_fields(example, crop, *size), crop.size


def _make_crop(rectangle: tuple[int, ...], size: tuple[int, ...]) -> Crop:
    """Returns the crop that cuts out a part and reduces it as `decode` does."""
    y0, x0, y1, x1 = rectangle
    height, width = size
    return Crop(
        rectangle=(y0, x0, y1, x1),
        size=(height, width),
        mirrored=False,
        resize="area",
        box=(0.0, 0.0, 1.0, 1.0),
        unmet_setting="",
        is_cut=True,
    )


def check_caption(caption: Any, name: str | Path) -> str:
    """Returns a caption without the white space around it.

    Args:
      caption: a text, or bytes in UTF-8; None if it is missing.
      name: of the image, in messages.

    Raises:
      BadImage: if it is missing, empty, not valid Unicode or no text at all.
    """
    if caption is None:
        raise BadImage(name, "caption: missing")
    if not isinstance(caption, str | bytes):
        raise BadImage(name, f"caption: a {type(caption).__name__}, and not a text")
    try:
        if isinstance(caption, str):
            # Half of a surrogate pair, or a byte that was no UTF-8.
            caption = caption.encode("utf-8")
        text = caption.decode("utf-8-sig").strip()
    except UnicodeError:
        raise BadImage(name, "caption: not valid UTF-8") from None
    if not text:
        raise BadImage(name, "caption: empty")
    return text


def check_boxes(boxes: Boxes, size: tuple[int, int], name: str | Path) -> Objects:
    """Returns boxes in units of the image, cut off at its edges.

    Args:
      boxes: as stored.
      size: height and width of the image in pixels.
      name: of the image, in messages.

    Raises:
      BadImage: if a box is empty, inverted or outside of the image, or a class is no
        number from 0.
    """
    try:
        box = np.asarray(boxes.box, np.float64).reshape(-1, 4)
        category = np.asarray(boxes.category, np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadImage(name, f"objects: not boxes of numbers ({error})") from None
    if len(box) != len(category):
        reason = f"objects: {len(box)} boxes, but {len(category)} classes"
        raise BadImage(name, reason)
    for value in category:
        if not 0 <= value < MAX_CATEGORIES:
            raise BadImage(name, f"objects: class {value} is out of range")
    scale = np.tile(size, 2) if boxes.is_in_pixels else np.ones(4)
    margin = (_OUTSIDE_PIXELS if boxes.is_in_pixels else _OUTSIDE_UNITS) / scale
    box = box / scale
    low, high = box[:, :2], box[:, 2:]
    # Written so that a NaN is bad as well.
    is_good = (low < high) & (low >= -margin[:2]) & (high <= 1 + margin[2:])
    for k in np.flatnonzero(~is_good.all(1)):
        corners = ", ".join(f"{v:g}" for v in np.asarray(boxes.box).reshape(-1, 4)[k])
        kind = (
            "outside of the image" if (low[k] < high[k]).all() else "inverted or empty"
        )
        reason = f"objects: box {k}, (y0, x0, y1, x1) = ({corners}), is {kind}"
        raise BadImage(name, reason)
    box = np.clip(box, 0, 1).astype(np.float32)
    # A box of which only the margin is left is no object.
    is_left = (box[:, :2] < box[:, 2:]).all(1)
    return Objects(box[is_left], category[is_left].astype(np.int32))
