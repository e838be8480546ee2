"""Mode `evaluate`: what a model, or a set of images, is worth, in numbers."""

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import (
    data,
    evaluation,
    feature_networks,
    network,
    sampling,
    training,
)
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.data import feed
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.modes import report
from simple_diffusion.pipelines import compiled, runs, trained_weights
from simple_diffusion.pipelines.evaluation import (
    class_grids,
    image_files,
    image_sets,
    memorisation,
    record,
    references,
)
from simple_diffusion.pipelines.evaluation.comparison import FOLDER, Comparison
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding, store

Metrics = dict[str, float]


def run(config: Config, workdir: str) -> Metrics:
    """Evaluates what `evaluate.samples` names and returns its metrics by name.

    Of a model they are written to `metrics.json` of the workdir and added to
    `evaluations.jsonl`, of files to `comparison.json`.
    """
    plan = evaluation.plan(config)
    with training.watch(config):
        of_model = plan.samples == evaluation.MODEL
        metrics = (_run_model if of_model else _run_files)(config, workdir)
    if plan.report:
        report.run(config, workdir)
    return metrics


class Model(NamedTuple):
    """A trained model as it is evaluated.

    Fields:
      built: its network and its process.
      step: of the checkpoint.
      params: on the devices.
      opened: the data it was trained on.
      mesh: the devices.
      weak, weak_params: the weaker model to guide by; None if there is none.
    """

    built: network.Model
    step: int | None
    params: Params
    opened: data.Data
    mesh: Mesh
    weak: network.Model | None = None
    weak_params: Params | None = None


def load(config: Config, workdir: str) -> tuple[epath.Path, Model]:
    """Returns the folder of a run and its model, with the weights `sample` asks for."""
    folder = files.folder(workdir)
    runs.class_names(folder)  # an error if nothing was trained there
    runs.compare(config, folder, files.say)
    mesh = training.mesh(config)
    opened = data.data(config, sharding.share(mesh))
    built = network.model(config, opened.num_classes)
    plan = sampling.plan(config, built, opened.class_names)
    step, params = trained_weights.load(folder, built, mesh, plan)
    weak, weak_params = trained_weights.load_weak(plan, opened.num_classes, mesh)
    return folder, Model(built, step, params, opened, mesh, weak, weak_params)


def comparison(
    config: Config,
    folder: epath.Path,
    mesh: Mesh,
    opened: data.Data | None,
    plan: evaluation.Plan | None = None,
) -> Comparison:
    """Returns what sets of images are compared with, its networks ready.

    Args:
      config: the whole config.
      folder: the workdir.
      mesh: the devices.
      opened: the data source, if there is one.
      plan: by default that of the config.

    Raises:
      ValueError: for networks or a reference that cannot be used.
    """
    plan, place = plan or evaluation.plan(config), folder / FOLDER
    references.check(plan, config.evaluate.networks, opened)
    record.commit()
    networks = feature_networks.networks(config, place, files.say, opened)
    return Comparison(plan, networks, opened, mesh, place)


def _run_model(config: Config, workdir: str) -> Metrics:
    feature_networks.check(config)
    folder, model = load(config, workdir)
    plan = evaluation.plan(config)
    compared = comparison(config, folder, model.mesh, model.opened)
    sampler = sampler_of(config, model)
    others = [sampler_of(config, model, size) for size in plan.also_sizes]
    for each in (sampler, *others):
        references.check_size(plan, each.size)
    files.say(f"evaluating step {model.step} with {plan.count} samples")
    drawn = samples(config, model, compared, sampler, plan.count)
    found = list(record.tell(held_out(config, model, plan.count)))
    generated = gathered(compared, drawn)
    found += record.tell(measure(compared, drawn, generated, plan.metrics))
    for each in others:
        other = samples(config, model, compared, each, plan.count)
        h, w = each.size
        banks = gathered(compared, other)
        for metric in measure(compared, other, banks, plan.metrics):
            found += record.tell([metric._replace(name=f"{metric.name}@{h}x{w}")])
        del banks  # a further size needs the room
    memorisation.forget(folder / FOLDER)
    if "memorisation" in plan.metrics:
        place = folder / FOLDER
        near = memorisation.measure(compared, drawn.images, generated, place)
        found += record.tell(near)
    each = plan.show_per_class
    class_grids.write(folder / FOLDER, drawn.images, generated.labels, each)
    written = describe(config, compared, sampler, model.step, found)
    record.append(folder, written)
    path = files.write_metrics(folder, written)
    compared.tidy()
    files.say(f"metrics: {path}")
    return written["metrics"]


def _run_files(config: Config, workdir: str) -> Metrics:
    feature_networks.check(config)
    plan, folder = evaluation.plan(config), files.folder(workdir)
    mesh, opened = training.mesh(config), None
    needs_data = plan.reference.partition(":")[0] in ("data", "statistics")
    if needs_data or "source" in config.evaluate.networks:
        opened = data.data(config, sharding.share(mesh))
    compared = comparison(config, folder, mesh, opened)
    images = image_files.open_files(
        plan.samples,
        "evaluate.samples",
        plan.size,
        compared.batch_size,
        opened.class_names if opened else (),
    )
    files.say(f"evaluating {images.count} images of {plan.samples}")
    drawn = Drawn(images, None)
    generated = gathered(compared, drawn)
    found = list(record.tell(measure(compared, drawn, generated, plan.metrics)))
    place = folder / FOLDER / "comparison"  # beside the picture of the model's
    memorisation.forget(place)
    if "memorisation" in plan.metrics:
        near = memorisation.measure(compared, images, generated, place)
        found += record.tell(near)
    written = record.measured(found) | compared.record() | record.circumstances(config)
    written |= {"samples": plan.samples, "identity": images.identity}
    path = folder / record.COMPARISON
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(path, written)
    compared.tidy()
    files.say(f"metrics: {path}")
    return written["metrics"]


