"""Boxes that an image was asked to have, and those found in it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from simple_diffusion.evaluation.metrics.conditions import class_means
from simple_diffusion.evaluation.metrics.conditions.class_means import Estimate

_ENOUGH = 0.5  # IoU with which a box counts as found


class Layouts(NamedTuple):
    """Objects of n images, k places for each.

    Fields:
      box: corners (y0, x0, y1, x1) in units of the image.
      category: class numbers from 0.
      present: False for a place without an object.
    """

    box: Float[np.ndarray, "n k 4"]
    category: Int[np.ndarray, "n k"]
    present: Bool[np.ndarray, "n k"]


class LayoutScores(NamedTuple):
    """How well objects of two layouts agree, as means over classes.

    Fields:
      iou: mean of the best IoU that each wanted box has with a found one of its class.
      recall: share of wanted boxes for which that is at least one half.
      precision: share of found boxes that overlap by as much with a wanted one of their
        class; None if nothing is found.
    """

    iou: Estimate
    recall: Estimate
    precision: Estimate | None


def iou(
    a: Float[np.ndarray, "*s 4"], b: Float[np.ndarray, "*s 4"]
) -> Float64[np.ndarray, "*s"]:
    """Returns the area of the intersection over that of the union; 0 for empty boxes.

    Args:
      a: corners (y0, x0, y1, x1).
      b: likewise.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    shared = _area(np.concatenate([low, high], -1))
    union = _area(a) + _area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _area(box: Float64[np.ndarray, "*s 4"]) -> Float64[np.ndarray, "*s"]:
    return np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), -1)


def best_ious(wanted: Layouts, found: Layouts) -> Float64[np.ndarray, "n k"]:
    """Returns the best IoU of each wanted box with a found one of its class.

    Several wanted boxes may have their best in the same found one. 0 for places without
    an object, and for objects without any found one of their class.
    """
    k, m = wanted.present.shape[1], found.present.shape[1]
    if not k or not m:
        return np.zeros(wanted.present.shape)
    a = np.repeat(wanted.box[:, :, None], m, 2)
    b = np.repeat(found.box[:, None], k, 1)
    fits = wanted.category[:, :, None] == found.category[:, None]
    fits &= wanted.present[:, :, None] & found.present[:, None]
    return (iou(a, b) * fits).max(2)


def compare(
    wanted: Layouts, found: Layouts, classes: int, seed: int = 0
) -> LayoutScores:
    """Returns how well the found objects agree with the wanted ones.

    Args:
      wanted: what was asked for.
      found: what was found in the same images.
      classes: number of classes.
      seed: of the intervals.

    Raises:
      ValueError: no object is wanted.
    """
    best, back = best_ious(wanted, found), best_ious(found, wanted)

    def mean(values: np.ndarray, of: Layouts) -> Estimate:
        category = np.where(of.present, of.category, 0)
        part, total = (
            class_means.sum_by_class(v * of.present, category, classes)
            for v in (values, np.ones(values.shape))
        )
        return class_means.mean_of_classes(part, total, seed)

    return LayoutScores(
        mean(best, wanted),
        mean((best >= _ENOUGH) * 1.0, wanted),
        mean((back >= _ENOUGH) * 1.0, found) if found.present.any() else None,
    )
