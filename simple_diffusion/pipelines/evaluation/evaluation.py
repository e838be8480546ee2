"""The steps of an evaluation: samples, their features, metrics, the record."""

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import (
    data,
    evaluation,
    feature_networks,
    network,
    sampling,
)
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch
from simple_diffusion.data import feed
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import programs, runs
from simple_diffusion.pipelines.evaluation import (
    image_sets,
    record,
    references,
)
from simple_diffusion.pipelines.evaluation.comparison import FOLDER, Comparison
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding, store


def open_comparison(
    config: Config,
    folder: epath.Path,
    mesh: Mesh,
    dataset: data.Data | None,
    plan: evaluation.Plan | None = None,
) -> Comparison:
    """Returns what sets of images are compared with, its networks ready.

    Args:
      config: the whole config.
      folder: the workdir.
      mesh: the devices.
      dataset: the data source, if there is one.
      plan: by default that of the config.

    Raises:
      ValueError: for networks or a reference that cannot be used.
    """
    plan, place = plan or evaluation.plan(config), folder / FOLDER
    references.check(plan, config.evaluate.networks, dataset)
    record.commit()
    networks = feature_networks.networks(config, place, console.print_line, dataset)
    return Comparison(plan, networks, dataset, mesh, place)


class SampleSet(NamedTuple):
    """Images, and the one class that they all have; None if they have several."""

    images: ImageSet
    label: int | None


def sampler_of(
    config: Config, trained: Trained, size: str | None = None
) -> sampling.Sampling:
    """Returns how a model is drawn from, at `sample.size` or another one."""
    return sampling.sampling(
        config,
        trained.net,
        trained.weak,
        size=size,
        size_key="evaluate.also_sizes",
        mesh=trained.mesh,
        codec=trained.codec,
    )


def samples(
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
      comparison: where classes as in the data come from.
      sampler: how they are drawn.
      count: how many.
      drawer: that of the sampler, if it was already made.

    Raises:
      ValueError: for a class that does not exist.
    """
    wanted, net, size = comparison.plan.labels, trained.net, sampler.size
    names = trained.classes
    only = label_of(wanted, net, names)
    if only is not None:
        labels = np.full(count, only, np.int32)
    elif wanted == "as_data":
        found = comparison.reference(size).banks.labels
        if not len(found):
            raise ValueError("evaluate.labels=as_data: the reference has no images")
        labels = np.resize(found, count)
    else:
        every = list(range(max(1, net.num_classes)))
        labels = generate.balanced_labels(every, count)
    if drawer is None:
        drawer = programs.make_drawer(sampler, trained.mesh, config.sample.batch_size)
    identity = record.sampling_settings(config, sampler, trained.step)
    # Much of what a model is leaves no trace in its parameters, such as its schedule;
    # nor does the code.
    whole = json.loads(config.to_json_best_effort())
    identity |= {name: whole[name] for name in ("data", "model", "diffusion")}
    identity |= {"params": store.digest(trained.weights.network), "code": record.code()}
    if trained.weights.weak is not None:
        weak = runs.load_config(files.resolve_folder(config.sample.guidance_workdir))
        identity["weak"] = json.loads(weak.to_json_best_effort())
        identity["weak_params"] = store.digest(trained.weights.weak)
    images = image_sets.of_model(drawer, trained.weights, labels, size, names, identity)
    return SampleSet(images, only)


def label_of(wanted: str, net: network.Network, names: tuple[str, ...]) -> int | None:
    """Returns the class that all samples shall have; None if they have several.

    Args:
      wanted: `evaluate.labels`.
      net: the model.
      names: of its classes.

    Raises:
      ValueError: for a class that does not exist.
    """
    key = "evaluate.labels"
    if wanted == "as_data" and not net.num_classes:
        raise ValueError(f"{key}=as_data needs a model with classes")
    if wanted in evaluation.LABELS:
        return None
    chosen = sampling.parse_classes(wanted, names, net.num_classes, key)
    if len(chosen) != 1:
        raise ValueError(f"{key}={wanted} must be balanced, as_data or one class")
    return chosen[0]


def extract_features(
    comparison: Comparison, drawn: SampleSet, store: bool = True
) -> Banks:
    """Returns what the networks say of images.

    Args:
      comparison: with what they will be.
      drawn: the images.
      store: keep the features in a file, see `Comparison.features_of`.
    """
    images = drawn.images
    # First: what is wrong with it shall not be found out after an hour of drawing.
    comparison.reference(images.size, drawn.label)
    return comparison.features_of(images, images.count, store)


def measure(
    comparison: Comparison, drawn: SampleSet, generated: Banks, wanted: tuple[str, ...]
) -> Iterator[Metric]:
    """Yields metrics of images.

    Args:
      comparison: with what.
      drawn: the images.
      generated: what the networks say of them, by `extract_features`.
      wanted: metrics, as in `evaluate.metrics`.
    """
    images = drawn.images
    reference = comparison.reference(images.size, drawn.label)
    if reference.banks.n < 2 and reference.about["n"] is not None:
        comparison.note(f"{reference.banks.n} images are too few to compare with")
        return
    if not images.classes and "accuracy" in wanted:
        wanted = tuple(name for name in wanted if name != "accuracy")
        comparison.note("without classes of the samples there is no accuracy")
    yield from comparison.metrics(generated, images.size, wanted, drawn.label)


def held_out(
    config: Config, trained: Trained, dataset: data.Data, count: int
) -> Iterator[Metric]:
    """Yields the loss on held-out images, by logsnr too, and the bound in bits."""
    mesh = trained.mesh
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    # Rounded up: the last batch is padded and masked anyway.
    batch_size = math.ceil(evaluation.plan(config).batch_size / ways) * ways

    def batches() -> Iterator[Batch]:
        images = dataset.held_out(count, batch_size)
        return feed.Feed(images, sharding.batch_sharding(mesh))

    evaluator = evaluation.evaluator(
        config, trained.net, trained.weights.network, batches, mesh
    )
    images = None
    for name, value in evaluator.held_out_loss():
        if name == "held_out_images":
            images = int(value)
        yield Metric(name, value, (None, images))


def describe(
    config: Config,
    comparison: Comparison,
    sampler: sampling.Sampling,
    step: int | None,
    found: list[Metric],
) -> dict[str, Any]:
    """Returns the record of an evaluation of a model."""
    return {
        **record.sampling_settings(config, sampler, step),
        "labels": comparison.plan.labels,
        **comparison.record(),
        **record.metric_fields(found),
        **record.provenance(config),
    }
