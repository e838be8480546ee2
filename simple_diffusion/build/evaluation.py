"""The sections `evaluate` and `sweep`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simple_diffusion.build import diffusion
from simple_diffusion.build.network import Network
from simple_diffusion.core import rng
from simple_diffusion.core.options import Config, parse_size, pick
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.data.sources import protocols
from simple_diffusion.diffusion import denoiser, likelihood, time_distributions
from simple_diffusion.evaluation.evaluator import Evaluator
from simple_diffusion.training import sharding, step

LABELS = ("balanced", "as_data")
REFERENCES = ("statistics", "folder", "npz")  # besides "data"
MODEL = "model"  # value of evaluate.samples: samples of the model, not files


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of an evaluation, as in the config; sizes are parsed.

    count: number of samples, and of held-out images for the loss.
    reference_most: upper limit on reference images, even if `reference_count` is more.
    after_training, during_training: number of samples of the cheap evaluations at the
      end of a training and during it.
    reference_during_training: `reference_most` of these cheap evaluations.
    """

    seed: int
    samples: str
    count: int
    labels: str
    reference: str
    reference_split: protocols.Split
    reference_count: int | None
    reference_features: int
    reference_most: int | None
    size: tuple[int, int] | None
    also_sizes: tuple[str, ...]
    patch: int | None
    batch_size: int
    metrics: tuple[str, ...]
    reader_steps: int
    neighbours: int
    density_neighbours: int
    show_neighbours: int
    show_per_class: int
    report: bool
    after_training: int
    during_training: int
    reference_during_training: int
    metrics_during_training: tuple[str, ...]
    best_metric: str | None


def read_plan(config: Config) -> Plan:
    """Returns the plan of an evaluation.

    Raises:
      ValueError: keys contradict each other, or the reference has no name.
    """
    c = config.evaluate
    for name in ("memorisation", "conditions"):
        if name in c.metrics_during_training:
            raise ValueError(
                f"evaluate.metrics_during_training has {name!r}, which only "
                "--mode evaluate measures"
            )
    kind, _, file = c.reference.partition(":")
    if c.reference != "data" and (kind not in REFERENCES or not file):
        raise ValueError(
            f"evaluate.reference={c.reference!r} must be data, statistics:FILE, "
            "folder:PATH or npz:FILE"
        )
    if c.samples != MODEL and c.samples.partition(":")[0] not in ("folder", "npz"):
        raise ValueError(
            f"evaluate.samples={c.samples!r} must be {MODEL}, folder:PATH or npz:FILE"
        )
    if c.also_sizes and kind not in ("data", "statistics"):
        raise ValueError(
            f"evaluate.also_sizes={tuple(c.also_sizes)} needs evaluate.reference=data: "
            f"the images of {c.reference} have one size"
        )
    if kind == "statistics" and c.also_sizes and "{size}" not in file:
        raise ValueError(
            f"evaluate.reference={c.reference}: with evaluate.also_sizes there are "
            "several files; write {size} into their name, it is replaced by HxW"
        )
    if c.samples != MODEL:
        for key, none in (("labels", "balanced"), ("also_sizes", ())):
            if c[key] != none:
                raise ValueError(
                    f"evaluate.{key}={c[key]} is for the samples of a model: "
                    f"evaluate.samples={c.samples} are compared unchanged"
                )
    splits: dict[str, protocols.Split] = {"train": "train", "holdout": "holdout"}
    size = c.size
    return Plan(
        seed=c.seed,
        samples=c.samples,
        count=c.count,
        labels=c.labels,
        reference=c.reference,
        reference_split=pick(splits, c.reference_split, "evaluate.reference_split"),
        reference_count=c.reference_count,
        reference_features=c.reference_features,
        reference_most=None,
        size=None if size is None else parse_size(size, "evaluate.size"),
        also_sizes=tuple(c.also_sizes),
        patch=c.patch,
        batch_size=c.batch_size,
        metrics=tuple(c.metrics),
        reader_steps=c.reader_steps,
        neighbours=c.neighbours,
        density_neighbours=c.density_neighbours,
        show_neighbours=c.show_neighbours,
        show_per_class=c.show_per_class,
        report=c.report,
        after_training=c.count_after_training,
        during_training=c.count_during_training,
        reference_during_training=c.reference_during_training,
        metrics_during_training=tuple(c.metrics_during_training),
        best_metric=c.best_metric,
    )


