"""The sections `optimizer`, `ema` and `train`."""

import math

from ml_collections import ConfigDict

from simple_diffusion.build.options import pick
from simple_diffusion.training import ema, optimizer


def steps_of(section: ConfigDict, name: str, batch_size: int, epoch: int) -> int | None:
    """Returns a duration in steps, or None if it is not set.

    Args:
      section: holds `{name}_steps`, `{name}_epochs` and `{name}_examples`.
      name: such as "total".
      batch_size: examples per step.
      epoch: examples in an epoch.

    Raises:
      ValueError: two of the three are set, naming both.
    """
    examples = {"steps": batch_size, "epochs": epoch, "examples": 1}
    values = {unit: section[f"{name}_{unit}"] for unit in examples}
    given = {unit: value for unit, value in values.items() if value is not None}
    if len(given) > 1:
        keys = " and ".join(f"train.{name}_{u}={v}" for u, v in given.items())
        raise ValueError(
            f"{keys} are two ways to say one duration; set one of them to None"
        )
    if not given:
        return None
    ((unit, value),) = given.items()
    return value if unit == "steps" else math.ceil(value * examples[unit] / batch_size)


def adam(config: ConfigDict, total_steps: int) -> optimizer.Optimizer:
    """Returns the optimizer of a run of so many steps."""
    c = config.optimizer
    names = {"adam": 0.0, "adamw": c.weight_decay}
    decay = pick(names, c.name, "optimizer.name")
    if c.name == "adam" and c.weight_decay:
        raise ValueError(
            f"optimizer.weight_decay={c.weight_decay} needs optimizer.name='adamw'"
        )
    rate = optimizer.learning_rate(
        c.learning_rate,
        shape=c.decay,
        warmup_steps=c.warmup_steps,
        total_steps=total_steps,
    )
    return optimizer.adam(
        rate,
        b1=c.b1,
        b2=c.b2,
        eps=c.eps,
        weight_decay=decay,
        clip=c.clip_norm or None,
    )


def averages(config: ConfigDict) -> dict[str, ema.Average]:
    """Returns the tracked averages by the names that `sample.weights` knows."""
    c = config.ema
    tracked: dict[str, ema.Average] = {"ema": ema.Exponential(c.decay, c.warmup)}
    for sigma_rel in c.power:
        tracked[f"ema_{sigma_rel:g}"] = ema.PowerFunction(sigma_rel)
    return tracked
