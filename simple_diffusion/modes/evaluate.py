"""Mode `evaluate`: held-out loss, likelihood bound and sample distance of a model."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from simple_diffusion.build import data, evaluation, network, sampling, training
from simple_diffusion.build.options import Config
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.data import feed
from simple_diffusion.modes import pictures, weights
from simple_diffusion.modes import workdir as files
from simple_diffusion.sampling import generate
from simple_diffusion.training import sharding

Metrics = dict[str, float]


def run(config: Config, workdir: str) -> Metrics:
    """Evaluates the parameters of a workdir and writes `metrics.json`."""
    with training.watch(config):
        return _run(config, workdir)


def _run(config: Config, workdir: str) -> Metrics:
    folder = files.folder(workdir)
    files.class_names(folder)  # an error if nothing was trained there
    files.compare(config, folder, files.say)
    mesh = training.mesh(config)
    opened = data.data(config, sharding.share(mesh))
    built = network.model(config, opened.num_classes)
    plan = sampling.plan(config, built, opened.class_names)
    step, params = weights.load(folder, built, mesh, plan.weights, plan.checkpoint_step)
    weak, weak_params = weights.load_weak(plan, opened.num_classes, mesh)
    sampler = sampling.sampling(config, built, weak, mesh=mesh)
    draw = pictures.drawer(sampler, mesh, plan.batch_size)
    count = evaluation.plan(config).count
    files.say(f"evaluating step {step} with {count} samples and held-out images")
    draw = partial(draw, weak=weak_params)
    metrics = measure(config, built, params, opened, mesh, draw, count, sampler.size)
    record = describe(config, sampler, step, metrics)
    files.say(f"metrics: {files.write_metrics(folder, record)}")
    return metrics


def describe(
    config: Config, sampler: sampling.Sampling, step: int | None, metrics: Metrics
) -> dict[str, Any]:
    """Returns metrics together with what they are metrics of."""
    c = config.sample
    return {
        "step": step,
        "weights": c.weights,
        "solver": c.solver,
        "network_calls": sampler.network_calls,
        "grid": c.grid,
        "gamma": c.gamma,
        "eta": c.eta,
        "clip": c.clip,
        "guidance": sampler.guidance,
        "guidance_interval": [c.guidance_low, c.guidance_high],
        "guidance_workdir": c.guidance_workdir,
        "guidance_step": c.guidance_step,
        "size": list(sampler.size),
        "frame": c.frame,
        "extrapolate": c.extrapolate,
        "coarse": [c.coarse_size, c.coarse_time],
        "window": [c.window, c.window_stride, c.window_taper],
        "seed": c.seed,
        "metrics": metrics,
    }


def measure(
    config: Config,
    built: network.Model,
    params: Params,
    opened: data.Data,
    mesh: Mesh,
    draw: pictures.Draw,
    count: int,
    size: tuple[int, int],
) -> Metrics:
    """Returns all metrics, printing each as it is known.

    Args:
      config: the whole config.
      built: the model.
      params: on the devices.
      opened: the data it is compared with.
      mesh: the devices.
      draw: draws samples, see `pictures.drawer`.
      count: how many samples and held-out images.
      size: height and width of the samples, and of the images they are compared with.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    # Rounded up: the last batch is padded and masked anyway.
    batch_size = math.ceil(evaluation.plan(config).batch_size / ways) * ways

    def held_out() -> Iterator[Batch]:
        batches = opened.held_out(count, batch_size)
        return feed.Feed(batches, sharding.batch_sharding(mesh))

    def real() -> Iterator[Batch]:
        batches = opened.whole(count, batch_size, size)
        return feed.Feed(batches, sharding.batch_sharding(mesh))

    def sample(number: int) -> Iterator[np.ndarray]:
        classes = list(range(max(1, built.num_classes)))
        return draw(params, generate.balanced_labels(classes, number))

    evaluator = evaluation.evaluator(config, built, params, held_out, real, mesh)
    metrics = {}
    for name, value in evaluator.run(sample):
        metrics[name] = value
        files.say(f"  {name} = {value:.4f}")
    return metrics
