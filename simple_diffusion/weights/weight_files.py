"""Files of named arrays: published weights, and converted ones.

Published weights are files of PyTorch (.pth), safetensors, .npz, or frozen graphs of
TensorFlow (.pb). `read` detects the format from the content, since names of downloads
are unreliable. Networks are loaded from converted .npz files, see
simple_diffusion/modes/convert.py.
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
_MAX_NAMES = 12  # in a message


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of weights, by name.

    Args:
      path: a local file in any of the formats above. Values of a state_dict that are no
        arrays are dropped, and so is everything in a graph except numeric constants.

    Raises:
      ValueError: for a file of another format, or a damaged one.
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
        f"{path} is not a file of weights: it must be a PyTorch file, safetensors, "
        ".npz or a frozen graph of TensorFlow"
    )


def load(path: str | Path, content: str, command: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a converted .npz file.

    Args:
      path: a local file.
      content: what it should hold, for messages.
      command: the command that writes it, for messages.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: create {content} with {command}")
    try:
        return _arrays(path)
    except Exception as error:  # NumPy raises many types for other files
        raise ValueError(
            f"{path} cannot be read as .npz ({error}): create {content} with {command}"
        ) from error


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file atomically.

    Raises:
      OSError: if it cannot be written.
    """
    with files.open_atomic(path) as file:  # to a path NumPy would append .npz
        np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType]


def check_arrays(
    where: str, arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError if arrays are missing or have other shapes, naming them.

    Args:
      where: the source of the arrays, for the message.
      arrays: the arrays; others than the expected ones are allowed.
      expected: names and shapes.
    """
    missing = [
        name for name in expected if not isinstance(arrays.get(name), np.ndarray)
    ]
    if missing:
        raise ValueError(f"{where} lacks {join_names(missing, ', ')}")
    wrong = [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"{where}: {join_names(wrong, '; ')}")


def check_finite(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if any number is not finite, naming the arrays."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(
            f"{where} has numbers that are not finite in {join_names(bad)}"
        )


def join_names(words: list[str], separator: str = ", ") -> str:
    """Returns the first names, and how many more there are, for a message."""
    rest = len(words) - _MAX_NAMES
    first = separator.join(words[:_MAX_NAMES])
    return f"{first} and {rest} more" if rest > 0 else first


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # truncated, which the PyTorch reader reports


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return _arrays(path)
    except Exception as error:  # NumPy raises many types for damaged files
        raise ValueError(f"{path} is damaged: {error}") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        # NumPy returns the members of other zip archives as bytes.
        return {k: v for k, v in file.items() if isinstance(v, np.ndarray)}


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    tree = torch_file.read(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, and no state_dict")
    return {k: v for k, v in tree.items() if isinstance(v, np.ndarray)}


def _is_safetensors(head: bytes, size: int) -> bool:
    """Returns whether the file starts with a plausible header length and a brace."""
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # its own types, or NumPy's for unsupported dtypes
        raise ValueError(
            f"{path} is damaged, or has an unsupported dtype: {error}"
        ) from error
