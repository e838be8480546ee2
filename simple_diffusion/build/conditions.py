"""What networks can be conditioned on: each condition's parts meet here.

A condition has a host encoder (`data/`), an embedding (`nets/conditions.py`), and a
null for guidance. Class and place are the conditions there are. A new one is a file for
each part, a field of `Batch` and `Conditioning`, and a line in `conditions`.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Condition, Conditioning


def conditions(config: Config, num_classes: int) -> tuple[Condition, ...]:
    """Returns the conditions of a config's network.

    Args:
      config: the whole config.
      num_classes: 0 for a network without classes.
    """
    found = [place()]
    if num_classes:
        found.append(class_label(num_classes, config.loss.label_drop))
    return tuple(found)


def class_label(num_classes: int, drop: float = 0.0) -> Condition:
    """Returns the class of the image; the number of classes itself is the null."""
    return Condition(
        field="label",
        of_batch=lambda batch: jnp.asarray(batch.label),
        null=lambda label: jnp.full_like(label, num_classes),
        drop=drop,
    )


def place() -> Condition:
    """Returns where in the full image a patch lies; it is never left out."""
    return Condition(field="box", of_batch=lambda batch: jnp.asarray(batch.box))


def replace_by_null(
    conditions: Sequence[Condition], cond: Conditioning
) -> Conditioning:
    """Returns a conditioning in which all that has a null is left out."""
    nulls = {
        c.field: c.null(getattr(cond, c.field))
        for c in conditions
        if c.null is not None and getattr(cond, c.field) is not None
    }
    return dataclasses.replace(cond, **nulls)
