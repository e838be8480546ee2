"""Mean and covariance of a stream of features, in float64.

With float32 sums over fifty thousand features the first decimal of a Fréchet distance
is wrong. Here everything is accumulated in float64 on the host, around the running
mean, so that large means do not cancel (Chan, Golub, LeVeque 1979).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


class Statistics(NamedTuple):
    """A Gaussian summary of n features of dimension d.

    scatter: the sum of (f - mean)(f - mean)^T over all features.
    """

    n: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased covariance, scatter / (n - 1); needs n >= 2."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.n}")
        return self.scatter / (self.n - 1)


def zeros(dimension: int) -> Statistics:
    """Returns the statistics of zero features."""
    return Statistics(0, np.zeros(dimension), np.zeros((dimension, dimension)))


def compute(features: Shaped[np.ndarray, "n d"]) -> Statistics:
    """Returns the statistics of one array with one row per image.

    Raises:
      ValueError: for features that are not finite, with the indices of rows.
    """
    features = np.asarray(features, np.float64)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(features)} features are not finite, "
            f"first in rows {bad[:5].tolist()}"
        )
    mean = features.mean(axis=0)
    centred = features - mean
    return Statistics(len(features), mean, centred.T @ centred)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Returns the statistics of the union of both sets."""
    n = a.n + b.n
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.n / n)
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Statistics(n, mean, scatter)
