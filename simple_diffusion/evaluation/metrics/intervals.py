"""Confidence intervals for means over examples."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

# Random indices drawn at a time: 32 MB.
_CHUNK = 2**22
# 97.5 % quantile of the standard normal distribution.
_NORMAL = 1.959963984540054


class Interval(NamedTuple):
    """Bounds of a 95 % confidence interval."""

    low: float
    high: float


def bootstrap(
    values: Shaped[np.ndarray, "n"], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Returns a 95 % interval for the mean of one value per example.

    The percentile bootstrap (Efron 1979): 95 % of the means of resampled values lie
    within the bounds. It contains neither a bias nor an error that the examples share,
    such as that of the images they are compared with. Values that are all equal have an
    interval of zero width; for indicators use `wilson` instead.

    Args:
      values: one for each example; may be infinite, as PSNR of equal images is.
      resamples: number of resampled means.
      seed: of the resampling.

    Raises:
      ValueError: for fewer than 2 values, or values that are NaN.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n < 2:
        raise ValueError(
            f"an interval needs at least 2 values, got {n}; raise evaluate.count"
        )
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {n} values are NaN, first at {bad[:5].tolist()}"
        )
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(_CHUNK // n, 1)
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = values[rng.integers(0, n, (len(part), n))].mean(axis=1)
    means.sort()  # no interpolation, which would fail between infinite values
    low, high = (round(q * (resamples - 1)) for q in (0.025, 0.975))
    return Interval(float(means[low]), float(means[high]))


def wilson(successes: int, n: int) -> Interval:
    """Returns a 95 % interval for a probability, from successes among n trials.

    Wilson 1927; unlike the normal interval it stays inside 0 to 1 and has a width even
    if all or none succeed.

    Raises:
      ValueError: for no trials, or more successes than trials.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} trials cannot have succeeded")
    share, z2 = successes / n, _NORMAL**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    # At the ends the bound is 0 or 1; rounding must not push it beyond.
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))
