"""Grids of images for viewing, and the names of image files."""

import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from simple_diffusion.core import images

# Smaller images are enlarged by an integer factor up to this side, to be visible.
VISIBLE = 64
MAX_COLUMNS = 16
_MAX_NAME = 60  # characters of a prompt: file systems allow 255 bytes


def write_grid(path: epath.Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Writes the picture that `render_grid` returns."""
    images.write_png(path, render_grid(pictures, labels))


def render_grid(
    pictures: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, "n"]
) -> UInt8[np.ndarray, "H W d"]:
    """Returns images in rows; if the classes repeat in turn, each gets a column."""
    n = len(labels)
    turns = (k for k in range(2, min(n, MAX_COLUMNS) + 1))
    columns = next((k for k in turns if (labels[k:] == labels[: n - k]).all()), None)
    if len(np.unique(labels)) == 1:
        columns = None
    return render_sheet(pictures, columns)


def write_sheet(path: epath.Path, pictures: np.ndarray, columns: int | None) -> None:
    """Writes the picture that `render_sheet` returns."""
    images.write_png(path, render_sheet(pictures, columns))


def render_sheet(
    pictures: UInt8[np.ndarray, "n h w c"], columns: int | None
) -> UInt8[np.ndarray, "H W d"]:
    """Returns images in rows; small images are enlarged by an integer factor.

    Transparent images are put on white.
    """
    if pictures.shape[-1] == 4:
        pictures = images.to_rgb(pictures)
    factor = max(1, VISIBLE // min(pictures.shape[1:3]))
    return images.enlarge(images.make_grid(pictures, columns), factor)


def format_file_name(number: int, digits: int, name: str) -> str:
    """Returns "007_some_name.png"; special characters are replaced by underscores."""
    safe = "".join(c if c.isalnum() else "_" for c in name[:_MAX_NAME])
    return f"{number:0{digits}d}_{safe}.png"