class Drawn(NamedTuple):
    """Images, and the one class that they all have; None if they have several."""

    images: ImageSet
    label: int | None


def sampler_of(
    config: Config, model: Model, size: str | None = None
) -> sampling.Sampling:
    """Returns how a model is drawn from, at `sample.size` or another one."""
    how: dict[str, Any] = dict(
        size=size, size_key="evaluate.also_sizes", mesh=model.mesh
    )
    return sampling.sampling(config, model.built, model.weak, **how)


def samples(
    config: Config,
    model: Model,
    compared: Comparison,
    sampler: sampling.Sampling,
    count: int,
    drawer: compiled.Drawer | None = None,
) -> Drawn:
    """Returns the samples of a model, of the classes that `evaluate.labels` asks for.

    Args:
      config: the whole config.
      model: the model.
      compared: where classes as in the data come from.
      sampler: how they are drawn.
      count: how many.
      drawer: that of the sampler, if it was already made.

    Raises:
      ValueError: for a class that does not exist.
    """
    law, built, size = compared.plan.labels, model.built, sampler.size
    names = model.opened.class_names
    only = label_of(law, built, names)
    if only is not None:
        labels = np.full(count, only, np.int32)
    elif law == "as_data":
        found = compared.reference(size).banks.labels
        if not len(found):
            raise ValueError("evaluate.labels=as_data: the reference has no images")
        labels = np.resize(found, count)
    else:
        every = list(range(max(1, built.num_classes)))
        labels = generate.balanced_labels(every, count)
    if drawer is None:
        drawer = compiled.drawer(sampler, model.mesh, config.sample.batch_size)
    identity = record.drawn(config, sampler, model.step)
    # Much of what a model is leaves no trace in its parameters, such as its schedule;
    # nor does the code.
    whole = json.loads(config.to_json_best_effort())
    identity |= {name: whole[name] for name in ("data", "model", "diffusion")}
    identity |= {"params": store.digest(model.params), "code": record.code()}
    if model.weak_params is not None:
        weak = runs.config(files.folder(config.sample.guidance_workdir))
        identity["weak"] = json.loads(weak.to_json_best_effort())
        identity["weak_params"] = store.digest(model.weak_params)
    images = image_sets.drawn(
        drawer, model.params, labels, size, names, identity, model.weak_params
    )
    return Drawn(images, only)


def label_of(law: str, built: network.Model, names: tuple[str, ...]) -> int | None:
    """Returns the class that all samples shall have; None if they have several.

    Args:
      law: `evaluate.labels`.
      built: the model.
      names: of its classes.

    Raises:
      ValueError: for a class that does not exist.
    """
    key = "evaluate.labels"
    if law == "as_data" and not built.num_classes:
        raise ValueError(f"{key}=as_data needs a model with classes")
    if law in evaluation.LABELS:
        return None
    chosen = sampling.parse_classes(law, names, built.num_classes, key)
    if len(chosen) != 1:
        raise ValueError(f"{key}={law} must be balanced, as_data or one class")
    return chosen[0]


def gathered(compared: Comparison, drawn: Drawn, store: bool = True) -> Banks:
    """Returns what the networks say of images.

    Args:
      compared: with what they will be.
      drawn: the images.
      store: keep the features in a file, see `Comparison.gathered`.
    """
    images = drawn.images
    # First: what is wrong with it shall not be found out after an hour of drawing.
    compared.reference(images.size, drawn.label)
    return compared.gathered(images, images.count, store)


def measure(
    compared: Comparison, drawn: Drawn, generated: Banks, wanted: tuple[str, ...]
) -> Iterator[Metric]:
    """Yields metrics of images.

    Args:
      compared: with what.
      drawn: the images.
      generated: what the networks say of them, by `gathered`.
      wanted: metrics, as in `evaluate.metrics`.
    """
    images = drawn.images
    reference = compared.reference(images.size, drawn.label)
    if reference.banks.n < 2 and reference.about["n"] is not None:
        compared.note(f"{reference.banks.n} images are too few to compare with")
        return
    if not images.classes and "accuracy" in wanted:
        wanted = tuple(name for name in wanted if name != "accuracy")
        compared.note("without classes of the samples there is no accuracy")
    yield from compared.metrics(generated, images.size, wanted, drawn.label)


def held_out(config: Config, model: Model, count: int) -> Iterator[Metric]:
    """Yields the loss on held-out images, by logsnr too, and the bound in bits."""
    mesh = model.mesh
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    # Rounded up: the last batch is padded and masked anyway.
    batch_size = math.ceil(evaluation.plan(config).batch_size / ways) * ways

    def batches() -> Iterator[Batch]:
        images = model.opened.held_out(count, batch_size)
        return feed.Feed(images, sharding.batch_sharding(mesh))

    evaluator = evaluation.evaluator(config, model.built, model.params, batches, mesh)
    images = None
    for name, value in evaluator.held_out_loss():
        if name == "held_out_images":
            images = int(value)
        yield Metric(name, value, (None, images))


def describe(
    config: Config,
    compared: Comparison,
    sampler: sampling.Sampling,
    step: int | None,
    found: list[Metric],
) -> dict[str, Any]:
    """Returns the record of an evaluation of a model."""
    return {
        **record.drawn(config, sampler, step),
        "labels": compared.plan.labels,
        **compared.record(),
        **record.measured(found),
        **record.circumstances(config),
    }
