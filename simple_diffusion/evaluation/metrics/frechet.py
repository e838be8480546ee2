"""The squared Fréchet distance between two sets of features, as if they were Gaussian.

    |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2),

called FID when the features are those of a certain Inception network (Heusel et al.
2017, eq. 6). With any factor F F^T = S_b the eigenvalues of S_a S_b are those of
F^T S_a F, which is symmetric: no complex numbers, and what rounding makes negative is
clipped at zero. With centred features X, S_a = X^T X / (n - 1), their roots are the
singular values of X Y^T / sqrt((n - 1)(m - 1)), which needs no covariance at all and is
cheaper and more exact for fewer features than dimensions.

The distance of a finite sample is biased upwards, to first order by c / n, and
`extrapolate` removes this bias. There is no bootstrap: a resampled set repeats
features, so it has the bias of a smaller set; disjoint subsets are biased more than the
full set and cost many times the work. `standard_error` uses the derivative instead.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, statistics
from simple_diffusion.evaluation.metrics.statistics import Statistics

_Distance = Callable[[Statistics], float]


class Extrapolation(NamedTuple):
    """A Fréchet distance, extrapolated to infinitely many features.

    Fields:
      value: intercept of the line through the distances over 1 / n. It may be slightly
        negative.
      standard_error: of the intercept, from the residuals of the fit. The subsets share
        features, and their common sampling error is not included: in simulations the
        estimate was half of the true error.
      sizes: of the subsets of generated features.
      distances: of these subsets.
    """

    value: float
    standard_error: float
    sizes: Int[np.ndarray, "p"]
    distances: Float64[np.ndarray, "p"]


def distance(a: Statistics, b: Statistics) -> float:
    """Returns the squared Fréchet distance between two Gaussians.

    Raises:
      ValueError: for statistics of different dimensions or that are not finite.

    Warns:
      UserWarning: if a covariance cannot have full rank because there are not more
        features than dimensions; the distance is then biased upwards.
    """
    feature_sets.check_dimensions(len(a.mean), len(b.mean))
    _check_finite(a, b)
    _warn_if_few(a.n, b.n, len(a.mean))
    return _distance_to(b)(a)


def distance_of_features(
    x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "m _"]
) -> float:
    """Returns the squared Fréchet distance between two sets of features.

    Equal to `distance` of their statistics. If a set has no more features than
    dimensions, the distance is computed from the features, without a covariance.

    Args:
      x: generated features, at least 2.
      y: real features, at least 2.

    Raises:
      ValueError: for fewer than 2 features, different dimensions, or features that are
        not finite.

    Warns:
      UserWarning: as `distance`.
    """
    x, y = feature_sets.check_pair(x, y, 2)
    if min(len(x), len(y)) > x.shape[1]:
        return distance(statistics.compute(x), statistics.compute(y))
    _warn_if_few(len(x), len(y), x.shape[1])
    means = x.mean(axis=0), y.mean(axis=0)
    scaled = [
        (f - mean) / np.sqrt(len(f) - 1) for f, mean in zip((x, y), means, strict=True)
    ]
    traces = sum(float(np.sum(f**2)) for f in scaled)
    small, large = map(_triangular_factor, scaled)
    roots = np.linalg.svd(small @ large.T, compute_uv=False)
    return float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * roots.sum())


def extrapolate(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"] | Statistics,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Extrapolation:
    """Returns the Fréchet distance extrapolated to infinitely many features.

    A line in 1 / n is fitted to the distances of random subsets of n features, with n
    equally spaced up to all of them (Chong, Forsyth 2020, section 4, as in dgm-eval).
    Real features are subsampled by the same fraction, so both numbers go to infinity.
    Real statistics stay as they are, with the bias of their own number of images.

    Args:
      generated: features of generated images.
      real: features, or statistics, of real images.
      points: number of subset sizes, at least 3; each costs one distance.
      smallest: smallest subset size; by default a fifth of all, but at least twice the
        dimensions, below which the bias is not linear in 1 / n.
      seed: of the subsets.

    Raises:
      ValueError: for a smallest size that is not above the dimensions and below the
        number of features, fewer than 3 points, different dimensions, or features or
        statistics that are not finite.
    """
    if points < 3:
        raise ValueError(f"an extrapolation needs at least 3 points, got {points}")
    rng = np.random.default_rng(seed)
    if isinstance(real, Statistics):
        x = _check_against(generated, real, 2)
        fewest, distance_to_real = len(x), _distance_to(real)

        def distance_to(share: float) -> _Distance:
            del share
            return distance_to_real
    else:
        x, y = feature_sets.check_pair(generated, real, 2)
        fewest = min(len(x), len(y))

        def distance_to(share: float) -> _Distance:
            return _distance_to(_subset_statistics(y, share, rng))

    n, d = x.shape
    first = max(n // 5, 2 * d * n // fewest) if smallest is None else smallest
    if first * fewest // n <= d or first >= n:
        raise ValueError(
            f"got {fewest} features of {d} dimensions, too few for subsets that start "
            f"at {first}: the smallest needs more than {d} and fewer than all; "
            "raise evaluate.count"
        )
    sizes = np.linspace(first, n, points).round().astype(np.int64)
    distances = [
        distance_to(size / n)(_subset_statistics(x, size / n, rng)) for size in sizes
    ]
    return _fit_line(sizes, np.array(distances))


def standard_error(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"] | Statistics,
) -> float:
    """Returns the standard error of the Fréchet distance of two sets of features.

    It estimates the spread of the distance over other draws of as many features from
    the same two distributions. It does not include the bias against infinitely many
    features: compare only distances of equal numbers of features.

    To first order the distance is a mean over features. With c the feature minus the
    mean m_a, and T the matrix that transports one Gaussian to the other
    (T S_a T = S_b), each feature contributes 2 (m_a - m_b).c + c.(I - T) c minus its
    mean. The variance of these contributions over n is the variance of the distance
    (the infinitesimal jackknife); likewise for the other set. The estimate is too
    large: by a third for twice as many features as dimensions, by half for equal
    distributions, where the first order vanishes.

    Args:
      generated: features of generated images.
      real: features of real images, or their statistics, which are then exact.

    Raises:
      ValueError: for no more features than dimensions, different dimensions, or
        features or statistics that are not finite.
    """
    needed = generated.shape[1] + 1
    if isinstance(real, Statistics):
        x = _check_against(generated, real, needed)
        return float(np.sqrt(_variance(x, statistics.compute(x), real)))
    x, y = feature_sets.check_pair(generated, real, needed)
    a, b = statistics.compute(x), statistics.compute(y)
    return float(np.sqrt(_variance(x, a, b) + _variance(y, b, a)))


def _check_finite(*parts: Statistics) -> None:
    for part in parts:
        if not (np.isfinite(part.mean).all() and np.isfinite(part.scatter).all()):
            raise ValueError(f"statistics of {part.n} features are not finite")


def _check_against(
    generated: Shaped[np.ndarray, "n d"], real: Statistics, needed: int
) -> Float64[np.ndarray, "n d"]:
    """Checks features against reference statistics and returns them in float64."""
    feature_sets.check_dimensions(generated.shape[1], len(real.mean))
    _check_finite(real)
    return feature_sets.check_features(generated, feature_sets.GENERATED, needed)


def _warn_if_few(generated: int, real: int, dimension: int) -> None:
    n = min(generated, real)
    if n <= dimension:
        side = "those that are evaluated" if n == generated else "evaluate.reference"
        warnings.warn(
            f"{n} features for {dimension} dimensions: the Fréchet distance is biased "
            f"upwards; more images are needed, of {side}",
            stacklevel=3,
        )


def _distance_to(b: Statistics) -> _Distance:
    """Returns a function that computes the distance to b; b is factored only once."""
    factor = _factor(b.covariance)

    def distance_from(a: Statistics) -> float:
        product = np.linalg.eigvalsh(factor.T @ a.covariance @ factor)
        trace_of_root = np.sqrt(np.maximum(product, 0)).sum()
        traces = np.trace(a.covariance) + np.trace(b.covariance)
        return float(np.sum((a.mean - b.mean) ** 2) + traces - 2 * trace_of_root)

    return distance_from


def _triangular_factor(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "_ d"]:
    """Returns R with R^T R = x^T x and at most as many rows as columns."""
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _subset_statistics(
    x: Float64[np.ndarray, "n d"], share: float, rng: np.random.Generator
) -> Statistics:
    return statistics.compute(x[rng.permutation(len(x))[: round(share * len(x))]])


def _factor(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """Returns F with F F^T the covariance, singular or not."""
    try:
        return np.linalg.cholesky(covariance)  # ten times faster than eigh
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0))


def _fit_line(
    sizes: Int[np.ndarray, "p"], distances: Float64[np.ndarray, "p"]
) -> Extrapolation:
    """Fits distance over 1 / size by least squares and returns the intercept."""
    u = 1 / sizes
    centred = u - u.mean()
    slope = centred @ distances / (centred @ centred)
    value = distances.mean() - slope * u.mean()
    residual = distances - value - slope * u
    variance = residual @ residual / (len(u) - 2)
    error = np.sqrt(variance * (1 / len(u) + u.mean() ** 2 / (centred @ centred)))
    return Extrapolation(float(value), float(error), sizes, distances)


def _variance(x: Float64[np.ndarray, "n d"], a: Statistics, b: Statistics) -> float:
    """Returns the variance of the distance that comes from sampling x, whose statistics
    are a."""
    values, vectors = np.linalg.eigh(a.covariance)
    # Features have no component along directions without variance.
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    factor = vectors * np.sqrt(values)
    squares, rotation = np.linalg.eigh(factor.T @ b.covariance @ factor)
    c = x - a.mean
    # c.T c, by T = F^-T (F^T S_b F)^(1/2) F^-1.
    white = c @ (vectors / np.sqrt(values)) @ rotation
    transported = white**2 @ np.sqrt(np.maximum(squares, 0))
    contributions = 2 * c @ (a.mean - b.mean) + np.sum(c**2, axis=1) - transported
    return float(contributions.var(ddof=1) / len(x))
