"""A model evaluated at many settings of guidance and steps."""

import itertools
from collections.abc import Iterator
from typing import Any

from etils import epath

from simple_diffusion.build import data
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.core import console
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation import feature_bank
from simple_diffusion.pipelines.evaluation import evaluation, record
from simple_diffusion.pipelines.evaluation.comparison import FOLDER
from simple_diffusion.pipelines.evaluation.conditions import sample_metrics
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
      folder: the workdir, where features are stored.
      trained: the model.
      dataset: the training data.
      plan: number of samples, and the keys of `sample` at each point.
      known: points of earlier sweeps, by their mark; new points are added.

    Raises:
      ValueError: the settings of a point are invalid; raised before the first point is
        sampled.
    """
    count, settings = plan
    names = build_evaluation.read_model_plan(config, "a sweep").metrics
    names = tuple(name for name in names if name != "memorisation")
    # Build all samplers first, to find invalid settings: sampling may take an hour.
    samplers = [
        evaluation.build_sampler(_with_point(config, point), trained)
        for point in settings
    ]
    comparison = evaluation.open_comparison(
        config, folder, trained.mesh, dataset, sizes=[each.size for each in samplers]
    )
    for k, (point, sampler) in enumerate(zip(settings, samplers, strict=True), 1):
        point_config = _with_point(config, point)
        samples = evaluation.draw_samples(
            point_config, trained, comparison, sampler, count
        )
        # The mark covers the samples, the comparison and the metrics.
        comparison_settings = comparison.settings(samples.images.size, samples.label)
        mark = feature_bank.digest(
            samples.images.identity | comparison_settings | {"metrics": names}
        )
        line = ", ".join(f"{key}={value}" for key, value in point.items())
        line = f"point {k}/{len(settings)}: {line}"
        if cluster.all_true(mark in known):  # all processes must do the same
            console.print_line(f"{line}: known")
        else:
            console.print_line(line)
            features = evaluation.extract_features(comparison, samples, store=False)
            metrics = evaluation.measure(comparison, samples, features, names)
            if "conditions" in names:
                output = folder / FOLDER
                shown = sample_metrics.measure(
                    config, trained, comparison, samples, output
                )
                metrics = itertools.chain(metrics, shown)
            known[mark] = {
                "network_calls": sampler.network_calls,
                "mark": mark,
                **record.describe_metrics(record.print_metrics(metrics)),
            }
        about = {
            "count": count,
            **record.describe_sampling(point_config, sampler, trained.step),
            **comparison.record(),
            **record.describe_provenance(config),
        }
        # Points whose settings have no effect, such as guidance without classes, share
        # one result.
        yield {**known[mark], **point}, about


def _with_point(config: Config, point: Point) -> Config:
    """Returns the config with the keys of a point in `sample`."""
    changed = config.copy_and_resolve_references()
    for key, value in point.items():
        changed.sample[key] = value
    return changed