def read_model_plan(config: Config, doing: str) -> Plan:
    """Returns the plan of an evaluation that supports only samples of a model.

    Args:
      config: the whole config.
      doing: what evaluates the model, for messages.

    Raises:
      ValueError: as `plan`, or the config asks to evaluate files.
    """
    model_plan = read_plan(config)
    if model_plan.samples != MODEL:
        raise ValueError(
            f"evaluate.samples={model_plan.samples} is for --mode evaluate; {doing} "
            f"evaluates its {MODEL}"
        )
    return model_plan


def read_sweep(config: Config) -> tuple[int, list[dict[str, Any]]]:
    """Returns the number of samples per point of a sweep, and the points.

    Each point has values for some keys of `sample`. The points are all combinations of
    the lists in `config.sweep`; an empty list means the value in `sample`.

    Raises:
      ValueError: an interval is not a pair, or its bounds are exchanged.
    """
    c, now = config.sweep, config.sample
    pairs = c.intervals or ((now.guidance_low, now.guidance_high),)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"sweep.intervals has {pair!r}; each must be a pair (low, high) of "
                "logsnr, None for no bound, as in ((None, None), (-3.0, 3.0))"
            )
        if None not in pair and not pair[0] < pair[1]:
            raise ValueError(f"sweep.intervals has {pair!r}; low must be below high")
    guidances, step_counts = c.guidance or (now.guidance,), c.steps or (now.steps,)
    return c.count, [
        {
            "guidance": float(guidance),
            "guidance_low": None if low is None else float(low),
            "guidance_high": None if high is None else float(high),
            "steps": int(steps),
        }
        for guidance, (low, high), steps in itertools.product(
            guidances, pairs, step_counts
        )
    ]


def build_evaluator(
    config: Config,
    net: Network,
    params: Params,
    held_out: Callable[[], Iterator[Batch]],
    mesh: Mesh,
    *,
    has_bound: bool = True,
) -> Evaluator:
    """Returns an evaluator of the loss of a trained model.

    Args:
      config: the whole config.
      net: the model.
      params: its parameters, on the devices.
      held_out: starts a pass over held-out batches on the devices.
      mesh: the devices.
      has_bound: whether to measure the bound in bits per dimension, too; it takes as
        long again.
    """
    objective = diffusion.build_objective(config, net)
    stratified = time_distributions.stratified()
    seed = read_plan(config).seed

    def measure(
        params: Params, batch: Batch, number: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        key = rng.derive_key(seed, number, "evaluate")
        draw = objective.draw(key, batch)
        loss, aux = objective(params, batch, draw, train=False)
        if not has_bound:
            return loss, aux["logsnr"], None
        cond, b = objective.condition(batch), len(batch.label)
        denoise = denoiser.denoise_fn(net.apply, params, net.kind, cond, net.family)
        time_key, key = jax.random.split(rng.derive_key(seed, number, "likelihood"))
        bound = likelihood.bound(
            denoise,
            objective.encode(batch),
            objective.schedule,
            stratified.sample(time_key, b),
            rng.derive_example_keys(key, jnp.arange(b)),
            net.family,
        )
        return loss, aux["logsnr"], bound.total

    return Evaluator(
        held_out=held_out,
        loss=partial(jax.jit(sharding.pin_feature_maps(measure, mesh)), params),
        bin_edges=step.BIN_EDGES,
    )
