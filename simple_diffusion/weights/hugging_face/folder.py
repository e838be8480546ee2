"""A folder with a network: config.json, and safetensors in one file or in shards."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a network, which stay on disk until they are read.

    Fields:
      where: the folder, for messages.
      files: of each tensor.
      shapes: of each tensor.
    """

    where: str
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields names and arrays, file by file, of which one is open at a time."""
        for path in sorted(set(self.files.values())):
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, file.get_tensor(name)

    def read_start(self, name: str) -> np.ndarray:
        """Returns the first row of a tensor."""
        with safetensors.safe_open(self.files[name], framework="numpy") as file:
            if not self.shapes[name]:
                return np.asarray(file.get_tensor(name))
            return np.asarray(file.get_slice(name)[:1])


def read_config(folder: str | Path) -> dict[str, Any]:
    """Returns the config.json of a folder.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged.
    """
    path = Path(folder).expanduser() / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: it states the sizes of the network")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object")
    return config


def open_tensors(
    folder: str | Path, stem: str = "model", variant: str | None = None
) -> Tensors:
    """Returns the tensors of a folder; reads only the heads of its files.

    Args:
      folder: a local one.
      stem: of the file's name, "model" or "diffusion_pytorch_model".
      variant: such as "fp16", for model.fp16.safetensors.

    Raises:
      FileNotFoundError: if the file, or a shard that the index names, is missing.
      ValueError: for a damaged file, or an index that does not agree with its shards.
    """
    folder = Path(folder).expanduser()
    ending = f".{variant}" if variant else ""
    single = folder / f"{stem}{ending}.safetensors"
    index = folder / f"{stem}.safetensors.index{ending}.json"
    if single.is_file():
        return _open_files(folder, [single])
    if index.is_file():
        return _open_shards(folder, index)
    found = sorted(p.name for p in folder.glob("*") if p.is_file())
    pickled = [name for name in found if name.endswith((".bin", ".ckpt", ".pth"))]
    raise FileNotFoundError(
        f"{folder} has no {single.name} and no {index.name}"
        + (f"; {', '.join(pickled)} must be saved as safetensors" if pickled else "")
        + ("" if pickled else f"; it has {', '.join(found) or 'no files'}")
    )


def _open_shards(folder: Path, index: Path) -> Tensors:
    try:
        stated = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = {folder / Path(name).name for name in stated.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged: {error!r}") from None
    missing = sorted(path.name for path in shards if not path.is_file())
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of {index.name}")
    tensors = _open_files(folder, sorted(shards))
    found = {name: path.name for name, path in tensors.files.items()}
    wrong = sorted({name for name, _ in found.items() ^ stated.items()})
    if wrong:
        raise ValueError(
            f"{index} does not agree with its shards about {len(wrong)} tensors, such "
            f"as {', '.join(wrong[:3])}"
        )
    return tensors


def _open_files(folder: Path, paths: list[Path]) -> Tensors:
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    files[name] = path
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except Exception as error:  # its own type
            raise ValueError(f"{path} is damaged: {error}") from error
    return Tensors(str(folder), files, shapes)
