"""Grids with one row of samples per class."""

import jax
import numpy as np
from etils import epath
from jaxtyping import Int

from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet

FOLDER = "classes"
_MOST_CLASSES = 100


def write(
    folder: epath.Path, images: ImageSet, labels: Int[np.ndarray, "n"], each: int
) -> None:
    """Writes `00_NAME.png` and so on into the folder `classes` of a folder.

    Args:
      folder: parent folder; the old pictures in its folder `classes` are removed.
      images: the samples.
      labels: their classes.
      each: number of images per class; only the first hundred classes are shown.
    """
    if jax.process_index() == 0:
        for old in (folder / FOLDER).glob("*.png"):
            old.unlink()
    names = images.classes[:_MOST_CLASSES]
    indices = [np.flatnonzero(labels == k)[:each].tolist() for k in range(len(names))]
    all_indices = [index for row in indices for index in row]
    if not all_indices:
        return
    pixels = images.at(all_indices)  # in one call, and in every process
    if jax.process_index():
        return
    rows = np.split(pixels, np.cumsum([len(row) for row in indices])[:-1])
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        if len(row):
            path = folder / FOLDER / image_grids.format_file_name(k, 2, name)
            image_grids.write_sheet(path, row, len(row))
