"""Files of arrays by name: those that weights are published in, and our own.

Published weights come as files of PyTorch (.pth), as safetensors, as .npz, or inside a
frozen graph of TensorFlow (.pb). `read` tells by the content which it is, since names
and suffixes of downloads are anyone's. What a network is loaded from is a file of our
own, an .npz that a command made of one of those.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from simple_diffusion.core import files
from simple_diffusion.weights import frozen_graph, torch_file

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_NODE = b"\x0a"  # the tag of a graph's first field
_NAMED_AT_ONCE = 12


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of weights, by name.

    Args:
      path: a local file of any of the kinds above. Plain values beside the arrays of a
        state_dict are dropped, and so is of a graph all but its constant numbers.

    Raises:
      ValueError: for a file of another kind, or a damaged one.
      OSError: if there is no such file, or it cannot be read.
    """
    path = Path(path).expanduser()
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_ZIP) and _is_npz(path):
        return _read_npz(path)
    if head.startswith((_ZIP, _PICKLE)):
        return _read_state_dict(path)
    if _is_safetensors(head, path.stat().st_size):
        return _read_safetensors(path)
    if head.startswith(_NODE):
        return frozen_graph.read(path)
    raise ValueError(
        f"{path} is no file of weights: neither of PyTorch nor safetensors, .npz or a "
        "frozen graph of TensorFlow"
    )


def load(path: str | Path, what: str, how: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file of our own.

    Args:
      path: a local file.
      what: what it should hold, for messages.
      how: the command that makes it.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another kind.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: {what} are made by {how}")
    try:
        return _arrays(path)
    except Exception as error:  # whatever NumPy makes of a file of another kind
        raise ValueError(
            f"{path} cannot be read as .npz ({error}): {what} are made by {how}"
        ) from error


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file; a reader never sees one that is only half written.

    Raises:
      OSError: if it cannot be written.
    """
    with files.replacing(path) as file:  # to a name NumPy would add .npz
        np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType]


def check_arrays(
    where: str, arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError if arrays are missing or of other shapes, naming them.

    Args:
      where: what the message calls the place they come from.
      arrays: what is there, which may be more.
      expected: names and shapes.
    """
    missing = [
        name for name in expected if not isinstance(arrays.get(name), np.ndarray)
    ]
    if missing:
        raise ValueError(f"{where} lacks {_listed(missing, ', ')}")
    differing = [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    if differing:
        raise ValueError(f"{where}: {_listed(differing, '; ')}")


def check_finite(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if any number is not finite, naming the arrays."""
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(
            f"{where} has numbers that are not finite in {_listed(broken)}"
        )


def _listed(words: list[str], between: str = ", ") -> str:
    rest = len(words) - _NAMED_AT_ONCE
    first = between.join(words[:_NAMED_AT_ONCE])
    return f"{first} and {rest} more" if rest > 0 else first


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # it is cut short, which the reader of PyTorch's says


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return _arrays(path)
    except Exception as error:  # whatever NumPy makes of a damaged file
        raise ValueError(f"{path} is damaged: {error}") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        # Of other zip archives NumPy gives the members as bytes.
        return {k: v for k, v in file.items() if isinstance(v, np.ndarray)}


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    tree = torch_file.read(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, and no state_dict")
    return {k: v for k, v in tree.items() if isinstance(v, np.ndarray)}


def _is_safetensors(head: bytes, size: int) -> bool:
    """Returns whether the length of a header, and the header's brace, come first."""
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # of its own, or of NumPy at a type that it lacks
        raise ValueError(
            f"{path} is damaged, or of a type that is not read: {error}"
        ) from error
