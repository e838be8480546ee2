"""Hole masks: the pixels to fill, from files or generated."""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from simple_diffusion.core.options import parse_size
from simple_diffusion.data.stored import image_paths
from simple_diffusion.pipelines.restoration import photos

Size = tuple[int, int]
KEY = "restore.hole_mask"


def check(text: str, key: str = KEY) -> None:
    """Raises ValueError if a hole mask has no valid form or does not exist."""
    kind, _, value = text.partition(":")
    if kind == "box":
        parse_size(value, f"{key}=box")
    elif kind == "random":
        _parse_share(value, key)
    elif not Path(text).expanduser().exists():
        raise ValueError(
            f"{key}={text} does not exist; it must be an image, a folder "
            "with a mask of the same name for each input, box:HxW or random:SHARE"
        )


def load_hole_mask(
    text: str,
    name: str,
    size: Size,
    stored: Size,
    seed: int,
    is_resized: bool,
    key: str = KEY,
) -> Float[np.ndarray, "h w 1"]:
    """Returns a mask with 1 where an image must be filled, else 0.

    Args:
      text: the value of `key`: an image, a folder of images, box:HxW for a hole in the
        middle, or random:SHARE of the pixels.
      name: of the image, relative to its folder and without suffix.
      size: height and width of the image and of the mask.
      stored: size of the image file, before `restore.size`; a mask file may have it.
      seed: of random masks.
      is_resized: whether a mask file may have any size, see `fit_hole`.
      key: config key of the mask, for messages.

    Raises:
      ValueError: there is no such mask, its size is wrong, it is not binary, or it has
        one colour only.
      OSError: it cannot be read.
    """
    check(text, key)
    kind, _, value = text.partition(":")
    if kind in ("box", "random"):
        if kind == "box":
            mask = _box(parse_size(value, f"{key}=box"), size, key)
        else:
            mask = _random(_parse_share(value, key), size, seed, name)
        _check_not_uniform(mask, f"{key}={text} in {name}")
        return mask
    path = Path(text).expanduser()
    if path.is_dir():
        path = find_mask(path, name, key)
    return fit_hole(photos.read(path).pixels, path, name, size, stored, is_resized, key)


def fit_hole(
    mask: UInt8[np.ndarray, "h w c"],
    source: Path | str,
    name: str,
    size: Size,
    stored: Size,
    is_resized: bool,
    key: str = KEY,
) -> Float[np.ndarray, "H W 1"]:
    """Returns a mask with 1 where an image must be filled, else 0, from mask pixels.

    Args:
      mask: white is filled, black is known.
      source: name of the mask in messages.
      name: of the image.
      size: as in `load_hole_mask`.
      stored: as in `load_hole_mask`.
      is_resized: whether images are cropped and resized to `size`; a mask that has the
        shape of its image, larger or smaller, then is as well, by nearest neighbours.
      key: config key of the mask, for messages.

    Raises:
      ValueError: its size is wrong, it is not only black and white, or only one of
        them.
    """
    given = h, w = mask.shape[0], mask.shape[1]
    if given == stored or (is_resized and _is_same_shape(given, stored)):
        mask = mask if given == size else _nearest(mask, size)
    if mask.shape[:2] != size:
        # The size that the image has before it is resized.
        rows, columns = stored if is_resized else size
        size_key = key.replace("hole_mask", "size")
        hint = (
            f"{size_key} resizes masks together with their images, so both must have "
            "one ratio of height to width"
            if is_resized
            else f"with {size_key}=HxW a mask that is larger or smaller is resized"
        )
        raise ValueError(
            f"{key}: {source} has {h}x{w} pixels, {name} has {rows}x{columns}; {hint}"
        )
    grey_share = ((mask > 0) & (mask < 255)).any(axis=2).mean()
    if grey_share or np.ptp(mask, axis=2).any():
        raise ValueError(
            f"{key}: {source} must be only black (known) and white "
            f"(filled); {max(grey_share, 1e-4):.2%} of its pixels are neither. Store "
            "it as PNG, without soft edges"
        )
    hole = (mask[..., :1] == 255).astype(np.float32)
    resized = f", resized to {size[0]}x{size[1]}," if given != size else ""
    _check_not_uniform(hole, f"{key}: {source}{resized}")
    return hole


def _is_same_shape(size: Size, other: Size) -> bool:
    """Returns whether two sizes have one ratio of height to width, to a pixel."""
    (a, b), (c, d) = sorted((size, other))
    return abs(a - b * c / d) <= 1 or abs(b - a * d / c) <= 1


def _check_not_uniform(hole: Float[np.ndarray, "h w 1"], what: str) -> None:
    """Raises ValueError if nothing is to be filled, or nothing is known."""
    if not hole.any():
        raise ValueError(
            f"{what} is all black, so there is nothing to fill: white is filled, black "
            "is kept"
        )
    if hole.all():
        raise ValueError(
            f"{what} is all white, so nothing of the image is known: white is filled, "
            "black is kept. For images without an input use --mode sample"
        )


def find_mask(root: Path, name: str, key: str = KEY) -> Path:
    """Returns the mask file of an image: it has the same name and any suffix.

    Raises:
      ValueError: there is no such file.
    """
    for suffix in sorted(image_paths.SUFFIXES):
        path = root / f"{name}{suffix}"
        if path.exists():
            return path
    raise ValueError(f"{key}={root} holds no mask named {name}")


def _nearest(
    mask: UInt8[np.ndarray, "h w c"], size: Size
) -> UInt8[np.ndarray, "H W c"]:
    """Crops and resizes a mask like its image, by nearest neighbours."""
    h, w, _ = mask.shape  # the crop of `transforms.crop_and_resize`
    height = min(h, max(1, round(w * size[0] / size[1])))
    width = min(w, max(1, round(h * size[1] / size[0])))
    y = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    x = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    return mask[(h - height + 1) // 2 + y][:, (w - width + 1) // 2 + x]


def _box(hole: Size, size: Size, key: str) -> Float[np.ndarray, "h w 1"]:
    if hole[0] > size[0] or hole[1] > size[1] or 0 in hole:
        raise ValueError(
            f"{key}=box:{hole[0]}x{hole[1]} does not fit into "
            f"{size[0]}x{size[1]} pixels"
        )
    mask = np.zeros((*size, 1), np.float32)
    top, left = ((n - m) // 2 for n, m in zip(size, hole, strict=True))
    mask[top : top + hole[0], left : left + hole[1]] = 1
    return mask


def _parse_share(value: str, key: str) -> float:
    """Returns the share of random:SHARE."""
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ValueError(
            f"{key}=random:{value} must be random:SHARE, with a share of "
            "the pixels between 0 and 1"
        )
    return share


def _random(
    share: float, size: Size, seed: int, name: str
) -> Float[np.ndarray, "h w 1"]:
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    order = rng.permutation(size[0] * size[1]).reshape(*size, 1)
    return (order < round(share * order.size)).astype(np.float32)
