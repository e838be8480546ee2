"""A model evaluated at many settings of guidance and steps."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from simple_diffusion.build import data
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.core import console
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation import feature_bank
from simple_diffusion.pipelines.evaluation import evaluation, record
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import cluster

Point = dict[str, Any]


def evaluate_points(
    config: Config,
    folder: epath.Path,
    trained: Trained,
    dataset: data.Data,
    plan: tuple[int, list[Point]],
    known: dict[str, Point],
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Yields each point with its metrics, and the record of how it was evaluated.

    Every point uses the same noise and classes.

    Args:
      config: the whole config.
      folder: the workdir, where features are kept.
      trained: the model.
      dataset: the data it was trained on.
      plan: how many samples, and the keys of `sample` at each point.
      known: points of earlier sweeps, by their mark; those evaluated here are added.

    Raises:
      ValueError: for a point that cannot be drawn, before the first is.
    """
    count, settings = plan
    wanted = build_evaluation.plan_of_model(config, "a sweep").metrics
    metrics = tuple(m for m in wanted if m != "memorisation")
    comparison = evaluation.open_comparison(config, folder, trained.mesh, dataset)
    # Found out before an hour of drawing: whatever cannot be drawn.
    samplers = [
        evaluation.sampler_of(_with_point(config, point), trained) for point in settings
    ]
    for k, (point, sampler) in enumerate(zip(settings, samplers, strict=True), 1):
        here = _with_point(config, point)
        samples = evaluation.samples(here, trained, comparison, sampler, count)
        # How it is drawn, how it is compared, and what is asked of it.
        compares = comparison.settings(samples.images.size, samples.label)
        mark = feature_bank.digest(
            samples.images.identity | compares | {"metrics": metrics}
        )
        line = ", ".join(f"{key}={value}" for key, value in point.items())
        line = f"point {k}/{len(settings)}: {line}"
        if cluster.all_true(mark in known):  # or one would draw alone
            console.print_line(f"{line}: known")
        else:
            console.print_line(line)
            features = evaluation.extract_features(comparison, samples, store=False)
            found = evaluation.measure(comparison, samples, features, metrics)
            known[mark] = {
                "network_calls": sampler.network_calls,
                "mark": mark,
                **record.metric_fields(record.print_metrics(found)),
            }
        about = {
            "count": count,
            **record.sampling_settings(here, sampler, trained.step),
            **comparison.record(),
            **record.provenance(config),
        }
        # Settings that make no difference, such as guidance without classes, share one.
        yield {**known[mark], **point}, about


def _with_point(config: Config, point: Point) -> Config:
    """Returns the config with the keys of a point in `sample`."""
    here = config.copy_and_resolve_references()
    for key, value in point.items():
        here.sample[key] = value
    return here
