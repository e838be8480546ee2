"""The conditions on the class and on the place of a patch, and the null of all.

Both have a field of their own in `Batch` and `Conditioning`. Further conditions, whose
values are in `fields`, are in the table of `conditioning/field_conditions.py`.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Condition, Conditioning


def build_conditions(config: Config, num_classes: int) -> tuple[Condition, ...]:
    """Returns the conditions of a config's network.

    Args:
      config: the whole config.
      num_classes: 0 for a network without classes.
    """
    active = [condition_on_place()]
    if num_classes:
        active.append(condition_on_class(num_classes, config.loss.label_drop))
    return tuple(active)


def condition_on_class(num_classes: int, drop: float = 0.0) -> Condition:
    """Returns the condition on the class label; its null is the number of classes."""
    return Condition(
        field="label",
        of_batch=lambda batch: jnp.asarray(batch.label),
        null=lambda label: jnp.full_like(label, num_classes),
        drop=drop,
    )


def condition_on_place() -> Condition:
    """Returns the condition on the position of a patch; it is never dropped."""
    return Condition(field="box", of_batch=lambda batch: jnp.asarray(batch.box))


def replace_by_null(
    conditions: Sequence[Condition], cond: Conditioning
) -> Conditioning:
    """Returns the conditioning with each value replaced by its null, if it has one.

    Conditions with values in `fields` are dropped, as far as `dropped` has them.
    """
    nulls = {
        c.field: c.null(getattr(cond, c.field))
        for c in conditions
        if c.null is not None and getattr(cond, c.field) is not None
    }
    dropped = {name: jnp.ones_like(drop) for name, drop in cond.dropped.items()}
    return dataclasses.replace(cond, **nulls, dropped=dropped)
