"""All metrics of one feature network, with their names and errors."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from simple_diffusion.evaluation import metric_names
from simple_diffusion.evaluation.feature_bank import Bank
from simple_diffusion.evaluation.metrics import (
    frechet,
    intervals,
    kernel_distance,
    manifold,
    scores,
)
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork

_SPLITS = 10  # of the inception score
# Number of subset sizes that a distance is extrapolated from; fewer for features with
# many dimensions, where each distance takes seconds.
_POINTS, _FEW_POINTS, _MANY_DIMENSIONS = 15, 5, 512


class Metric(NamedTuple):
    """A metric with its numbers of images and its error.

    Fields:
      name: with the network and the number of samples, see `metric_names.metric_name`.
      value: of the metric.
      counts: numbers of generated and real images; None if irrelevant or unknown.
      interval: 95 % confidence interval, if known.
      standard_error: of the value, if known.
      baselines: values that it is to be compared with, by what they are of: a baseline
        without a model, or real images, which are the best that can be expected.
    """

    name: str
    value: float
    counts: tuple[int | None, int | None]
    interval: intervals.Interval | None = None
    standard_error: float | None = None
    baselines: Mapping[str, float] = MappingProxyType({})


class Options(NamedTuple):
    """Options of the metrics.

    Fields:
      seed: of resampling, for intervals and the extrapolated distance. Subsets of the
        kernel distance and splits of the Inception score follow other implementations.
      neighbours: k of precision and recall.
      density_neighbours: k of density and coverage.
    """

    seed: int = 0
    neighbours: int = 3
    density_neighbours: int = 5


def compute_metrics(
    network: FeatureNetwork,
    generated: Bank,
    real: Bank,
    labels: Int[np.ndarray, "n"],
    names: tuple[str, ...],
    options: Options,
    note: Callable[[str], None],
) -> Iterator[Metric]:
    """Yields the requested metrics, as far as the features allow.

    Args:
      network: the feature network.
      generated: bank of the samples, with the features of all of them.
      real: bank of the reference; without features there are only distances.
      labels: the classes that the samples were generated for.
      names: some of `METRICS`.
      options: see `Options`.
      note: called with a line for each metric that cannot be computed or is biased.
    """
    comparison = _Comparison(network, generated, real, labels, options)
    for name in names:
        if name not in METRICS:
            continue
        if name in _NEED_REAL_FEATURES and not len(real.features):
            note(f"{name} of {network.name} needs images, not only their statistics")
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = list(METRICS[name](comparison))
            except ValueError as error:  # one failure must not lose the other metrics
                found = []
                note(f"{name} of {network.name} is not computed: {error}")
        for warning in caught:
            note(f"{name} of {network.name}: {warning.message}")
        yield from found


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """The two sets of images that are compared."""

    network: FeatureNetwork
    generated: Bank
    real: Bank
    labels: Int[np.ndarray, "n"]
    options: Options

    @property
    def x(self) -> np.ndarray:
        return self.generated.features

    @property
    def y(self) -> np.ndarray:
        return self.real.features

    @property
    def counts(self) -> tuple[int, int | None]:
        """Numbers of generated and real images in the statistics."""
        real = self.real
        return self.generated.total.n, real.total.n if real.has_count else None

    @property
    def is_inception(self) -> bool:
        return self.network.name == metric_names.INCEPTION

    @functools.cached_property
    def manifold(self) -> manifold.Manifold:
        """All four metrics at once, since they share the distances."""
        k = self.options.neighbours, self.options.density_neighbours
        return manifold.compare(
            self.x, self.y, neighbours=k[0], density_neighbours=k[1]
        )

    def metric(
        self,
        kind: str,
        value: float,
        counts: tuple[int | None, int | None] | None = None,
        **error: Any,
    ) -> Metric:
        """Returns a named metric; counts default to the numbers of kept features."""
        name = metric_names.metric_name(kind, self.network.name, self.generated.total.n)
        counts = counts or (len(self.x), len(self.y))
        return Metric(name, float(value), counts, **error)


def _fd(comparison: _Comparison) -> Iterator[Metric]:
    generated, real, x, y = (
        comparison.generated,
        comparison.real,
        comparison.x,
        comparison.y,
    )
    error = None
    if min(generated.total.n, real.total.n) > x.shape[1]:
        error = frechet.standard_error(x, y if _has_all_features(real) else real.total)
    kind = "fid" if comparison.is_inception else "fd"
    value = _distance(generated, real)
    yield comparison.metric(kind, value, comparison.counts, standard_error=error)


def _sfid(comparison: _Comparison) -> Iterator[Metric]:
    ours, theirs = comparison.generated.spatial, comparison.real.spatial
    if not comparison.is_inception or ours is None:
        return
    if theirs is None:
        raise ValueError("the reference has no statistics of spatial features")
    yield comparison.metric("sfid", frechet.distance(ours, theirs), comparison.counts)


def _fd_infinity(comparison: _Comparison) -> Iterator[Metric]:
    x, y, d = comparison.x, comparison.y, comparison.x.shape[1]
    points = _POINTS if d < _MANY_DIMENSIONS else _FEW_POINTS
    found = frechet.extrapolate(x, y, points=points, seed=comparison.options.seed)
    kind = "fid_infinity" if comparison.is_inception else "fd_infinity"
    yield comparison.metric(kind, found.value, standard_error=found.standard_error)


def _kd(comparison: _Comparison) -> Iterator[Metric]:
    found = kernel_distance.distance(comparison.x, comparison.y)
    kind = "kid" if comparison.is_inception else "kd"
    yield comparison.metric(kind, found.value, standard_error=found.standard_error)


def _score(comparison: _Comparison) -> Iterator[Metric]:
    if comparison.generated.logits is None:
        return
    found = scores.inception_score(comparison.generated.logits, splits=_SPLITS)
    # Splits are disjoint, so their spread gives the error of their mean.
    error = found.deviation / math.sqrt(_SPLITS - 1)
    kind = "inception_score" if comparison.is_inception else "class_score"
    counts = len(comparison.x), None
    yield comparison.metric(kind, found.value, counts, standard_error=error)


def _accuracy(comparison: _Comparison) -> Iterator[Metric]:
    if comparison.generated.logits is None or not comparison.network.class_names:
        return
    found = scores.accuracy(comparison.generated.logits, comparison.labels)
    counts = len(comparison.x), None
    yield comparison.metric("accuracy", found.value, counts, interval=found.interval)


def _precision_recall(comparison: _Comparison) -> Iterator[Metric]:
    yield from _manifold(comparison, ("precision", "recall"))


def _density_coverage(comparison: _Comparison) -> Iterator[Metric]:
    yield from _manifold(comparison, ("density", "coverage"))


def _manifold(comparison: _Comparison, kinds: tuple[str, ...]) -> Iterator[Metric]:
    for kind in kinds:
        values = getattr(comparison.manifold, kind)
        if kind == "density":  # a count; the others are fractions
            interval = intervals.bootstrap(values, seed=comparison.options.seed)
        else:
            interval = intervals.wilson(int(values.sum()), len(values))
        yield comparison.metric(kind, values.mean(), interval=interval)


# Those that need features of single real images.
_NEED_REAL_FEATURES = ("fd_infinity", "kd", "precision_recall", "density_coverage")

METRICS: dict[str, Callable[[_Comparison], Iterator[Metric]]] = {
    "fd": _fd,
    "sfid": _sfid,
    "fd_infinity": _fd_infinity,
    "kd": _kd,
    "score": _score,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "accuracy": _accuracy,
}


def _distance(generated: Bank, real: Bank) -> float:
    """Returns the Fréchet distance; few features are compared without covariances."""
    x, y, d = generated.features, real.features, len(real.total.mean)
    is_complete = _has_all_features(generated) and _has_all_features(real)
    if is_complete and min(len(x), len(y)) <= d:
        return frechet.distance_of_features(x, y)
    return frechet.distance(generated.total, real.total)


def _has_all_features(bank: Bank) -> bool:
    """Returns whether the bank holds the features of all its images."""
    return bank.has_count and len(bank.features) == bank.total.n
