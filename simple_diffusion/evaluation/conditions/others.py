"""Baselines that need no model: what another example was asked to show."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from simple_diffusion.evaluation.metrics.conditions.layout import Layouts


def pair_with_others(keys: Sequence[Hashable]) -> Int[np.ndarray, "n"]:
    """Returns the index of another example for each, with the same key if there is one.

    Args:
      keys: of n examples, at least two.

    Raises:
      ValueError: there is no other example.
    """
    n = len(keys)
    if n < 2:
        raise ValueError(f"{n} examples cannot be paired with others")
    groups: dict[Hashable, list[int]] = {}
    for k, key in enumerate(keys):
        groups.setdefault(key, []).append(k)
    other = (np.arange(n) + 1) % n
    for group in groups.values():
        if len(group) > 1:
            other[group] = np.roll(group, -1)
    return other


def layout_keys(layouts: Layouts) -> list[Hashable]:
    """Returns the classes of the objects of each image, as keys of pairs."""
    return [
        tuple(sorted(category[present].tolist()))
        for category, present in zip(layouts.category, layouts.present, strict=True)
    ]


def map_keys(ids: Int[np.ndarray, "n h w"]) -> list[Hashable]:
    """Returns the classes of the pixels of each image, as keys of pairs."""
    return [tuple(np.unique(each).tolist()) for each in ids]
