"""The sections `train`, `mesh`, `optimizer` and `ema`."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding

from simple_diffusion.core import console
from simple_diffusion.core.options import Config, training_size
from simple_diffusion.training import cluster, ema, optimizer, sharding

# Sources that generate their images report at least this many.
ENDLESS = 2**31
# Fields of the plan that are cut to a shorter run.
_INTERVALS = (
    "log_every",
    "checkpoint_every",
    "sample_every",
    "evaluate_every",
    "snapshot_every",
)
# The average of a run of fewer lengths 1 / (1 - decay) holds more than 5% of the
# initial weights.
_EMA_LENGTHS = 3
# Keys that bound the memory of a training, for `memory.explain`.
SAVE_MEMORY = "lower train.batch_size, raise train.accumulate, or set model.remat=full"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The schedule of a run; all durations are in steps, None or 0 means never.

    keep: number of newest checkpoints to keep; keep_every: interval of the checkpoints
      that are never deleted.
    skips_allowed: number of consecutive non-finite steps that may be skipped.
    profile: number of steps to trace.
    snapshot_every: interval at which the power-function averages are stored.
    """

    seed: int
    batch_size: int
    accumulate: int
    total: int
    log_every: int
    checkpoint_every: int
    sample_every: int | None
    evaluate_every: int | None
    snapshot_every: int
    keep: int
    keep_every: int | None
    skips_allowed: int
    profile: int


def read_plan(config: Config, epoch: int) -> Plan:
    """Returns the plan of a run.

    Args:
      config: the whole config.
      epoch: number of examples in an epoch.

    Raises:
      ValueError: a duration is set twice, a required one is not set, or the batch has
        no equal parts. The message names the key.
    """
    c = config.train
    if c.batch_size % c.accumulate:
        raise ValueError(
            f"train.batch_size={c.batch_size} must be a multiple of "
            f"train.accumulate={c.accumulate}"
        )

    def required(name: str) -> int:
        value = optional(name)
        if not value:
            raise ValueError(
                f"train.{name}_steps, _epochs or _examples must be set, and positive"
            )
        return value

    def optional(name: str) -> int | None:
        return read_duration(c, name, c.batch_size, epoch)

    plan = Plan(
        seed=c.seed,
        batch_size=c.batch_size,
        accumulate=c.accumulate,
        total=required("total"),
        log_every=required("log_every"),
        checkpoint_every=required("checkpoint_every"),
        sample_every=optional("sample_every"),
        evaluate_every=optional("evaluate_every"),
        snapshot_every=config.ema.snapshot_every_steps,
        keep=c.keep_checkpoints,
        keep_every=c.keep_every_steps,
        skips_allowed=c.skips_allowed,
        profile=c.profile_steps,
    )
    cut = {
        field: min(getattr(plan, field), plan.total)
        for field in _INTERVALS
        if getattr(plan, field)
    }
    return dataclasses.replace(plan, **cut)


def describe_fit(config: Config, plan: Plan, epoch: int) -> list[str]:
    """Returns lines about what does not fit the length of the run, for its log.

    Args:
      config: the whole config.
      plan: its plan, whose intervals were cut to the run.
      epoch: number of examples in an epoch.
    """
    c = config.train
    asked = {
        f"train.{field}": read_duration(c, field, c.batch_size, epoch)
        for field in ("log_every", "checkpoint_every", "sample_every", "evaluate_every")
    }
    asked["ema.snapshot_every_steps"] = config.ema.snapshot_every_steps
    cuts = [
        f"{name} from {steps} steps to {plan.total}"
        for name, steps in asked.items()
        if steps and steps > plan.total
    ]
    warmup = fit_warmup(config, plan.total)
    if warmup != config.optimizer.warmup_steps:
        cuts.insert(
            0,
            f"optimizer.warmup_steps from {config.optimizer.warmup_steps} to {warmup}",
        )
    lines = []
    if cuts:
        lines.append(f"cut to the {plan.total} steps of this run: {', '.join(cuts)}")
    ema_lengths = round(plan.total * (1 - config.ema.decay), 6)
    if ema_lengths < _EMA_LENGTHS and not config.ema.warmup:
        share = math.exp(-ema_lengths)
        lines.append(
            f"warning: ema.decay={config.ema.decay} is too slow for {plan.total} "
            f"steps: {share:.0%} of the average are the initial weights, and samples "
            "will show it; set ema.warmup=True or lower ema.decay"
        )
    return lines


