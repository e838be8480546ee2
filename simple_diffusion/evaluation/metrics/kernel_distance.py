"""The kernel distance between two sets of features, KID when they are Inception's.

The squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3, by its unbiased
estimate (Bińkowski et al. 2018, section 4): of two samples of one distribution it is 0
in the mean, whatever their number, and hence negative about half of the time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from simple_diffusion.evaluation.metrics import feature_sets

# Features of either set behind the standard error, for the time's sake, and rows of the
# kernel at a time.
_MOST, _ROWS = 10_000, 512


class KernelDistance(NamedTuple):
    """A kernel distance, and two kinds of spread that must not be confused.

    Fields:
      value: the mean over the subsets.
      subset_deviation: the (population) standard deviation over the subsets: how far
        the distance of one subset lies from the mean, which is what torch-fidelity
        prints behind it. It depends on the size of the subsets, not on the number of
        features, and no number of subsets makes it smaller.
      standard_error: of the value: how far that of other features, as many and of the
        same two distributions, would lie. Subsets share their features, and their
        deviation over the root of their number cannot say this. See `_standard_error`.
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
      subsets: how many random subsets of both sets.
      subset_size: features in each, drawn without replacement; all, if there are fewer.
      seed: of the subsets, drawn with the generator and in the order of torch-fidelity,
        whose own seed is 2020.

    Raises:
      ValueError: for fewer than 2 features, different dimensions, no subsets or
        features that are not finite.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            "a kernel distance wants at least 1 subset of 2 features, "
            f"got {subsets} of {subset_size}"
        )
    generated, real = feature_sets.pair(generated, real, 2)
    n, m = len(generated), len(real)
    size = min(n, m, subset_size)
    if size == n == m:  # then all subsets are one
        subsets = 1
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = generated[rng.choice(n, size, replace=False)]
        y = real[rng.choice(m, size, replace=False)]
        values.append(unbiased(x, y))
    deviation = float(np.std(values))
    drawn = _standard_error(generated, real, rng)
    error = float(np.hypot(drawn, deviation / np.sqrt(subsets)))
    return KernelDistance(float(np.mean(values)), deviation, error)


def unbiased(x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]) -> float:
    """Returns the unbiased estimate from all of two sets of at least 2 features."""
    within = _to_others(x).mean() + _to_others(y).mean()
    return float(within - 2 * _to_all(x, y).mean())


def _standard_error(
    x: Float64[np.ndarray, "n d"],
    y: Float64[np.ndarray, "m d"],
    rng: np.random.RandomState,
) -> float:
    """Returns the standard error of the unbiased estimate.

    To first order the estimate is a mean over the features (Hoeffding 1948): each x
    adds 2 (E k(x, x') - E k(x, y)), each y likewise, and the variance of the estimate
    is that of these over their number. It is too large, by a factor of up to sqrt(2),
    where the distributions are equal and the first order vanishes. Of more than 10000
    features a random part says what each adds.
    """
    a, b = (f[rng.permutation(len(f))[:_MOST]] for f in (x, y))
    variance = 0.0
    for mine, other, number in ((a, b, len(x)), (b, a, len(y))):
        adds = 2 * (_to_others(mine) - _to_all(mine, other))
        variance += float(adds.var(ddof=1)) / number
    return float(np.sqrt(variance))


def _to_others(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n"]:
    """Returns the mean of k(x, x') over all other x' of the set, for each x."""
    own = (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    n = len(x)
    return (n * _to_all(x, x) - own) / (n - 1)


def _to_all(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "n"]:
    """Returns the mean of k(x, y) over all y, for each x."""
    means = []
    for start in range(0, len(x), _ROWS):
        k = x[start : start + _ROWS] / x.shape[1] @ y.T
        k += 1
        means.append(np.einsum("nm,nm,nm->n", k, k, k) / len(y))  # nothing as large
    return np.concatenate(means)
