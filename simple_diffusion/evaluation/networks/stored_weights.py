"""Weights that were trained here, kept in a file with a description of how.

A file is used only if its description is the wanted one and its digest that of its
arrays, so that neither other settings nor a damaged file can go unnoticed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from simple_diffusion.core import files
from simple_diffusion.core.types import Params

# Options of the compiler for training: reproducible on a GPU from run to run; other
# platforms are so by default.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}


def digest(params: Params) -> str:
    """Returns a hash of the arrays of a tree and their names, 12 hexadecimal digits."""
    total = hashlib.sha256()
    for name, array in sorted(_flatten(params).items()):
        total.update(f"{name} {array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:12]


def save(params: Params, about: Mapping[str, Any], path: epath.PathLike) -> None:
    """Writes weights as .npz, atomically.

    Args:
      params: a tree of arrays.
      about: their description, as plain JSON.
      path: of the file.
    """
    path = epath.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"about": np.array(_to_text(about))}
    arrays |= {"digest": np.array(digest(params)), **_flatten(params)}
    with files.open_atomic(path) as file:  # to a path NumPy would append .npz
        np.savez(file, **arrays)


def load(path: epath.PathLike, about: Mapping[str, Any]) -> Params | None:
    """Returns saved weights, or None if they must be trained.

    None is for a missing, unreadable or damaged file, or one of another description.

    Args:
      path: of the file.
      about: the description that it must have.
    """
    try:
        # Opened here, because NumPy does not close a file that is no archive.
        with epath.Path(path).expanduser().open("rb") as file:
            flat = dict(np.load(file, allow_pickle=False))
    except Exception:  # NumPy raises many types for other files
        return None
    found, stated = (str(flat.pop(key, "")) for key in ("about", "digest"))
    params = traverse_util.unflatten_dict(flat, sep=".")
    # The digest also covers names, shapes and types.
    if found != _to_text(about) or stated != digest(params):
        return None
    return params


def _flatten(params: Params) -> dict[str, np.ndarray]:
    return {
        k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep=".").items()
    }


def _to_text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)
