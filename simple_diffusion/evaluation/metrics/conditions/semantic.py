"""Maps of classes that images were asked to follow, and those found in them."""

import numpy as np
from jaxtyping import Float64, Int

from simple_diffusion.evaluation.metrics.conditions import class_means
from simple_diffusion.evaluation.metrics.conditions.class_means import Estimate


def pixel_accuracy(
    found: Int[np.ndarray, "n h w"], wanted: Int[np.ndarray, "n h w"], seed: int = 0
) -> Estimate:
    """Returns the share of pixels that have the wanted class.

    Args:
      found: class numbers.
      wanted: class numbers; pixels of -1 do not count.
      seed: of the interval.

    Raises:
      ValueError: no pixel has a wanted class.
    """
    is_asked = wanted >= 0
    right = ((found == wanted) & is_asked).sum((1, 2))
    return class_means.mean_of_classes(
        right[:, None], is_asked.sum((1, 2))[:, None], seed
    )


def mean_iou(
    found: Int[np.ndarray, "n h w"],
    wanted: Int[np.ndarray, "n h w"],
    classes: int,
    seed: int = 0,
) -> Estimate:
    """Returns the mean over the wanted classes of intersection over union.

    Both are summed over all images before they are divided, as usual. A class that no
    map asks for does not count; its pixels are missing from the others.

    Args:
      found: class numbers from 0 to classes - 1.
      wanted: likewise; pixels of -1 do not count.
      classes: number of classes.
      seed: of the interval.

    Raises:
      ValueError: no pixel has a wanted class.
    """
    is_asked = wanted >= 0
    asked = _count(wanted, is_asked, classes)
    shared = _count(wanted, is_asked & (found == wanted), classes)
    union = asked + _count(found, is_asked, classes) - shared
    union = np.where(asked.sum(0, keepdims=True) > 0, union, 0)
    return class_means.mean_of_classes(shared, union, seed)


def _count(
    ids: Int[np.ndarray, "n h w"], where: np.ndarray, classes: int
) -> Float64[np.ndarray, "n c"]:
    """Returns the number of pixels of each class in each image."""
    rows = np.arange(len(ids))[:, None, None] * classes
    flat = (rows + ids)[where]
    counts = np.bincount(flat, minlength=len(ids) * classes)
    return counts.reshape(len(ids), classes).astype(np.float64)


def resize_ids(
    ids: Int[np.ndarray, "n h w"], size: tuple[int, int]
) -> Int[np.ndarray, "n H W"]:
    """Returns maps at another size (height, width): the class at each pixel centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for new, old in zip(size, ids.shape[1:], strict=True)
    )
    return ids[:, rows[:, None], columns[None]]
