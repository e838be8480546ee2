"""The section `evaluate`."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simple_diffusion.build import diffusion
from simple_diffusion.build.network import Model
from simple_diffusion.build.options import Config
from simple_diffusion.core import images, rng
from simple_diffusion.core.types import Batch, Conditioning, Params
from simple_diffusion.diffusion import denoiser, likelihood, time_laws
from simple_diffusion.evaluation import features
from simple_diffusion.evaluation.evaluator import Evaluator
from simple_diffusion.training import pinning, step


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is evaluated.

    count: samples drawn, and held-out images read.
    after_training: the same, for the cheap evaluation that ends a training.
    """

    seed: int
    count: int
    after_training: int
    batch_size: int


def plan(config: Config) -> Plan:
    """Returns the plan of an evaluation.

    Raises:
      ValueError: for counts that give no statistics.
    """
    c = config.evaluate
    for key in ("count", "count_after_training"):
        if c[key] < 2:
            raise ValueError(f"evaluate.{key}={c[key]} must be at least 2")
    if c.batch_size < 1:
        raise ValueError(f"evaluate.batch_size={c.batch_size} must be at least 1")
    return Plan(c.seed, c.count, c.count_after_training, c.batch_size)


def evaluator(
    config: Config,
    built: Model,
    params: Params,
    held_out: Callable[[], Iterator[Batch]],
    real: Callable[[], Iterator[Batch]],
    mesh: Mesh,
) -> Evaluator:
    """Returns the evaluator of a trained model.

    Args:
      config: the whole config.
      built: the model.
      params: its parameters, on the devices.
      held_out: starts a pass over held-out batches on the devices.
      real: the same over whole images of the size of the samples.
      mesh: the devices.
    """
    objective = diffusion.objective(config, built)
    stratified = time_laws.stratified()
    seed = plan(config).seed

    def measure(
        params: Params, batch: Batch, number: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        key = rng.key_for(seed, number, "evaluate")
        draw = objective.draw(key, batch)
        loss, aux = objective(params, batch, draw, train=False)
        label = jnp.asarray(batch.label)
        box = jnp.asarray(batch.box)
        cond = Conditioning(label=label if built.num_classes else None, box=box)
        denoise = denoiser.denoise_fn(
            built.apply, params, built.kind, cond, built.family
        )
        time_key, key = jax.random.split(rng.key_for(seed, number, "likelihood"))
        bound = likelihood.bound(
            denoise,
            images.to_unit_range(batch.image),
            objective.schedule,
            stratified.sample(time_key, len(label)),
            rng.per_example(key, jnp.arange(len(label))),
            built.family,
        )
        return loss, aux["logsnr"], bound.total

    return Evaluator(
        held_out=held_out,
        real=real,
        loss=partial(jax.jit(pinning.pinned(measure, mesh)), params),
        bin_edges=step.BIN_EDGES,
        features=jax.jit(features.thumbnail),
        feature_name="thumbnail",
    )
