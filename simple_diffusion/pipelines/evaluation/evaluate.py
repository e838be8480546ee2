"""Complete evaluations of a model or of image files, including the record."""

from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import data, feature_networks
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines.evaluation import (
    class_grids,
    evaluation,
    image_files,
    memorisation,
    record,
)
from simple_diffusion.pipelines.evaluation.comparison import FOLDER, round_batch
from simple_diffusion.pipelines.evaluation.conditions import sample_metrics
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import sharding


def evaluate_model(
    config: Config, folder: epath.Path, trained: Trained, dataset: data.Data
) -> dict[str, Any]:
    """Evaluates samples of a model and the loss on held-out images.

    Args:
      config: the whole config.
      folder: the workdir: features, pictures and the record are written there.
      trained: the model.
      dataset: the data it was trained on.

    Returns:
      The record of `metrics.json`.

    Raises:
      ValueError: settings are invalid; raised before anything that takes long.
    """
    feature_networks.check_networks(config)
    plan = build_evaluation.read_plan(config)
    sampler = evaluation.build_sampler(config, trained)
    others = [
        evaluation.build_sampler(config, trained, size) for size in plan.also_sizes
    ]
    label = evaluation.read_label(plan.labels, trained.net, trained.classes)
    sizes = [each.size for each in (sampler, *others)]
    comparison = evaluation.open_comparison(
        config, folder, trained.mesh, dataset, sizes=sizes
    )
    console.print_line(f"evaluating step {trained.step} with {plan.count} samples")
    for size in sizes:  # first, to find the errors of all references
        comparison.reference(size, label)
    samples = evaluation.draw_samples(config, trained, comparison, sampler, plan.count)
    loss = evaluation.measure_held_out(
        config, trained, dataset, plan.count, plan.metrics
    )
    metrics = list(record.print_metrics(loss))
    features = evaluation.extract_features(comparison, samples)
    metrics += record.print_metrics(
        evaluation.measure(comparison, samples, features, plan.metrics)
    )
    for each in others:
        other = evaluation.draw_samples(config, trained, comparison, each, plan.count)
        h, w = each.size
        banks = evaluation.extract_features(comparison, other)
        for metric in evaluation.measure(comparison, other, banks, plan.metrics):
            renamed = metric._replace(name=f"{metric.name}@{h}x{w}")
            metrics += record.print_metrics([renamed])
        del banks  # the next size needs the memory
    output = folder / FOLDER
    memorisation.remove_picture(output)
    if "memorisation" in plan.metrics:
        metrics += record.print_metrics(
            memorisation.measure(comparison, samples.images, features, output)
        )
    if "conditions" in plan.metrics:
        metrics += record.print_metrics(
            sample_metrics.measure(config, trained, comparison, samples, output)
        )
    class_grids.write(output, samples.images, features.labels, plan.show_per_class)
    result = evaluation.describe(config, comparison, sampler, trained.step, metrics)
    record.append(folder, result)
    path = record.write_metrics(folder, result)
    comparison.remove_unused()
    console.print_line(f"metrics: {path}")
    return result


def evaluate_files(config: Config, folder: epath.Path, mesh: Mesh) -> dict[str, Any]:
    """Evaluates the images that `evaluate.samples` names.

    Args:
      config: the whole config.
      folder: features, pictures and the record are written there.
      mesh: the devices.

    Returns:
      The record of `comparison.json`.

    Raises:
      ValueError: images cannot be read or compared.
    """
    feature_networks.check_networks(config)
    plan, dataset = build_evaluation.read_plan(config), None
    needs_data = plan.reference.partition(":")[0] in ("data", "statistics")
    if needs_data or "source" in config.evaluate.networks:
        dataset = data.open_data(config, sharding.data_shard(mesh))
    images = image_files.open_files(
        plan.samples,
        "evaluate.samples",
        plan.size,
        round_batch(plan.batch_size, mesh),
        dataset.class_names if dataset else (),
    )
    comparison = evaluation.open_comparison(
        config, folder, mesh, dataset, sizes=[images.size]
    )
    console.print_line(f"evaluating {images.count} images of {plan.samples}")
    samples = evaluation.SampleSet(images, None)
    features = evaluation.extract_features(comparison, samples)
    metrics = list(
        record.print_metrics(
            evaluation.measure(comparison, samples, features, plan.metrics)
        )
    )
    output = folder / FOLDER / "comparison"  # apart from the pictures of a model
    memorisation.remove_picture(output)
    if "memorisation" in plan.metrics:
        metrics += record.print_metrics(
            memorisation.measure(comparison, images, features, output)
        )
    result = {
        **record.describe_metrics(metrics),
        **comparison.record(),
        **record.describe_provenance(config),
        "samples": plan.samples,
        "identity": images.identity,
    }
    path = folder / record.COMPARISON
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, result)
    comparison.remove_unused()
    console.print_line(f"metrics: {path}")
    return result
