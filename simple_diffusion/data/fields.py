"""Crops, mirrors, and checks the fields of an example that are not its image.

The type of a map says what it holds, and so how it is resampled: integers other than
uint8, and booleans, are class ids (the nearest one is taken); uint8 and floats are
pictures and measures such as depth (filtered as images are).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.data import transforms
from simple_diffusion.data.errors import UnsuitableImage

# Of the area of an object. With less of it in the picture, nobody could tell what it is
# from the picture alone, so a network would learn to ignore boxes.
MIN_VISIBLE = 0.25
# A caption of this many characters is a document that got there by mistake.
MAX_CAPTION = 10_000
# By how much boxes in whole pixels may exceed an image that is not quite as large.
_BOX_TOLERANCE = 0.01
_IDS, _IMAGE = "ids", "image"

# The vector of `turn_portrait`.
PORTRAIT = "portrait"

_SIDES = {"left": "right", "right": "left"}
# Also in leftmost and right-hand, but not in bright or leftover.
_SIDE = re.compile(r"\b(left|right)(?=(?:most|wards?|hand|handed)?\b)", re.IGNORECASE)


def kind_of(values: np.ndarray) -> str:
    """Returns what a map holds by its type: "ids" of classes, or an "image"."""
    if values.dtype == np.bool_:
        return _IDS
    is_integer = np.issubdtype(values.dtype, np.integer)
    return _IDS if is_integer and values.dtype != np.uint8 else _IMAGE


def crop_fields(
    example: Example, crop: transforms.Crop, height: int, width: int
) -> Example:
    """Returns an example whose maps and objects are cropped as its image was.

    The image stays as it is, since the decoder may already have cropped it; so do
    caption, label and vectors.

    Args:
      example: its maps and objects show the full stored image.
      crop: the part of the stored image that is kept.
      height: of the stored image, in pixels.
      width: of the stored image, in pixels. Maps may be larger by a whole factor, if
        the stored image was reduced after it was read.

    Raises:
      UnsuitableImage: if a map has another size, or a box is outside or inverted.
    """
    maps = {}
    for name, values in example.maps.items():
        _check_map_size(name, values, height, width)
        maps[name] = _crop_map(values, crop, height, width)
    objects = example.objects
    if objects is not None:
        _check_objects(objects)
        y0, x0, y1, x1 = crop.rectangle
        window = y0 / height, x0 / width, y1 / height, x1 / width
        objects = crop_objects(objects, window, crop.mirrored)
    return dataclasses.replace(example, maps=maps, objects=objects)


def crop_objects(
    objects: Objects, window: tuple[float, float, float, float], mirrored: bool = False
) -> Objects:
    """Returns the objects of a part of an image, in units of the part.

    Boxes are cut off at its edges. Drops an object of which less than `MIN_VISIBLE` of
    the area is left.

    Args:
      objects: in units of the image.
      window: the part, (y0, x0, y1, x1) in units of the image.
      mirrored: whether left and right of the part are exchanged.
    """
    corner, end = np.array(window[:2]), np.array(window[2:])
    box = objects.box.astype(np.float64).reshape(-1, 2, 2)
    cut = np.clip(box, corner, end)
    left = _area(cut) / np.maximum(_area(np.clip(box, 0, 1)), np.finfo(float).tiny)
    kept = (left >= MIN_VISIBLE) & (_area(cut) > 0)
    part = ((cut - corner) / (end - corner)).reshape(-1, 4)[kept]
    if mirrored:
        part = part[:, [0, 3, 2, 1]] * (1, -1, 1, -1) + (0, 1, 0, 1)
    return Objects(part.astype(np.float32), objects.category[kept])


def turn_portrait(example: Example) -> Example:
    """Returns an example as landscape, with a flag that says whether it was turned.

    An image that is higher than wide is turned counterclockwise by 90 degrees, with its
    maps and boxes. The vector `PORTRAIT` is 1 for it and 0 for others, so that one
    network of a landscape size learns both (simple diffusion, arXiv 2301.11093).
    """
    h, w, _ = example.image.shape
    vectors = {**example.vectors, PORTRAIT: np.array([h > w], np.float32)}
    if h <= w:
        return dataclasses.replace(example, vectors=vectors)
    objects = example.objects
    if objects is not None:
        box = objects.box[:, [3, 0, 1, 2]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
        objects = Objects(box.astype(objects.box.dtype), objects.category)
    return dataclasses.replace(
        example,
        image=np.ascontiguousarray(np.rot90(example.image)),
        maps={k: np.ascontiguousarray(np.rot90(v)) for k, v in example.maps.items()},
        objects=objects,
        vectors=vectors,
    )


def swap_sides(caption: str) -> str:
    """Returns a caption with the words left and right exchanged, for a mirrored image.

    For captions in which these words always mean sides, unlike in "the right size".
    """

    def swap(found: re.Match) -> str:
        word = found[0]
        other = _SIDES[word.lower()]
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swap, caption)


def select(example: Example, wanted: frozenset[str] | None) -> Example:
    """Returns an example without the fields that nobody wants.

    Args:
      example: with any fields.
      wanted: of "caption", "objects", "map:NAME" and "vector:NAME"; None for all.
    """
    if wanted is None:
        return example
    return dataclasses.replace(
        example,
        caption=example.caption if "caption" in wanted else None,
        objects=example.objects if "objects" in wanted else None,
        maps={k: v for k, v in example.maps.items() if f"map:{k}" in wanted},
        vectors={k: v for k, v in example.vectors.items() if f"vector:{k}" in wanted},
    )


def check_example(
    example: Example,
    *,
    wanted: frozenset[str] | None = None,
    num_categories: int | None = None,
    map_classes: Mapping[str, int] | None = None,
) -> None:
    """Checks the fields that an example has.

    Args:
      example: its maps have the size of its image, or a multiple of it.
      wanted: fields that it must have, as in `select`; None for no demands.
      num_categories: of objects; None if it is unknown.
      map_classes: number of classes of each map of class ids for which it is known; -1
        as an id means no class.

    Raises:
      UnsuitableImage: if one is missing, empty, out of range or of another size; the
        message names the field.
    """
    _check_presence(example, wanted or frozenset())
    if example.caption is not None:
        _check_caption(example.caption)
    if example.objects is not None:
        _check_objects(example.objects, num_categories)
    for name, values in example.maps.items():
        _check_map_size(name, values, *example.image.shape[:2])
        _check_map_values(name, values, (map_classes or {}).get(name))
    for name, values in example.vectors.items():
        if values.ndim != 1 or not np.isfinite(values).all():
            raise UnsuitableImage(f"vector {name}: must be a list of finite numbers")


def _area(box: Float[np.ndarray, "k 2 2"]) -> Float[np.ndarray, "k"]:
    return np.prod(np.maximum(box[:, 1] - box[:, 0], 0), axis=-1)


def _crop_map(
    values: Shaped[np.ndarray, "h w k"], crop: transforms.Crop, height: int, width: int
) -> Shaped[np.ndarray, "h2 w2 k"]:
    rows, columns = values.shape[0] / height, values.shape[1] / width
    y0, x0, y1, x1 = crop.rectangle
    crop = crop._replace(rectangle=(y0 * rows, x0 * columns, y1 * rows, x1 * columns))
    if kind_of(values) == _IMAGE:
        values = values if values.dtype == np.uint8 else values.astype(np.float32)
        result = transforms.apply_crop(values, crop)
        if result.dtype == np.uint8:
            return result
        # Lanczos overshoots: a depth would leave its range.
        return np.clip(result, values.min((0, 1)), values.max((0, 1)))
    y = _nearest(crop.rectangle[0], crop.rectangle[2], crop.size[0], values.shape[0])
    x = _nearest(crop.rectangle[1], crop.rectangle[3], crop.size[1], values.shape[1])
    return values[y[:, None], x[::-1] if crop.mirrored else x]


def _nearest(start: float, stop: float, count: int, length: int) -> np.ndarray:
    """Returns the pixels, of `length`, in which the centres of `count` new ones lie."""
    centres = start + (np.arange(count) + 0.5) * ((stop - start) / count)
    return np.clip(np.floor(centres).astype(int), 0, length - 1)


def _check_presence(example: Example, wanted: frozenset[str]) -> None:
    has: dict[str, bool] = {
        "caption": example.caption is not None,
        "objects": example.objects is not None,
    }
    has |= {f"map:{name}": True for name in example.maps}
    has |= {f"vector:{name}": True for name in example.vectors}
    for field in sorted(wanted - {"image", "label"}):
        if not has.get(field):
            raise UnsuitableImage(f"{field.replace(':', ' ')}: missing")


def _check_caption(caption: str) -> None:
    if not caption.strip():
        raise UnsuitableImage("caption: empty")
    if len(caption) >= MAX_CAPTION:
        raise UnsuitableImage(
            f"caption: {len(caption)} characters, at most {MAX_CAPTION - 1} are allowed"
        )
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise UnsuitableImage("caption: not valid Unicode") from None


def _check_objects(objects: Objects, num_categories: int | None = None) -> None:
    box, category = objects
    if box.ndim != 2 or box.shape[1] != 4 or len(box) != len(category):
        raise UnsuitableImage(
            f"objects: boxes {box.shape} and classes {category.shape} do not match"
        )
    low, high = -_BOX_TOLERANCE, 1 + _BOX_TOLERANCE
    # Written so that NaN is neither inside nor upright.
    _raise_at(
        ~np.all((box >= low) & (box <= high), axis=1), box, "outside of the image"
    )
    upright = np.all(box[:, :2] < box[:, 2:], axis=1)
    _raise_at(~upright, box, "inverted or empty")
    limit = np.inf if num_categories is None else num_categories
    wrong = (category < 0) | (category >= limit)
    if wrong.any():
        raise UnsuitableImage(
            f"objects: class {category[wrong][0]}, but the classes are "
            f"{_describe_range(num_categories)}"
        )


def _raise_at(wrong: Any, box: np.ndarray, problem: str) -> None:
    if wrong.any():
        corners = ", ".join(f"{v:.4g}" for v in box[wrong][0])
        raise UnsuitableImage(
            f"objects: box ({corners}), as (y0, x0, y1, x1) in units of the image, is "
            f"{problem}"
        )


def _check_map_size(name: str, values: np.ndarray, height: int, width: int) -> None:
    if values.ndim == 3:
        h, w, _ = values.shape
        factor = max(round(h / height), 1)
        # As an image is reduced: the last pixel may be the mean of fewer.
        if (math.ceil(h / factor), math.ceil(w / factor)) == (height, width):
            return
    size = "x".join(str(n) for n in values.shape)
    raise UnsuitableImage(
        f"map {name}: {size} values do not fit an image of {height}x{width} pixels"
    )


def _check_map_values(name: str, values: np.ndarray, num_classes: int | None) -> None:
    if kind_of(values) == _IMAGE:
        if values.dtype != np.uint8 and not np.isfinite(values).all():
            raise UnsuitableImage(f"map {name}: holds values that are not finite")
        return
    limit = np.inf if num_classes is None else num_classes
    if values.dtype != np.bool_ and not -1 <= values.min() <= values.max() < limit:
        worst = values.min() if values.min() < -1 else values.max()
        raise UnsuitableImage(
            f"map {name}: class {worst}, but the classes are "
            f"{_describe_range(num_classes)}, and -1 for none"
        )


def _describe_range(count: int | None) -> str:
    return "0 and above" if count is None else f"0 to {count - 1}"
