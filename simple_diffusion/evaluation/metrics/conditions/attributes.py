"""Attributes that an image is to have, such as a colour, and those read from it."""

import numpy as np
from jaxtyping import Int, Shaped

from simple_diffusion.evaluation.metrics import intervals
from simple_diffusion.evaluation.metrics.scores import Accuracy


def accuracy(
    found: Int[np.ndarray, "n"], wanted: Int[np.ndarray, "n"]
) -> Accuracy | None:
    """Returns the share of images that are read as wanted, with its 95 % interval.

    Args:
      found: what was read from each image.
      wanted: what was asked for; -1 where nothing was, which does not count. None if
        nothing was asked for at all.
    """
    is_asked = wanted >= 0
    if not is_asked.any():
        return None
    right = (found == wanted)[is_asked]
    interval = intervals.wilson(int(right.sum()), len(right))
    return Accuracy(float(right.mean()), interval)


def most_frequent_share(wanted: Shaped[np.ndarray, "n"]) -> float:
    """Returns the accuracy of always guessing the most frequent value, as `accuracy`.

    Raises:
      ValueError: nothing was asked for.
    """
    asked = wanted[wanted >= 0]
    if not len(asked):
        raise ValueError("no value was asked for, so none is the most frequent one")
    return float(np.bincount(asked).max() / len(asked))
