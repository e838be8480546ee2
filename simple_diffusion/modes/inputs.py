"""What mode `restore` is given: images, or measurements of them, and masks."""

import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from simple_diffusion.build import data, diffusion
from simple_diffusion.build.canvas import parse_size
from simple_diffusion.build.options import Config
from simple_diffusion.build.restoration import Plan
from simple_diffusion.core import images
from simple_diffusion.data import decode, folder, transforms
from simple_diffusion.data.errors import BadImage

# Modes of Pillow in which an image has no colours.
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# Decoding reduces an image that is larger than this twice over; none is.
_AS_STORED = 1 << 20
MEASUREMENT = ".npy"
HELD_OUT = "held_out:"


@dataclasses.dataclass(frozen=True)
class Input:
    """One input.

    name: relative to the folder and without suffix.
    path: its file; of a held-out image of the data source, its name.
    pixels: the image, where it has no file.
    """

    name: str
    path: Path
    pixels: UInt8[np.ndarray, "h w c"] | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One input as it goes to the device.

    whole: the image before it was degraded; None if it came degraded.
    measurement: what was measured of it; None if that is still to be done.
    known_mask: 1 where a pixel is known; all of it where the task has no mask.
    """

    whole: UInt8[np.ndarray, "h w c"] | None
    measurement: Float[np.ndarray, "..."] | None
    known_mask: Float[np.ndarray, "h w 1"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.known_mask.shape[0], self.known_mask.shape[1]


def find(config: Config, plan: Plan) -> list[Input]:
    """Returns the inputs in order of their names.

    Raises:
      ValueError: there is none.
    """
    if plan.input.startswith(HELD_OUT):
        return list(_held_out(config, plan))
    root, measured = Path(plan.input), not (plan.degrade or plan.lost.is_image)
    if not root.exists():
        raise ValueError(f"restore.input={root} does not exist")
    if not root.is_dir():
        return [Input(root.stem, root)]
    if measured:
        paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.npy"))
    else:
        paths = sorted(folder.image_paths(root, ""))
    if not paths:
        kind = "measurement (.npy)" if measured else "image"
        raise ValueError(f"restore.input={root} holds no {kind}")
    return [Input(os.path.splitext(p)[0], root / p) for p in paths]


def load(plan: Plan, item: Input, channels: int) -> Loaded:
    """Returns an input, read and checked.

    Args:
      plan: what is restored.
      item: which input.
      channels: of the model.

    Raises:
      ValueError: the file cannot be used; the message says why and names the key.
      OSError: it cannot be read.
    """
    lost, size = plan.lost, plan.size
    if not (plan.degrade or lost.is_image):
        return _measured(item, size)
    small = None if plan.degrade or size is None else _reduced(size, lost.factor)
    if item.pixels is None:
        pixels, stored, grey = _image(item.path, size if plan.degrade else small)
    else:
        pixels, stored, grey = item.pixels, item.pixels.shape[:2], False
    if channels == 1:
        pixels = pixels[..., :1]
    if grey and channels == 3 and not lost.is_grey:
        raise ValueError(
            f"{item.path} is grey and the model draws colours: restore.task={plan.task}"
            "+colourise gives it colours; to keep it grey, store it as RGB"
        )
    factor = 1 if plan.degrade else lost.factor
    shape = pixels.shape[0] * factor, pixels.shape[1] * factor
    known = np.ones((*shape, 1), np.float32)
    if lost.needs_mask:
        known = 1 - hole_mask(plan, item, shape, stored)
    if plan.degrade:
        return Loaded(pixels, None, known)
    if lost.is_grey and not grey and np.ptp(pixels, axis=2).any():
        raise ValueError(
            f"{item.path} is in colour, so there is nothing for colourise to do; "
            "restore.degrade=True takes its colours away first"
        )
    y = np.asarray(images.to_unit_range(pixels))
    y = y[..., :1] if lost.is_grey else y
    return Loaded(None, y * known if lost.factor == 1 else y, known)


def hole_mask(
    plan: Plan, item: Input, size: tuple[int, int], stored: tuple[int, int]
) -> Float[np.ndarray, "h w 1"]:
    """Returns 1 where an image is to be filled, else 0.

    Args:
      plan: its `hole_mask` is an image, a folder of images, box:HxW for a hole in the
        middle, or random:SHARE of the pixels.
      item: the image.
      size: its height and width, and the mask's.
      stored: those of its file, before `restore.size`: a mask may have these instead.

    Raises:
      ValueError: there is no such mask, or it is of another size, or not binary.
      OSError: it cannot be read.
    """
    text = str(plan.hole_mask)
    kind, _, value = text.partition(":")
    if kind == "box":
        return _box(parse_size(value, 0, "restore.hole_mask=box"), size)
    if kind == "random":
        return _random(value, size, (plan.seed, item.name))
    path = Path(text)
    if path.is_dir():
        path = _mask_of(path, item)
    mask, _, _ = _image(path, None)
    if mask.shape[:2] == stored != size:
        mask = _nearest(mask, size)
    if mask.shape[:2] != size:
        h, w = mask.shape[:2]
        raise ValueError(
            f"restore.hole_mask: {path} has {h}x{w} pixels, {item.path} has "
            f"{size[0]}x{size[1]}"
        )
    between = ((mask > 0) & (mask < 255)).any(axis=2).mean()
    if between or np.ptp(mask, axis=2).any():
        raise ValueError(
            f"restore.hole_mask: {path} must be black (known) and white (to be filled) "
            f"alone; {max(between, 1e-4):.2%} of its pixels are neither. Store it as "
            "PNG, without soft edges"
        )
    return (mask[..., :1] == 255).astype(np.float32)


def _held_out(config: Config, plan: Plan) -> Iterator[Input]:
    """Yields images of the data source that were kept from training."""
    text, count = plan.input, plan.input.removeprefix(HELD_OUT)
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"restore.input={text} must be held_out:COUNT, 1 or more")
    if not plan.degrade:
        raise ValueError(f"restore.input={text} needs restore.degrade=True")
    side = diffusion.reference(config)
    size = (side, side) if plan.size is None else plan.size
    opened, number = data.data(config), 0
    for batch in opened.whole(int(count), 1, size):
        kind = opened.class_names[int(batch.label[0])] if opened.class_names else ""
        name = f"{number:04d}" + (f"_{kind}" if kind else "")
        yield Input(name, Path(f"{text}/{name}"), np.asarray(batch.image[0]))
        number += 1


def _measured(item: Input, size: tuple[int, int] | None) -> Loaded:
    if size is None:
        raise ValueError(
            "restore.size must say how large the image is that was measured: HxW"
        )
    if item.path.suffix != MEASUREMENT:
        raise ValueError(
            f"{item.path}: a measurement of restore.task=sense is a {MEASUREMENT} file "
            "of float numbers; to measure images first, set restore.degrade=True"
        )
    try:
        y = np.load(item.path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{item.path} is no NumPy array: {error}") from error
    if not np.issubdtype(y.dtype, np.floating) or not np.isfinite(y).all():
        raise ValueError(f"{item.path} must hold finite floats, not {y.dtype}")
    return Loaded(None, y.astype(np.float32), np.ones((*size, 1), np.float32))


def _image(
    path: Path, size: tuple[int, int] | None
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int], bool]:
    """Returns an image as RGB, its stored size, and whether its file has no colours.

    With a size it is cut to that shape in the middle and resized.
    """
    try:
        with path.open("rb") as file:
            pixels = decode.decode(file, path, _AS_STORED)
            with Image.open(file) as opened:
                grey = opened.mode in _GREY
    except BadImage as error:
        raise ValueError(str(error)) from error
    stored = pixels.shape[0], pixels.shape[1]
    if size is not None:
        rng = np.random.default_rng(0)  # what it draws is not used
        pixels = transforms.fitted(pixels, rng, size=size, resize="antialias")
    return pixels, stored, grey


def _nearest(
    mask: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a mask cut and resized as its image was, without mixing pixels."""
    h, w, _ = mask.shape  # cut as `transforms.fitted` cuts
    height = min(h, max(1, round(w * size[0] / size[1])))
    width = min(w, max(1, round(h * size[1] / size[0])))
    y = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    x = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    return mask[(h - height + 1) // 2 + y][:, (w - width + 1) // 2 + x]


def _reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    if size[0] % factor or size[1] % factor:
        raise ValueError(
            f"restore.size={size[0]}x{size[1]} must be a multiple of restore.factor="
            f"{factor}"
        )
    return size[0] // factor, size[1] // factor


def _mask_of(root: Path, item: Input) -> Path:
    for suffix in (item.path.suffix, *sorted(folder.SUFFIXES)):
        path = root / f"{item.name}{suffix}"
        if path.exists():
            return path
    raise ValueError(f"restore.hole_mask={root} holds no mask named {item.name}")


def _box(hole: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    if hole[0] > size[0] or hole[1] > size[1] or 0 in hole:
        raise ValueError(
            f"restore.hole_mask=box:{hole[0]}x{hole[1]} does not fit into "
            f"{size[0]}x{size[1]} pixels"
        )
    mask = np.zeros((*size, 1), np.float32)
    top, left = ((n - m) // 2 for n, m in zip(size, hole, strict=True))
    mask[top : top + hole[0], left : left + hole[1]] = 1
    return mask


def _random(value: str, size: tuple[int, int], seed: tuple[int, str]) -> np.ndarray:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(
            f"restore.hole_mask=random:{value} must be random:SHARE, with a share of "
            "the pixels in (0, 1]"
        )
    number, name = seed
    rng = np.random.default_rng((number, zlib.crc32(name.encode())))
    order = rng.permutation(size[0] * size[1]).reshape(*size, 1)
    return (order < round(share * order.size)).astype(np.float32)
