"""How far a mean may be off because of which examples were drawn."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

# Numbers drawn at a time: 32 MB.
_CHUNK = 2**22
# Quantile of the normal distribution between whose two signs 95 % lie.
_NORMAL = 1.959963984540054


class Interval(NamedTuple):
    """Bounds of a 95 % confidence interval."""

    low: float
    high: float


def bootstrap(
    values: Shaped[np.ndarray, "n"], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Returns a 95 % interval for the mean of a value per example.

    The percentile bootstrap (Efron 1979): bounds between which lie 95 % of the means of
    as many values drawn from these with replacement. It says nothing of a bias, nor of
    what the examples have in common, such as the images they are compared with. Means
    that are all alike, as of indicators that are all 1, have an interval of no width;
    `wilson` has one that has.

    Args:
      values: one for each example; infinite ones are allowed, as of PSNR.
      resamples: how many means.
      seed: of what is drawn; the same seed gives the same interval.

    Raises:
      ValueError: for fewer than 2 values, or values that are no number.
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
            f"{bad.size} of {n} values are no number, first at {bad[:5].tolist()}"
        )
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(_CHUNK // n, 1)
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = values[rng.integers(0, n, (len(part), n))].mean(axis=1)
    means.sort()  # whole elements: between infinite ones nothing can be interpolated
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
