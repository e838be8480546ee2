"""All metrics of one feature network, with their names and what is known of errors."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator
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
# Sizes of the sets that a distance is extrapolated from, and from how many dimensions
# on each of them takes seconds.
_POINTS, _FEW_POINTS, _WIDE = 15, 5, 512


class Metric(NamedTuple):
    """A metric with what its value rests on.

    Fields:
      name: with the network and the number of samples, see `names.metric_name`.
      value: of the metric.
      counts: generated and real images behind it; None for those that do not matter or
        are not known.
      interval: of 95 % confidence, where one is known.
      standard_error: likewise.
    """

    name: str
    value: float
    counts: tuple[int | None, int | None]
    interval: intervals.Interval | None = None
    standard_error: float | None = None


class Options(NamedTuple):
    """What metrics depend on besides features.

    Fields:
      seed: of resampling: intervals, and the extrapolated distance. Subsets of the
        kernel distance and splits of the Inception score are drawn as other
        implementations draw them.
      neighbours: k of precision and recall.
      density_neighbours: k of density and coverage.
    """

    seed: int = 0
    neighbours: int = 3
    density_neighbours: int = 5


def metrics(
    network: FeatureNetwork,
    generated: Bank,
    real: Bank,
    labels: Int[np.ndarray, "n"],
    wanted: tuple[str, ...],
    options: Options,
    note: Callable[[str], None],
) -> Iterator[Metric]:
    """Yields the metrics that are wanted and that there is all for.

    Args:
      network: whose features they are.
      generated: what it says of samples, all of whose features are kept.
      real: of the reference; where no features are kept there are distances alone.
      labels: the classes that the samples should have.
      wanted: some of `METRICS`.
      options: see there.
      note: is told which of them cannot be measured, or is biased, and why.
    """
    sides = _Sides(network, generated, real, labels, options)
    for name in wanted:
        if name not in METRICS:
            continue
        if name in _OF_IMAGES and not len(real.features):
            note(f"{name} of {network.name} needs images, not their statistics alone")
            continue
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                found = list(METRICS[name](sides))
            except ValueError as error:  # one metric must not cost the others
                found = []
                note(f"{name} of {network.name} is not measured: {error}")
        for warning in told:
            note(f"{name} of {network.name}: {warning.message}")
        yield from found


@dataclasses.dataclass(frozen=True)
class _Sides:
    """Both sides of a comparison."""

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
    def every(self) -> tuple[int, int | None]:
        """Numbers of images on both sides."""
        real = self.real
        return self.generated.total.n, real.total.n if real.counted else None

    @property
    def is_inception(self) -> bool:
        return self.network.name == metric_names.INCEPTION

    @functools.cached_property
    def manifold(self) -> manifold.Manifold:
        """All four kinds at once, since they share the distances."""
        k = self.options.neighbours, self.options.density_neighbours
        return manifold.compare(
            self.x, self.y, neighbours=k[0], density_neighbours=k[1]
        )

    def named(
        self,
        kind: str,
        value: float,
        counts: tuple[int | None, int | None] | None = None,
        **error: Any,
    ) -> Metric:
        """Returns a metric; by default its counts are those of features kept."""
        name = metric_names.metric_name(kind, self.network.name, self.generated.total.n)
        counts = counts or (len(self.x), len(self.y))
        return Metric(name, float(value), counts, **error)


def _fd(sides: _Sides) -> Iterator[Metric]:
    generated, real, x, y = sides.generated, sides.real, sides.x, sides.y
    error = None
    if min(generated.total.n, real.total.n) > x.shape[1]:
        error = frechet.standard_error(x, y if _is_whole(real) else real.total)
    kind = "fid" if sides.is_inception else "fd"
    value = _distance(generated, real)
    yield sides.named(kind, value, sides.every, standard_error=error)


def _sfid(sides: _Sides) -> Iterator[Metric]:
    ours, theirs = sides.generated.spatial, sides.real.spatial
    if not sides.is_inception or ours is None:
        return
    if theirs is None:
        raise ValueError("the reference has no statistics of spatial features")
    yield sides.named("sfid", frechet.distance(ours, theirs), sides.every)


def _fd_infinity(sides: _Sides) -> Iterator[Metric]:
    x, y, d = sides.x, sides.y, sides.x.shape[1]
    points = _POINTS if d < _WIDE else _FEW_POINTS
    found = frechet.infinite(x, y, points=points, seed=sides.options.seed)
    kind = "fid_infinity" if sides.is_inception else "fd_infinity"
    yield sides.named(kind, found.value, standard_error=found.standard_error)


def _kd(sides: _Sides) -> Iterator[Metric]:
    found = kernel_distance.distance(sides.x, sides.y)
    kind = "kid" if sides.is_inception else "kd"
    yield sides.named(kind, found.value, standard_error=found.standard_error)


def _score(sides: _Sides) -> Iterator[Metric]:
    if sides.generated.logits is None:
        return
    found = scores.inception_score(sides.generated.logits, splits=_SPLITS)
    # Splits are disjoint, so that their spread tells that of their mean.
    error = found.deviation / math.sqrt(_SPLITS - 1)
    kind = "inception_score" if sides.is_inception else "class_score"
    counts = len(sides.x), None
    yield sides.named(kind, found.value, counts, standard_error=error)


def _accuracy(sides: _Sides) -> Iterator[Metric]:
    if sides.generated.logits is None or not sides.network.class_names:
        return
    found = scores.accuracy(sides.generated.logits, sides.labels)
    counts = len(sides.x), None
    yield sides.named("accuracy", found.value, counts, interval=found.interval)


def _precision_recall(sides: _Sides) -> Iterator[Metric]:
    yield from _manifold(sides, ("precision", "recall"))


def _density_coverage(sides: _Sides) -> Iterator[Metric]:
    yield from _manifold(sides, ("density", "coverage"))


def _manifold(sides: _Sides, kinds: tuple[str, ...]) -> Iterator[Metric]:
    for kind in kinds:
        values = getattr(sides.manifold, kind)
        if kind == "density":  # a count, the others are shares
            interval = intervals.bootstrap(values, seed=sides.options.seed)
        else:
            interval = intervals.wilson(int(values.sum()), len(values))
        yield sides.named(kind, values.mean(), interval=interval)


# Those that want features of single real images.
_OF_IMAGES = ("fd_infinity", "kd", "precision_recall", "density_coverage")

METRICS: dict[str, Callable[[_Sides], Iterator[Metric]]] = {
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
    """Returns the Fréchet distance, by the way that suits the number of features."""
    x, y, d = generated.features, real.features, len(real.total.mean)
    whole = _is_whole(generated) and _is_whole(real)
    if whole and min(len(x), len(y)) <= d:
        return frechet.distance_of(x, y)
    return frechet.distance(generated.total, real.total)


def _is_whole(bank: Bank) -> bool:
    """Returns whether the features of all images are kept."""
    return bank.counted and len(bank.features) == bank.total.n
