"""All metrics of one feature network, with their names and what is known of errors."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from simple_diffusion.evaluation import (
    frechet,
    intervals,
    kernel_distance,
    manifold,
    names,
    scores,
)
from simple_diffusion.evaluation.bank import Bank
from simple_diffusion.evaluation.features import FeatureNetwork

_SPLITS = 10  # of the inception score


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
      seed: of subsets and intervals.
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
) -> Iterator[Metric]:
    """Yields the metrics that are wanted and that there is all for.

    Args:
      network: whose features they are.
      generated: what it says of samples, all of whose features are kept.
      real: of the reference; where no features are kept there are distances alone.
      labels: the classes that the samples should have.
      wanted: some of fd, sfid, fd_infinity, kd, score, precision_recall,
        density_coverage, accuracy.
      options: see there.
    """
    x, y = generated.features, real.features

    def named(
        kind: str, value: float, counts: tuple[int | None, int | None], **error: Any
    ) -> Metric:
        name = names.metric_name(kind, network.name, generated.total.n)
        return Metric(name, float(value), counts, **error)

    known = real.total.n if len(y) else None  # of published statistics it is not
    every, some = (generated.total.n, known), (len(x), len(y))
    inception = network.name == names.INCEPTION
    if "fd" in wanted:
        value = _distance(generated, real)
        error = None
        if min(every[0], real.total.n) > x.shape[1]:
            error = frechet.standard_error(x, y if _is_whole(real) else real.total)
        kind = "fid" if inception else "fd"
        yield named(kind, value, every, standard_error=error)
    if "sfid" in wanted and inception and generated.spatial and real.spatial:
        value = frechet.distance(generated.spatial, real.spatial)
        yield named("sfid", value, every)
    if "fd_infinity" in wanted and len(y):
        found = frechet.infinite(x, y, seed=options.seed)
        kind = "fid_infinity" if inception else "fd_infinity"
        yield named(kind, found.value, some, standard_error=found.standard_error)
    if "kd" in wanted and len(y):
        found = kernel_distance.distance(x, y)
        kind = "kid" if inception else "kd"
        yield named(kind, found.value, some, standard_error=found.standard_error)
    if "score" in wanted and generated.logits is not None:
        found = scores.inception_score(generated.logits, splits=_SPLITS)
        # Splits are disjoint, so that their spread tells that of their mean.
        error = found.deviation / math.sqrt(_SPLITS - 1)
        kind = "inception_score" if inception else "class_score"
        yield named(kind, found.value, (len(x), None), standard_error=error)
    if "accuracy" in wanted and generated.logits is not None and network.class_names:
        found = scores.accuracy(generated.logits, labels[: len(x)])
        counts = len(x), None
        yield named("accuracy", found.value, counts, interval=found.interval)
    asked = {"precision_recall", "density_coverage"}.intersection(wanted)
    if asked and len(y):
        k = options.neighbours, options.density_neighbours
        found = manifold.compare(x, y, neighbours=k[0], density_neighbours=k[1])
        kinds = [kind for pair in sorted(asked) for kind in pair.split("_")]
        for kind in kinds:
            values = getattr(found, kind)
            mean = float(values.mean())
            if kind == "density":  # a count, the others are shares
                interval = intervals.bootstrap(values, seed=options.seed)
            else:
                interval = intervals.wilson(int(values.sum()), len(values))
            yield named(kind, mean, some, interval=interval)


def _distance(generated: Bank, real: Bank) -> float:
    """Returns the Fréchet distance, by the way that suits the number of features."""
    x, y, d = generated.features, real.features, len(real.total.mean)
    whole = _is_whole(generated) and _is_whole(real)
    if whole and min(len(x), len(y)) <= d:
        return frechet.distance_of(x, y)
    return frechet.distance(generated.total, real.total)


def _is_whole(bank: Bank) -> bool:
    """Returns whether the features of all images are kept."""
    return len(bank.features) == bank.total.n
