"""The inputs of restorations: images or measurements, with their masks."""

import collections
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from simple_diffusion.build import data, diffusion
from simple_diffusion.build.restoration.restoration import Plan
from simple_diffusion.core import console, images
from simple_diffusion.core.options import Config
from simple_diffusion.data import decode
from simple_diffusion.data.stored import image_paths
from simple_diffusion.pipelines.restoration import masks, photos

MEASUREMENT = ".npy"
HELD_OUT = "held_out:"


@dataclasses.dataclass(frozen=True)
class Input:
    """One input.

    name: unique name of its results.
    stem: its path in the folder without suffix, to find its mask.
    path: its file; without a file, its name in messages.
    photo: the image, if it has no file.
    measurement: the measurement, if it has no file.
    hole: the mask of this image, instead of `restore.hole_mask`: white is filled.
    """

    name: str
    stem: str
    path: Path
    photo: photos.Photo | None = None
    measurement: Float[np.ndarray, "..."] | None = None
    hole: UInt8[np.ndarray, "h w c"] | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One input, ready for the device.

    original: the image before degradation; None if the input is degraded.
    measurement: the measurement; None if it must be computed from `original`.
    known_mask: 1 where a pixel is known; all 1 if the task has no mask.
    """

    original: UInt8[np.ndarray, "h w c"] | None
    measurement: Float[np.ndarray, "..."] | None
    known_mask: Float[np.ndarray, "h w 1"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.known_mask.shape[0], self.known_mask.shape[1]


def find(config: Config, plan: Plan) -> list[Input]:
    """Returns the inputs in the order of their names, without masks in their folder.

    Raises:
      ValueError: there is no input, or no mask.
    """
    if plan.hole_mask is not None:
        masks.check(plan.hole_mask)
    if plan.input.startswith(HELD_OUT):
        return list(_held_out(config, plan))
    root, measured = Path(plan.input), not (plan.degrade or plan.degradation.is_image)
    if not root.exists():
        raise ValueError(f"restore.input={root} does not exist")
    if not root.is_dir():
        return [Input(root.stem, root.stem, root)]
    if measured:
        paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.npy"))
    else:
        paths = sorted(image_paths.list_image_paths(root, ""))
    mask = None if plan.hole_mask is None else Path(plan.hole_mask).resolve()
    if mask is not None and root.resolve() in mask.parents:
        paths = [p for p in paths if not _is_within(root / p, mask)]
    if not paths:
        kind = "measurement (.npy)" if measured else "image"
        raise ValueError(f"restore.input={root} holds no {kind}")
    stems = [os.path.splitext(p)[0] for p in paths]
    counts = collections.Counter(stems)
    # With a.jpg and a.png, neither may overwrite the results of the other.
    names = [
        stem if counts[stem] == 1 else path.replace(".", "_")
        for stem, path in zip(stems, paths, strict=True)
    ]
    if len(set(names)) < len(names):
        duplicate = collections.Counter(names).most_common(1)[0][0]
        raise ValueError(
            f"restore.input={root}: the results of two inputs would both be called "
            f"{duplicate}; rename one input"
        )
    return [
        Input(name, stem, root / path)
        for name, stem, path in zip(names, stems, paths, strict=True)
    ]


def load(plan: Plan, item: Input, channels: int) -> Loaded:
    """Reads and checks an input.

    Args:
      plan: settings of the restoration.
      item: the input.
      channels: of the model.

    Raises:
      ValueError: the input cannot be used; the message names the reason and the key.
      OSError: the file cannot be read.
    """
    degradation, size = plan.degradation, plan.size
    if not (plan.degrade or degradation.is_image):
        return _measured(item, size)
    if size is not None and not plan.degrade:
        size = _reduced(size, degradation.factor)
    photo = item.photo
    if photo is None:
        photo = photos.read(item.path, channels)
    stored, is_grey = photo.stored, photo.is_grey
    pixels = photo.pixels if size is None else photos.fit(photo.pixels, size)
    _check_colours(plan, item, channels, pixels, is_grey)
    if channels == 4 and pixels.shape[2] == 3:
        pixels = decode.from_rgb(pixels, channels)
    pixels = pixels[..., :channels]
    factor = 1 if plan.degrade else degradation.factor
    shape = pixels.shape[0] * factor, pixels.shape[1] * factor
    known = np.ones((*shape, 1), np.float32)
    is_resized = plan.size is not None
    if item.hole is not None:
        where = "the mask of " + item.name, item.name
        known = 1 - masks.fit_hole(item.hole, *where, shape, stored, is_resized)
    elif plan.hole_mask is not None:
        known = 1 - masks.load_hole_mask(
            plan.hole_mask, item.stem, shape, stored, plan.seed, is_resized
        )
    if plan.degrade:
        return Loaded(pixels, None, known)
    y = np.asarray(images.to_unit_range(pixels))
    y = y[..., :1] if degradation.is_grey else y
    return Loaded(None, y * known if degradation.factor == 1 else y, known)


def _check_colours(
    plan: Plan,
    item: Input,
    channels: int,
    pixels: UInt8[np.ndarray, "h w c"],
    is_grey: bool,
) -> None:
    """Raises ValueError for a colour or grey image that the task does not support."""
    coloured = np.ptp(pixels[..., :3], axis=2).any()
    if channels == 1 and coloured:
        raise ValueError(
            f"{item.path} is in colour, but the model generates grey images"
        )
    if is_grey and channels != 1 and not plan.degradation.is_grey:
        raise ValueError(
            f"{item.path} is grey, but the model generates colour images: use "
            f"restore.task={plan.task}+colourise, or store it as RGB to keep it grey"
        )
    if plan.degradation.is_grey and not plan.degrade and coloured:
        raise ValueError(
            f"{item.path} is in colour, so colourise has nothing to do; "
            "restore.degrade=True removes its colours first"
        )


def _is_within(path: Path, parent: Path) -> bool:
    path = path.resolve()
    return path == parent or parent in path.parents


def _held_out(config: Config, plan: Plan) -> Iterator[Input]:
    """Yields held-out images of the data source."""
    text, count = plan.input, plan.input.removeprefix(HELD_OUT)
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(
            f"restore.input={text} must be held_out:COUNT with COUNT at least 1"
        )
    if not plan.degrade:
        raise ValueError(f"restore.input={text} needs restore.degrade=True")
    size = diffusion.reference_size(config) if plan.size is None else plan.size
    dataset, number = data.open_data(config), 0
    for batch in dataset.full_images(int(count), 1, size):
        if not batch.mask[0]:  # padding, or an unreadable image
            continue
        names = dataset.class_names
        label = names[int(batch.label[0])] if names else ""
        name = f"{number:04d}" + (f"_{label}" if label else "")
        photo = photos.from_pixels(np.asarray(batch.image[0]))
        yield Input(name, name, Path(f"{text}/{name}"), photo)
        number += 1
    if number < int(count):
        console.print_line(
            f"restore.input={text}: there are only {number} held-out images"
        )


def _measured(item: Input, size: tuple[int, int] | None) -> Loaded:
    if size is None:
        raise ValueError(
            "restore.size=HxW must be set to the size of the measured image"
        )
    if item.measurement is not None:
        y = item.measurement
    elif item.path.suffix != MEASUREMENT:
        raise ValueError(
            f"{item.path}: a measurement of restore.task=sense is a {MEASUREMENT} file "
            "of floats; to measure an image first, set restore.degrade=True"
        )
    else:
        y = _load_array(item.path)
    if not np.issubdtype(y.dtype, np.floating) or not np.isfinite(y).all():
        raise ValueError(f"{item.path} must hold finite floats, not {y.dtype}")
    return Loaded(None, y.astype(np.float32), np.ones((*size, 1), np.float32))


def _reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    if size[0] % factor or size[1] % factor:
        raise ValueError(
            f"restore.size={size[0]}x{size[1]} must be a multiple of restore.factor="
            f"{factor}"
        )
    return size[0] // factor, size[1] // factor


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy array: {error}") from error
