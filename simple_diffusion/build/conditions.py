"""The conditions on the class and on the place of a patch, and the null of all.

Both have a field of their own in `Batch` and `Conditioning`. Further conditions, whose
values are in `fields`, are in the table of `conditioning/kinds.py`.
"""

import dataclasses
from collections.abc import Collection

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


def drop(cond: Conditioning, names: Collection[str], num_classes: int) -> Conditioning:
    """Returns a conditioning without some conditions, which are replaced by their null.

    Args:
      cond: the conditioning; conditions with values in `fields` are dropped as far as
        `dropped` has them.
      names: of the conditions; "classes" is the class.
      num_classes: the null class.
    """
    dropped = {
        name: jnp.ones_like(is_dropped) if name in names else is_dropped
        for name, is_dropped in cond.dropped.items()
    }
    cond = dataclasses.replace(cond, dropped=dropped)
    if "classes" not in names or cond.label is None:
        return cond
    null = condition_on_class(num_classes).null
    assert null is not None
    return dataclasses.replace(cond, label=null(cond.label))
