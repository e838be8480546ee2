"""A row of samples for each class."""

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
      folder: see above; what was there before is removed.
      images: the samples.
      labels: their classes.
      each: how many of a class are shown; classes from the hundredth on are left out.
    """
    if jax.process_index() == 0:
        for old in (folder / FOLDER).glob("*.png"):
            old.unlink()
    names = images.classes[:_MOST_CLASSES]
    places = [np.flatnonzero(labels == k)[:each].tolist() for k in range(len(names))]
    every = [place for row in places for place in row]
    if not every:
        return
    drawn = images.at(every)  # at once, and in every process
    if jax.process_index():
        return
    rows = np.split(drawn, np.cumsum([len(row) for row in places])[:-1])
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        if len(row):
            path = folder / FOLDER / image_grids.file_name(k, 2, name)
            image_grids.write_sheet(path, row, len(row))
