"""Values of conditions from files or Python objects: images, maps, layouts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from simple_diffusion.data import decode
from simple_diffusion.data.stored import image_paths
from simple_diffusion.pipelines.restoration import photos

_ARRAY = ".npy"


class Named(NamedTuple):
    """A value, and the name of its file without suffix; "" without a file."""

    name: str
    value: Any


def list_values(value: Any, key: str, suffixes: frozenset[str]) -> list[Named]:
    """Returns the single values of a key: paths of a folder, or Python objects.

    Args:
      value: the path of a file or folder, one object or array, a list of them, or an
        array with a first axis more than one image has.
      key: config key of the value, for messages.
      suffixes: of the files of a folder that count.

    Raises:
      ValueError: a path does not exist, or a folder holds no such file.
    """
    if isinstance(value, str | os.PathLike):
        root = Path(value).expanduser()
        if not root.exists():
            raise ValueError(f"{key}={value} does not exist")
        if not root.is_dir():
            return [Named(root.stem, root)]
        names = sorted(image_paths.list_image_paths(root, "", suffixes=suffixes))
        if not names:
            raise ValueError(f"{key}={value} holds no {' or '.join(sorted(suffixes))}")
        return [Named(os.path.splitext(name)[0], root / name) for name in names]
    if isinstance(value, list | tuple) and not value:
        raise ValueError(f"{key} holds no value")
    if isinstance(value, list | tuple):
        return [one for v in value for one in list_values(v, key, suffixes)]
    if isinstance(value, np.ndarray) and value.ndim == 4:
        return [Named("", one) for one in value]
    return [Named("", value)]


def read_images(value: Any, key: str, channels: int) -> list[Named]:
    """Returns images as uint8 [h, w, channels], as a viewer shows them.

    Raises:
      ValueError: there is none, or one is not an image.
      OSError: a file cannot be read.
    """
    found = list_values(value, key, image_paths.SUFFIXES)
    return [
        Named(n, _read_image(v, f"{key}: {n or 'image'}", channels)) for n, v in found
    ]


def _read_image(value: Any, what: str, channels: int) -> UInt8[np.ndarray, "h w c"]:
    if isinstance(value, Path):
        pixels = photos.read(value, channels).pixels
    elif isinstance(value, Image.Image):
        pixels = np.asarray(value.convert("RGBA" if channels == 4 else "RGB"))
    else:
        pixels = np.asarray(value)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise ValueError(
                f"{what} must be a uint8 array [h, w, c], a PIL image or a path; got "
                f"{pixels.dtype} {list(pixels.shape)}"
            )
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1:
        return pixels.repeat(channels, axis=2)
    return decode.from_rgb(pixels[..., :3], channels)


def read_maps(value: Any, key: str) -> list[Named]:
    """Returns maps as arrays [h, w, k], of any type, as they are stored.

    A paletted image holds the numbers of its palette, a grey one its values.

    Raises:
      ValueError: there is none, or one is neither an image nor an array.
      OSError: a file cannot be read.
    """
    found = list_values(value, key, image_paths.SUFFIXES | {_ARRAY})
    return [Named(name, _read_map(v, f"{key}: {name or 'map'}")) for name, v in found]


def _read_map(value: Any, what: str) -> np.ndarray:
    if isinstance(value, Path) and value.suffix == _ARRAY:
        try:
            value = np.load(value)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{value} is not a NumPy array: {error}") from error
    elif isinstance(value, Path):
        try:
            with Image.open(value) as image:
                value = np.asarray(image)
        except OSError as error:
            raise ValueError(f"{value} is not an image: {error}") from error
    array = np.asarray(value)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} must be an array [h, w] or [h, w, k] of numbers, an image or a "
            f"path; got {array.dtype} {list(array.shape)}"
        )
    return array


def read_layouts(value: Any, key: str) -> list[list[dict[str, Any]]]:
    """Returns for each image its objects, as {"class": ..., "box": [y0, x0, y1, x1]}.

    Args:
      value: objects of one image, a list of such lists, or the path of a JSON file with
        one of both.
      key: config key of the value, for messages.

    Raises:
      ValueError: the file is not JSON, or has another form.
      OSError: it cannot be read.
    """
    if isinstance(value, str | os.PathLike):
        path = Path(value).expanduser()
        if not path.exists():
            raise ValueError(f"{key}={value} does not exist")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{key}={path} is not JSON: {error}") from error
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if is_list and all(isinstance(entry, dict) for entry in value):
        value = [value]  # also []: one image without objects
    valid = is_list and all(isinstance(image, Sequence) for image in value)
    if not valid or not value:
        raise ValueError(f"{key} must be {_LAYOUT}")
    return [[_check_object(entry, key) for entry in image] for image in value]


_LAYOUT = (
    'a list of objects {"class": name or number, "box": [y0, x0, y1, x1]} with '
    "corners from 0 to 1, or a list of such lists, one for each image"
)


def _check_object(entry: Any, key: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or set(entry) != {"class", "box"}:
        raise ValueError(f"{key} has {entry!r}; it must be {_LAYOUT}")
    try:
        y0, x0, y1, x1 = box = [float(v) for v in entry["box"]]
    except (TypeError, ValueError):
        raise ValueError(
            f"{key} has the box {entry['box']!r}; it must be four numbers"
        ) from None
    if not (0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1):
        raise ValueError(
            f"{key} has the box {box}; (y0, x0, y1, x1) must be between 0 and 1, with "
            "y0 < y1 and x0 < x1"
        )
    return {"class": entry["class"], "box": box}
