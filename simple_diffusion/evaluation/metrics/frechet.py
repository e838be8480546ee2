"""The squared Fréchet distance between two sets of features, as if they were Gaussian.

    |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2),

called FID when the features are those of a certain Inception network (Heusel et al.
2017, eq. 6). With any factor F F^T = S_b the eigenvalues of S_a S_b are those of
F^T S_a F, which is symmetric: no complex numbers, and what rounding makes negative is
clipped at zero. With centred features X, S_a = X^T X / (n - 1), their roots are the
singular values of X Y^T / sqrt((n - 1)(m - 1)), which needs no covariance at all and is
cheaper and more exact for fewer features than dimensions.

The distance of a finite sample is too large, in the first place by c / n. `infinite`
extrapolates that away. There is no bootstrap here: a resampled set repeats features, as
a smaller one would, and lies further off than any real draw; disjoint parts are biased
more than the whole and need many times the work. `standard_error` comes from the
derivative of the distance instead.
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
    """A Fréchet distance of infinitely many features.

    Fields:
      value: where the line through the distances against 1 / n meets 0. It may be
        slightly negative.
      standard_error: of that point of the line, from how far the distances lie off it.
        The subsets share their features, and what these have in common by the draw is
        not in it: in simulations it was half of the true one.
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
    feature_sets.same_dimension(len(a.mean), len(b.mean))
    _finite(a, b)
    _warn(a.n, b.n, len(a.mean))
    return _to(b)(a)


def distance_of(x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "m _"]) -> float:
    """Returns the squared Fréchet distance between two sets of features.

    The same as `distance` of their statistics. Where one has no more features than
    dimensions it is found from the features themselves, without a covariance.

    Args:
      x: generated features, at least 2.
      y: real features, at least 2.

    Raises:
      ValueError: for fewer than 2 features, different dimensions, or features that are
        not finite.

    Warns:
      UserWarning: as `distance`.
    """
    x, y = feature_sets.pair(x, y, 2)
    if min(len(x), len(y)) > x.shape[1]:
        return distance(statistics.of(x), statistics.of(y))
    _warn(len(x), len(y), x.shape[1])
    means = x.mean(axis=0), y.mean(axis=0)
    scaled = [
        (f - mean) / np.sqrt(len(f) - 1) for f, mean in zip((x, y), means, strict=True)
    ]
    traces = sum(float(np.sum(f**2)) for f in scaled)
    small, large = map(_short, scaled)
    roots = np.linalg.svd(small @ large.T, compute_uv=False)
    return float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * roots.sum())


