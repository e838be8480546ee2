"""Combinations that are held out: a training without them shows what a model combines.

Of the combinations of class, colour, count and place that scenes have, about one in ten
is held out, by a hash. Left and right are the same place here, since a mirrored image
exchanges them. Each colour, count and place of a class remains in others of its
combinations, so that a model has seen all parts of those that it has not seen.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.scenes.hashes import hash_words, to_uniform
from simple_diffusion.data.scenes.scenes import Scenes

_SHARE = 0.1
# One of the few hashes that leave every colour, count and place of a class, and hold
# out something of each class but the cactus, which has one colour only. It holds out 17
# of 154 combinations, which 8 % of the scenes have: at most 14 % of those of a class.
_SALT = 618
_MIDDLE = 1


def is_held_out_combination(found: Scenes) -> Bool[np.ndarray, "b"]:
    """Returns for each scene whether its combination is held out."""
    is_aside = found.place != _MIDDLE
    combination = found.label, found.colour, found.count, is_aside
    return to_uniform(hash_words(_SALT, *combination)) < _SHARE


def describe_without_held_out(seed: int, indices: Any, split: str = "train") -> Scenes:
    """Returns the scenes of the stream, but others of their class for those held out.

    Each depends on (seed, split, index) only. Class and form of the caption are those
    of the stream. Arguments as `scenes.describe`.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    found = scenes.describe(seed, indices, split=split)
    for replacement in itertools.count(1):
        rows = np.flatnonzero(is_held_out_combination(found))
        if not rows.size:
            break
        classes = found.label[rows]
        others = scenes.describe(seed, indices[rows], classes, split, replacement)
        found = _replace_rows(found, rows, others)
    return found


def _replace_rows(old: Any, rows: Int[np.ndarray, "n"], new: Any) -> Any:
    """Returns an array, or a dataclass of arrays, with other values in some rows."""
    if isinstance(old, np.ndarray):
        result = old.copy()
        result[rows] = new
        return result
    names = [field.name for field in dataclasses.fields(old)]
    values = {n: _replace_rows(getattr(old, n), rows, getattr(new, n)) for n in names}
    return dataclasses.replace(old, **values)
