"""Means over classes of shares that are summed over images first.

A class that is seen often would decide a mean over objects or pixels alone. So what is
right is divided by what was asked for in each class, and then averaged over classes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from simple_diffusion.evaluation.metrics.intervals import Interval

_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A value with its 95 % interval; None for a single image."""

    value: float
    interval: Interval | None


def mean_of_classes(
    part: Shaped[np.ndarray, "n c"],
    total: Shaped[np.ndarray, "n c"],
    seed: int = 0,
) -> Estimate:
    """Returns the mean over c classes of sum_n part / sum_n total.

    Classes whose total is 0 do not count. The interval is a percentile bootstrap over
    images, which keeps those together that belong to one image.

    Args:
      part: what is right in each image, by class.
      total: what was asked for.
      seed: of the resampling.

    Raises:
      ValueError: if nothing was asked for.
    """
    part, total = np.asarray(part, np.float64), np.asarray(total, np.float64)
    if not total.any():
        raise ValueError("no image has anything that was asked for")
    value = float(_mean(part.sum(0)[None], total.sum(0)[None])[0])
    n = len(part)
    if n < 2:
        return Estimate(value, None)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES).astype(np.float64)
    means = _mean(times @ part, times @ total)
    low, high = np.nanquantile(means, (0.025, 0.975))
    return Estimate(value, Interval(float(low), float(high)))


def _mean(
    part: Float64[np.ndarray, "r c"], total: Float64[np.ndarray, "r c"]
) -> Float64[np.ndarray, "r"]:
    """Returns the mean share of the classes that occur; NaN if none does."""
    occurs = total > 0
    shares = np.divide(part, total, out=np.zeros_like(part), where=occurs)
    count = occurs.sum(1)
    out = np.full(len(part), np.nan)
    return np.divide(shares.sum(1), count, out=out, where=count > 0)


def sum_by_class(
    values: Shaped[np.ndarray, "n k"], classes: Shaped[np.ndarray, "n k"], count: int
) -> Float64[np.ndarray, "n c"]:
    """Returns the sum of the values of each class, in each image.

    Args:
      values: of k objects or pixels of each image.
      classes: their class numbers, from 0 to count - 1; others are an error of
        indexing, so give them the value 0 and any class.
      count: number of classes.
    """
    sums = np.zeros((len(values), count))
    rows = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    np.add.at(sums, (rows, classes), values)
    return sums
