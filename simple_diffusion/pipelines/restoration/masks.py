"""Hole masks: the pixels to fill, from files or generated."""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from simple_diffusion.build.image_geometry import parse_size
from simple_diffusion.data.sources import folder
from simple_diffusion.pipelines.restoration import photos

Size = tuple[int, int]


def load_hole_mask(
    text: str, name: str, size: Size, stored: Size, seed: int
) -> Float[np.ndarray, "h w 1"]:
    """Returns a mask with 1 where an image must be filled, else 0.

    Args:
      text: `restore.hole_mask`: an image, a folder of images, box:HxW for a hole in the
        middle, or random:SHARE of the pixels.
      name: of the image, relative to its folder and without suffix.
      size: height and width of the image and of the mask.
      stored: size of the image file, before `restore.size`; a mask file may have it.
      seed: of random masks.

    Raises:
      ValueError: there is no such mask, its size is wrong, or it is not binary.
      OSError: it cannot be read.
    """
    kind, _, value = text.partition(":")
    if kind == "box":
        return _box(parse_size(value, 0, "restore.hole_mask=box"), size)
    if kind == "random":
        return _random(value, size, seed, name)
    path = Path(text)
    if path.is_dir():
        path = find_mask(path, name)
    return fit_hole(photos.read(path).pixels, path, name, size, stored)


def fit_hole(
    mask: UInt8[np.ndarray, "h w c"],
    source: Path | str,
    name: str,
    size: Size,
    stored: Size,
) -> Float[np.ndarray, "H W 1"]:
    """Returns a mask with 1 where an image must be filled, else 0, from mask pixels.

    Args:
      mask: white is filled, black is known.
      source: name of the mask in messages.
      name: of the image.
      size: as in `hole_mask`.
      stored: as in `hole_mask`.

    Raises:
      ValueError: its size is wrong, or it is not only black and white.
    """
    if mask.shape[:2] == stored != size:
        mask = _nearest(mask, size)
    if mask.shape[:2] != size:
        h, w = mask.shape[:2]
        raise ValueError(
            f"restore.hole_mask: {source} has {h}x{w} pixels, {name} has "
            f"{size[0]}x{size[1]}"
        )
    grey_share = ((mask > 0) & (mask < 255)).any(axis=2).mean()
    if grey_share or np.ptp(mask, axis=2).any():
        raise ValueError(
            f"restore.hole_mask: {source} must be only black (known) and white "
            f"(filled); {max(grey_share, 1e-4):.2%} of its pixels are neither. Store "
            "it as PNG, without soft edges"
        )
    return (mask[..., :1] == 255).astype(np.float32)


def find_mask(root: Path, name: str) -> Path:
    """Returns the mask file of an image: it has the same name and any suffix.

    Raises:
      ValueError: there is no such file.
    """
    for suffix in sorted(folder.SUFFIXES):
        path = root / f"{name}{suffix}"
        if path.exists():
            return path
    raise ValueError(f"restore.hole_mask={root} holds no mask named {name}")


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


def _box(hole: Size, size: Size) -> Float[np.ndarray, "h w 1"]:
    if hole[0] > size[0] or hole[1] > size[1] or 0 in hole:
        raise ValueError(
            f"restore.hole_mask=box:{hole[0]}x{hole[1]} does not fit into "
            f"{size[0]}x{size[1]} pixels"
        )
    mask = np.zeros((*size, 1), np.float32)
    top, left = ((n - m) // 2 for n, m in zip(size, hole, strict=True))
    mask[top : top + hole[0], left : left + hole[1]] = 1
    return mask


def _random(value: str, size: Size, seed: int, name: str) -> Float[np.ndarray, "h w 1"]:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(
            f"restore.hole_mask=random:{value} must be random:SHARE, with a share of "
            "the pixels in (0, 1]"
        )
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    order = rng.permutation(size[0] * size[1]).reshape(*size, 1)
    return (order < round(share * order.size)).astype(np.float32)
