"""Fills our trees of parameters with published tensors, by a strict map of names."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from simple_diffusion.core.types import Params
from simple_diffusion.weights import weight_files
from simple_diffusion.weights.hugging_face.folder import Tensors


class Place(NamedTuple):
    """Where a tensor goes.

    Fields:
      leaf: path in our tree, joined by "/".
      layer: index on axis 0 of a leaf that stacks layers; None: it is the full leaf.
      axes: the tensor's axes in the order of ours.
    """

    leaf: str
    layer: int | None = None
    axes: tuple[int, ...] | None = None


def fill(
    tree: Params,
    tensors: Tensors,
    places: Mapping[str, Place],
    ignored: str = "(?!)",
    dtype: Any = np.float32,
) -> Params:
    """Returns the tree with the tensors in it, as NumPy arrays.

    Everything is compared before anything is read. Besides the tree, one tensor at a
    time is in memory.

    Args:
      tree: our parameters; shapes are enough (`jax.eval_shape`).
      tensors: the published ones.
      places: of the tensors by their names. Several names of one place are the same
        tensor; one of them is enough, and if there are more they must be equal.
      ignored: regular expression of the names that are left out.
      dtype: of the arrays that are returned.

    Raises:
      ValueError: if a tensor is missing, unexpected, of another shape or not finite;
        the message lists what differs.
    """
    leaves: dict[str, Any] = dict(traverse_util.flatten_dict(tree, sep="/"))
    shapes = {leaf: tuple(value.shape) for leaf, value in leaves.items()}
    used = {n: s for n, s in tensors.shapes.items() if not re.fullmatch(ignored, n)}
    _check(tensors.where, shapes, used, places)
    arrays = {leaf: np.empty(shape, dtype) for leaf, shape in shapes.items()}
    filled: set[tuple[str, int | None]] = set()
    for name, array in tensors.read():
        if name not in used:
            continue
        weight_files.check_finite(tensors.where, {name: array})
        leaf, layer, axes = places[name]
        target = arrays[leaf] if layer is None else arrays[leaf][layer]
        array = (array if axes is None else array.transpose(axes)).astype(dtype)
        if (leaf, layer) in filled and not np.array_equal(target, array):
            raise ValueError(f"{tensors.where}: {name} differs from its other copy")
        target[...] = array
        filled.add((leaf, layer))
    return traverse_util.unflatten_dict(arrays, sep="/")


def _check(
    where: str,
    shapes: Mapping[str, tuple[int, ...]],
    used: Mapping[str, tuple[int, ...]],
    places: Mapping[str, Place],
) -> None:
    """Raises ValueError if names or shapes differ from those that are expected."""
    names: dict[tuple[str, int | None], list[str]] = {}
    for name, place in places.items():
        names.setdefault((place.leaf, place.layer), []).append(name)
    faults = []
    if missing := [" or ".join(n) for n in names.values() if not used.keys() & set(n)]:
        faults.append(f"missing: {weight_files.join_names(missing)}")
    if unexpected := sorted(used.keys() - places.keys()):
        faults.append(f"unexpected: {weight_files.join_names(unexpected)}")
    wrong = []
    for name in sorted(used.keys() & places.keys()):
        expected = _their_shape(shapes[places[name].leaf], places[name])
        if used[name] != expected:
            wrong.append(f"{name} has shape {used[name]}, expected {expected}")
    if wrong:
        faults.append(weight_files.join_names(wrong, "; "))
    if faults:
        raise ValueError(f"{where} does not fit the network: {'; '.join(faults)}")


def _their_shape(ours: tuple[int, ...], place: Place) -> tuple[int, ...]:
    ours = ours if place.layer is None else ours[1:]
    if place.axes is None:
        return ours
    return tuple(ours[place.axes.index(k)] for k in range(len(ours)))