def infinite(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"] | Statistics,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Extrapolation:
    """Returns the Fréchet distance extrapolated to infinitely many features.

    A line in 1 / n is fitted to the distances of random subsets of n features, n at
    equal steps up to all (Chong, Forsyth 2020, section 4, as in dgm-eval). Of real
    features subsets of the same share are taken, and both numbers go to infinity; the
    statistics of a reference stay what they are, with the bias of their own number.

    Args:
      generated: features of generated images.
      real: features, or statistics, of real images.
      points: sizes on the line, at least 3. The time is that of so many distances.
      smallest: size; by default a fifth of all, but more than twice the dimensions,
        below which the bias is no line in 1 / n.
      seed: of the subsets.

    Raises:
      ValueError: for a smallest size that is not above the dimensions and below the
        number of features, fewer than 3 points, different dimensions, or features or
        statistics that are not finite.
    """
    if points < 3:
        raise ValueError(f"an extrapolation wants at least 3 points, got {points}")
    rng = np.random.default_rng(seed)
    if isinstance(real, Statistics):
        x = _beside(generated, real, 2)
        fewest, fixed = len(x), _to(real)

        def to(share: float) -> _Distance:
            del share
            return fixed
    else:
        x, y = feature_sets.pair(generated, real, 2)
        fewest = min(len(x), len(y))

        def to(share: float) -> _Distance:
            return _to(_drawn(y, share, rng))

    n, d = x.shape
    first = max(n // 5, 2 * d * n // fewest) if smallest is None else smallest
    if first * fewest // n <= d or first >= n:
        raise ValueError(
            f"got {fewest} features of {d} dimensions, too few for subsets that start "
            f"at {first}: wanted more than {d} in the least and fewer than all; "
            "raise evaluate.count"
        )
    sizes = np.linspace(first, n, points).round().astype(np.int64)
    distances = [to(size / n)(_drawn(x, size / n, rng)) for size in sizes]
    return _extrapolated(sizes, np.array(distances))


def standard_error(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"] | Statistics,
) -> float:
    """Returns the standard error of the Fréchet distance of two sets of features.

    It says how far the distance of other features, as many and of the same two
    distributions, would lie from this one. It does not say how far both lie above that
    of infinitely many: comparisons hold between distances of the same numbers only.

    The distance is to first order a mean over features, of what each adds to it: with c
    the feature less the mean m_a, and T the matrix that transports the one Gaussian to
    the other (T S_a T = S_b), 2 (m_a - m_b).c + c.(I - T) c less its mean. Its variance
    over n is the variance of the distance (the infinitesimal jackknife); so for both
    sets. It errs upwards: by a third for twice as many features as dimensions, by half
    for equal distributions, where the first order vanishes.

    Args:
      generated: features of generated images.
      real: features of real images, or their statistics, which are then exact.

    Raises:
      ValueError: for no more features than dimensions, different dimensions, or
        features or statistics that are not finite.
    """
    needed = generated.shape[1] + 1
    if isinstance(real, Statistics):
        x = _beside(generated, real, needed)
        return float(np.sqrt(_variance(x, statistics.of(x), real)))
    x, y = feature_sets.pair(generated, real, needed)
    a, b = statistics.of(x), statistics.of(y)
    return float(np.sqrt(_variance(x, a, b) + _variance(y, b, a)))


def _finite(*parts: Statistics) -> None:
    for part in parts:
        if not (np.isfinite(part.mean).all() and np.isfinite(part.scatter).all()):
            raise ValueError(f"statistics of {part.n} features are not finite")


def _beside(
    generated: Shaped[np.ndarray, "n d"], real: Statistics, needed: int
) -> Float64[np.ndarray, "n d"]:
    """Returns features in float64, once they are fit to be held against a reference."""
    feature_sets.same_dimension(generated.shape[1], len(real.mean))
    _finite(real)
    return feature_sets.checked(generated, feature_sets.GENERATED, needed)


def _warn(generated: int, real: int, dimension: int) -> None:
    n = min(generated, real)
    if n <= dimension:
        few = "those that are evaluated" if n == generated else "evaluate.reference"
        warnings.warn(
            f"{n} features for {dimension} dimensions: the Fréchet distance is biased "
            f"upwards; more images are needed, of {few}",
            stacklevel=3,
        )


def _to(b: Statistics) -> _Distance:
    """Returns the distance to b as a function; what needs only b is done once."""
    factor = _factor(b.covariance)

    def distance_from(a: Statistics) -> float:
        product = np.linalg.eigvalsh(factor.T @ a.covariance @ factor)
        trace_of_root = np.sqrt(np.maximum(product, 0)).sum()
        traces = np.trace(a.covariance) + np.trace(b.covariance)
        return float(np.sum((a.mean - b.mean) ** 2) + traces - 2 * trace_of_root)

    return distance_from


def _short(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "_ d"]:
    """Returns R with R^T R = x^T x and no more rows than columns."""
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _drawn(
    x: Float64[np.ndarray, "n d"], share: float, rng: np.random.Generator
) -> Statistics:
    return statistics.of(x[rng.permutation(len(x))[: round(share * len(x))]])


def _factor(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """Returns F with F F^T the covariance, singular or not."""
    try:
        return np.linalg.cholesky(covariance)  # a tenth of the time
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0))


def _extrapolated(
    sizes: Int[np.ndarray, "p"], distances: Float64[np.ndarray, "p"]
) -> Extrapolation:
    """Returns where the line of least squares through (1 / size, distance) meets 0."""
    u = 1 / sizes
    off = u - u.mean()
    slope = off @ distances / (off @ off)
    value = distances.mean() - slope * u.mean()
    residual = distances - value - slope * u
    variance = residual @ residual / (len(u) - 2)
    error = np.sqrt(variance * (1 / len(u) + u.mean() ** 2 / (off @ off)))
    return Extrapolation(float(value), float(error), sizes, distances)


def _variance(x: Float64[np.ndarray, "n d"], a: Statistics, b: Statistics) -> float:
    """Returns the variance of the distance that comes from the draw of x, of a."""
    values, vectors = np.linalg.eigh(a.covariance)
    # No feature has a part along directions without variance.
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    factor = vectors * np.sqrt(values)
    squares, turn = np.linalg.eigh(factor.T @ b.covariance @ factor)
    c = x - a.mean
    # c.T c, by T = F^-T (F^T S_b F)^(1/2) F^-1.
    white = c @ (vectors / np.sqrt(values)) @ turn
    transported = white**2 @ np.sqrt(np.maximum(squares, 0))
    adds = 2 * c @ (a.mean - b.mean) + np.sum(c**2, axis=1) - transported
    return float(adds.var(ddof=1) / len(x))
