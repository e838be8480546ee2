"""The kernel distance between two sets of features; KID for Inception features.

The squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3, by its unbiased
estimate (Bińkowski et al. 2018, section 4): for two samples of one distribution its
mean is 0, whatever their number, so it is negative about half of the time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from simple_diffusion.evaluation.metrics import feature_sets

# Maximum number of features of each set for the standard error, which limits its time,
# and rows of the kernel at a time.
_MAX_FEATURES, _ROWS = 10_000, 512


class KernelDistance(NamedTuple):
    """A kernel distance, with two measures of spread that must not be confused.

    Fields:
      value: the mean over the subsets.
      subset_deviation: the (population) standard deviation over the subsets, which
        torch-fidelity prints behind the value. It depends on the size of the subsets,
        not on the number of features, and more subsets do not reduce it.
      standard_error: of the value, over other draws of as many features from the same
        two distributions. Subsets share features, so their deviation over the root of
        their number underestimates it. See `_standard_error`.
    """

    value: float
    subset_deviation: float
    standard_error: float


def distance(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """Returns the kernel distance as torch-fidelity and clean-fid compute it.

    Args:
      generated: features of generated images.
      real: features of real images.
      subsets: number of random subsets of both sets.
      subset_size: features in each, drawn without replacement; all, if there are fewer.
      seed: of the subsets, drawn with the generator and in the order of torch-fidelity,
        whose own seed is 2020.

    Raises:
      ValueError: for fewer than 2 features, different dimensions, no subsets or
        features that are not finite.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            "a kernel distance needs at least 1 subset of 2 features, "
            f"got {subsets} of {subset_size}"
        )
    generated, real = feature_sets.check_pair(generated, real, 2)
    n, m = len(generated), len(real)
    size = min(n, m, subset_size)
    if size == n == m:  # then all subsets are equal
        subsets = 1
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = generated[rng.choice(n, size, replace=False)]
        y = real[rng.choice(m, size, replace=False)]
        values.append(unbiased_estimate(x, y))
    deviation = float(np.std(values))
    sampling = _standard_error(generated, real, rng)
    error = float(np.hypot(sampling, deviation / np.sqrt(subsets)))
    return KernelDistance(float(np.mean(values)), deviation, error)


def unbiased_estimate(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> float:
    """Returns the unbiased estimate from all of two sets of at least 2 features."""
    within = _mean_to_others(x).mean() + _mean_to_others(y).mean()
    return float(within - 2 * _mean_to_all(x, y).mean())


def _standard_error(
    x: Float64[np.ndarray, "n d"],
    y: Float64[np.ndarray, "m d"],
    rng: np.random.RandomState,
) -> float:
    """Returns the standard error of the unbiased estimate.

    To first order the estimate is a mean over the features (Hoeffding 1948): each x
    contributes 2 (E k(x, x') - E k(x, y)), each y likewise. The variance of the
    estimate is the variance of the contributions over their number. It is too large, by
    a factor of up to sqrt(2), if the distributions are equal and the first order
    vanishes. For more than 10000 features a random subset estimates the variance.
    """
    a, b = (f[rng.permutation(len(f))[:_MAX_FEATURES]] for f in (x, y))
    variance = 0.0
    for one, other, number in ((a, b, len(x)), (b, a, len(y))):
        contributions = 2 * (_mean_to_others(one) - _mean_to_all(one, other))
        variance += float(contributions.var(ddof=1)) / number
    return float(np.sqrt(variance))


def _mean_to_others(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n"]:
    """Returns the mean of k(x, x') over all other x' of the set, for each x."""
    diagonal = (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    n = len(x)
    return (n * _mean_to_all(x, x) - diagonal) / (n - 1)


def _mean_to_all(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "n"]:
    """Returns the mean of k(x, y) over all y, for each x."""
    means = []
    for start in range(0, len(x), _ROWS):
        k = x[start : start + _ROWS] / x.shape[1] @ y.T
        k += 1
        means.append(
            np.einsum("nm,nm,nm->n", k, k, k) / len(y)
        )  # without a temporary array of that size
    return np.concatenate(means)
