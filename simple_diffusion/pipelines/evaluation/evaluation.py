"""The steps of an evaluation: samples, their features, metrics, the record."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import data, evaluation, feature_networks, network, sampling
from simple_diffusion.core import console, files, memory
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Request
from simple_diffusion.data import feed
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import programs, runs
from simple_diffusion.pipelines.evaluation import (
    image_sets,
    record,
    references,
)
from simple_diffusion.pipelines.evaluation.comparison import (
    FOLDER,
    Comparison,
    round_batch,
)
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet
from simple_diffusion.pipelines.requests.held_out import HeldOut, read_held_out
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding, store


def open_comparison(
    config: Config,
    folder: epath.Path,
    mesh: Mesh,
    dataset: data.Data | None,
    plan: evaluation.Plan | None = None,
    *,
    sizes: Sequence[image_sets.Size] = (),
) -> Comparison:
    """Returns the comparison of a config, with its networks loaded.

    Checks the reference first: a network may be a classifier that is trained now.

    Args:
      config: the whole config.
      folder: the workdir.
      mesh: the devices.
      dataset: the data source, if there is one.
      plan: by default the plan of the config.
      sizes: of the samples that will be compared, as far as they are known.

    Raises:
      ValueError: networks or the reference cannot be used.
    """
    plan, output = plan or evaluation.read_plan(config), folder / FOLDER
    for size in sizes or (None,):
        references.check(plan, config.evaluate.networks, dataset, size)
    record.find_commit()
    networks = feature_networks.load_networks(
        config, output, console.print_line, dataset
    )
    return Comparison(plan, networks, dataset, mesh, output)


class SampleSet(NamedTuple):
    """Images to evaluate.

    images: the images.
    label: their class; None if they have several classes.
    held_out: what samples of a model with conditions were asked for; None for others.
    """

    images: ImageSet
    label: int | None
    held_out: HeldOut | None = None


def build_sampler(
    config: Config, trained: Trained, size: str | None = None
) -> sampling.Sampling:
    """Returns the sampler of a model, at `sample.size` or another size."""
    return sampling.build_sampling(
        config,
        trained.net,
        trained.weak,
        size=size,
        size_key="evaluate.also_sizes",
        mesh=trained.mesh,
        codec=trained.codec,
    )


def draw_samples(
    config: Config,
    trained: Trained,
    comparison: Comparison,
    sampler: sampling.Sampling,
    count: int,
    drawer: programs.Drawer | None = None,
) -> SampleSet:
    """Returns the samples of a model, of the classes that `evaluate.labels` asks for.

    Args:
      config: the whole config.
      trained: the model.
      comparison: its reference provides the labels of `as_data`.
      sampler: the sampler.
      count: number of samples.
      drawer: the compiled sampler, if there is one already.

    Raises:
      ValueError: a class does not exist.
    """
    size, names = sampler.size, trained.classes
    label = read_label(comparison.plan.labels, trained.net, names)
    held_out = None
    if trained.net.conditions:
        batch_size = round_batch(comparison.plan.batch_size, trained.mesh)
        held_out = read_held_out(config, comparison.dataset, batch_size, size, count)
        request = held_out.request
    else:
        request = _request(comparison, trained, size, count, label)
    if drawer is None:
        drawer = programs.make_drawer(sampler, trained.mesh, config.sample.batch_size)
    identity = record.describe_sampling(config, sampler, trained.step)
    # Samples also depend on settings that the parameters do not show, such as the
    # schedule, and on the code.
    full_config = json.loads(config.to_json_best_effort())
    identity |= {name: full_config[name] for name in ("data", "model", "diffusion")}
    identity |= {
        "params": store.digest(trained.weights.network),
        "code": record.hash_code(),
    }
    if trained.weights.weak is not None:
        weak = runs.load_config(files.resolve_folder(config.sample.guidance_workdir))
        identity["weak"] = json.loads(weak.to_json_best_effort())
        identity["weak_params"] = store.digest(trained.weights.weak)
    images = image_sets.from_model(
        drawer, trained.weights, request, size, names, identity
    )
    return SampleSet(images, label, held_out)


def _request(
    comparison: Comparison,
    trained: Trained,
    size: image_sets.Size,
    count: int,
    label: int | None,
) -> Request:
    """Returns the classes of the samples of a model without other conditions."""
    if label is not None:
        return Request(np.full(count, label, np.int32))
    if comparison.plan.labels == "as_data":
        reference_labels = comparison.reference(size).banks.labels
        if not len(reference_labels):
            raise ValueError("evaluate.labels=as_data: the reference has no images")
        return Request(np.resize(reference_labels, count))
    classes = list(range(max(1, trained.net.num_classes)))
    return Request(generate.balanced_labels(classes, count))


def read_label(choice: str, net: network.Network, names: tuple[str, ...]) -> int | None:
    """Returns the class of all samples; None if they have several classes.

    Args:
      choice: `evaluate.labels`.
      net: the model.
      names: of its classes.

    Raises:
      ValueError: the class does not exist.
    """
    key = "evaluate.labels"
    if choice == "as_data" and not net.num_classes:
        raise ValueError(f"{key}=as_data needs a model with classes")
    if choice in evaluation.LABELS:
        return None
    chosen = sampling.parse_classes(choice, names, net.num_classes, key)
    if len(chosen) != 1:
        raise ValueError(f"{key}={choice} must be balanced, as_data or one class")
    return chosen[0]


def extract_features(
    comparison: Comparison, drawn: SampleSet, store: bool = True
) -> Banks:
    """Returns the features of images.

    Args:
      comparison: has the networks and the reference.
      drawn: the images.
      store: store the features in a file, see `Comparison.features_of`.
    """
    images = drawn.images
    # Open the reference first, to find its errors: sampling may take an hour.
    comparison.reference(images.size, drawn.label)
    return comparison.features_of(
        images, images.count, store, label="sampling and extracting features"
    )


def measure(
    comparison: Comparison, drawn: SampleSet, generated: Banks, names: tuple[str, ...]
) -> Iterator[Metric]:
    """Yields metrics of images.

    Args:
      comparison: has the reference.
      drawn: the images.
      generated: their features, by `extract_features`.
      names: of the metrics, as in `evaluate.metrics`.
    """
    images = drawn.images
    reference = comparison.reference(images.size, drawn.label)
    if reference.banks.n < 2 and reference.about["n"] is not None:
        comparison.note(f"a reference of {reference.banks.n} images is too small")
        return
    if not images.classes and "accuracy" in names:
        names = tuple(name for name in names if name != "accuracy")
        comparison.note("accuracy is not measured: the samples have no classes")
    yield from comparison.metrics(generated, images.size, names, drawn.label)


def measure_held_out(
    config: Config,
    trained: Trained,
    dataset: data.Data,
    count: int,
    names: Collection[str],
) -> Iterator[Metric]:
    """Yields the loss on held-out images, also per bin of logsnr.

    With "bits" among the names, also the bound in bits per dimension.
    """
    mesh = trained.mesh
    batch_size = round_batch(evaluation.read_plan(config).batch_size, mesh)

    def batches() -> Iterator[Batch]:
        images = dataset.held_out(count, batch_size)
        return feed.Feed(images, sharding.batch_sharding(mesh))

    evaluator = evaluation.build_evaluator(
        *(config, trained.net, trained.weights.network, batches, mesh),
        has_bound="bits" in names,
    )
    images = None
    with (
        memory.explain(f"lower evaluate.batch_size={batch_size}"),
        console.show_progress("measuring the loss", count, "images") as show,
    ):
        for name, value in evaluator.held_out_loss(show):
            if name == "held_out_images":
                images = int(value)
            yield Metric(name, value, (None, images))


def describe(
    config: Config,
    comparison: Comparison,
    sampler: sampling.Sampling,
    step: int | None,
    metrics: list[Metric],
) -> dict[str, Any]:
    """Returns the record of an evaluation of a model."""
    return {
        **record.describe_sampling(config, sampler, step),
        "labels": comparison.plan.labels,
        **comparison.record(),
        **record.describe_metrics(metrics),
        **record.describe_provenance(config),
    }