def fit_warmup(config: Config, total_steps: int) -> int:
    """Returns the steps of the warm-up; a tenth of the run if it does not fit."""
    steps = config.optimizer.warmup_steps
    if steps < total_steps:
        return steps
    # At least one step for rsqrt, and at least one step of the cosine after it.
    last = total_steps - (config.optimizer.decay == "cosine")
    return min(steps, last, max(1, total_steps // 10))


def read_duration(
    section: Config, name: str, batch_size: int, epoch: int
) -> int | None:
    """Returns a duration in steps, or None if all its keys are 0.

    Args:
      section: holds `{name}_steps`, `{name}_epochs` and `{name}_examples`.
      name: such as "total".
      batch_size: examples per step.
      epoch: examples in an epoch.

    Raises:
      ValueError: two of the three keys are set, or it counts epochs of a source that
        has none.
    """
    examples = {"steps": batch_size, "epochs": epoch, "examples": 1}
    values = {unit: section[f"{name}_{unit}"] for unit in examples}
    given = {unit: value for unit, value in values.items() if value}
    if len(given) > 1:
        keys = " and ".join(f"train.{name}_{u}={v}" for u, v in given.items())
        raise ValueError(f"{keys} both set the same duration; set one of them to 0")
    if not given:
        return None
    ((unit, value),) = given.items()
    if unit == "epochs" and epoch >= ENDLESS:
        raise ValueError(
            f"train.{name}_epochs={value}: this data.source is endless and has no "
            f"epochs; use train.{name}_steps or train.{name}_examples"
        )
    return value if unit == "steps" else math.ceil(value * examples[unit] / batch_size)


def build_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh over all devices, or over the given ones.

    Raises:
      ValueError: the axes do not multiply to the number of devices, do not fit the
        slices, or cannot share the rows of an image equally.
    """
    c = config.mesh
    device_mesh = sharding.make_mesh(c.data, c.fsdp, c.tensor, devices, slices=c.slices)
    rows, ways = training_size(config)[0], device_mesh.shape["tensor"]
    if c.split_rows and rows % ways:
        raise ValueError(
            f"mesh.split_rows=True needs data.resolution={config.data.resolution} to "
            f"be a multiple of mesh.tensor={ways}, the devices that share the rows of "
            "an image"
        )
    return device_mesh


def batch_shardings(config: Config, devices: Mesh) -> Callable[[int], NamedSharding]:
    """Returns the sharding of an array of a training batch, given its rank."""
    return sharding.batch_shardings(devices, config.mesh.split_rows)


def check_batch(batch_size: int, devices: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError if the devices cannot share a training batch equally."""
    ways = devices.shape["data"] * devices.shape["fsdp"]
    if batch_size % ways:
        raise ValueError(
            f"train.batch_size={batch_size} must be a multiple of the {ways} devices "
            "that share a batch (mesh.data times mesh.fsdp)"
        )
    if batch_size // accumulate % ways:
        raise ValueError(
            f"train.batch_size={batch_size} in train.accumulate={accumulate} parts "
            f"gives {batch_size // accumulate} images a part, not a multiple of the "
            f"{ways} devices that share it (mesh.data times mesh.fsdp)"
        )


def build_watchdog(config: Config) -> cluster.Watchdog:
    """Returns the watchdog that reports a stalled run; every process prints its own."""
    c = config.train
    return cluster.Watchdog(
        console.print_everywhere,
        warn_after=c.stall_warning_seconds,
        timeout=c.stall_limit_seconds,
        heartbeat_timeout=c.peer_timeout_seconds,
    )


def build_optimizer(config: Config, total_steps: int) -> optimizer.Optimizer:
    """Returns the optimizer of a run of `total_steps` steps; see `fit_warmup`.

    Raises:
      ValueError: a name is unknown, or the optimizer would ignore the weight decay.
    """
    c = config.optimizer
    if c.name == "adam" and c.weight_decay:
        raise ValueError(
            f"optimizer.weight_decay={c.weight_decay} needs optimizer.name='adamw'"
        )
    rate = optimizer.learning_rate(
        c.learning_rate,
        shape=c.decay,
        warmup_steps=fit_warmup(config, total_steps),
        total_steps=total_steps,
    )
    return optimizer.adam(
        rate,
        b1=c.b1,
        b2=c.b2,
        eps=c.eps,
        weight_decay=c.weight_decay,
        clip=c.clip_norm or None,
    )


def build_averages(config: Config) -> dict[str, ema.Average]:
    """Returns the tracked averages: "main", and for example "power_0.05"."""
    c = config.ema
    tracked: dict[str, ema.Average] = {"main": ema.Exponential(c.decay, c.warmup)}
    for sigma_rel in c.power:
        tracked[f"power_{sigma_rel:g}"] = ema.PowerFunction(sigma_rel)
    return tracked
