"""The examples that records are prepared from: of a folder, tar shards or TFDS."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

from simple_diffusion.core import console
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import folder, protocols, tar_source, tfds_source
from simple_diffusion.data.stored import field_names
from simple_diffusion.data.stored.examples import StoredExample

_SPLIT_NAMES = frozenset("train training val valid validation test testing".split())


@dataclasses.dataclass(frozen=True)
class Originals:
    """The examples of a folder, of tar shards or of TFDS, all splits together.

    names: of all images, in order, all different.
    class_names: the classes; empty if there are none.
    holdout_from: the images from this one on are held out; None if the names decide.
    read: index -> the example, called by its name; raises BadImage.
    other_fields: of the examples besides image and class, as in `field_names`.
    category_names: the classes of the objects.
    """

    names: Sequence[str]
    class_names: tuple[str, ...]
    holdout_from: int | None
    read: Callable[[int], StoredExample]
    other_fields: tuple[str, ...] = ()
    category_names: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Returns a text that changes if images or classes are added or removed."""
        parts = [*self.class_names, "", *self.names, str(self.holdout_from)]
        parts += self.other_fields
        return hashlib.sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()


class _StoredSource(Protocol):
    """What the sources of stored examples have in common."""

    class_names: tuple[str, ...]
    category_names: tuple[str, ...]

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read_stored(self, index: int) -> StoredExample: ...
    def select_fields(self, wanted: Set[str]) -> "_StoredSource": ...


def open_originals(
    spec: str,
    data_dir: str | None,
    kept_fields: Set[str] | None = None,
    tfds_fields: str | None = None,
) -> Originals:
    """Returns the examples that `--input` names.

    Args:
      spec: "folder:PATH", "tar:PATH" or "tfds:NAME".
      data_dir: the folder of prepared TFDS datasets.
      kept_fields: the fields to read besides image and class; None for all.
      tfds_fields: as `data.tfds_fields`.

    Raises:
      DataError: if it is unknown, missing or empty, or lacks a field.
    """
    kind, _, name = spec.partition(":")
    if kind == "folder" and name:
        return _open_folder(Path(name).expanduser(), kept_fields)
    if kind == "tar" and name:
        return _open_tar(name, kept_fields)
    if kind == "tfds" and name:
        return _open_tfds(name, data_dir, kept_fields, tfds_fields)
    hint = f"; for this folder write folder:{spec}" if Path(spec).is_dir() else ""
    raise DataError(f"--input {spec} must be folder:PATH, tar:PATH or tfds:NAME{hint}")


def _open_folder(root: Path, kept: Set[str] | None) -> Originals:
    """Returns the examples of a folder, by path."""
    source = folder.FolderSource(root, "all", flag="--input ")
    names = source.class_names
    if names and _SPLIT_NAMES.issuperset(names):
        console.print_once(
            f"the subfolders of {root} are taken for classes, and are called "
            f"{', '.join(names)}; if they are splits, give the folder of one of "
            f"them, such as folder:{root / names[0]}"
        )
    paths = [source.relative_path(k) for k in range(len(source))]
    return _join([source], paths, None, kept)


def _open_tar(pattern: str, kept: Set[str] | None) -> Originals:
    """Returns the samples of tar shards, by key: by shard and key if keys repeat."""
    source = tar_source.TarSource(pattern, "all", flag="--input ")
    names = [source.key(k) for k in range(len(source))]
    if len(set(names)) < len(names):
        names = [source.relative_path(k) for k in range(len(source))]
    if len(set(names)) < len(names):
        names = [source.name(k) for k in range(len(source))]
    return _join([source], names, None, kept)


def _open_tfds(
    name: str, data_dir: str | None, kept: Set[str] | None, tfds_fields: str | None
) -> Originals:
    """Returns the examples of a prepared dataset: first for training, then held out."""
    parts = [
        tfds_source.TfdsSource(name, data_dir, split, fields=tfds_fields)
        for split in ("train", "holdout")
    ]
    names = [part.name(k) for part in parts for k in range(len(part))]
    return _join(parts, names, len(parts[0]), kept)


def _join(
    parts: Sequence[Any], names: list[str], cut: int | None, kept: Set[str] | None
) -> Originals:
    """Returns the examples of one source, or of two of which the second is held out."""
    first = parts[0]
    listed = protocols.list_fields(first)
    wanted = listed if kept is None else kept | {"label"}
    protocols.check_fields(first, wanted - {"label"}, "--fields")
    sources: list[_StoredSource] = [part.select_fields(wanted) for part in parts]
    fields = field_names.select_wanted(listed, wanted) - {"image", "label"}

    def read(index: int) -> StoredExample:
        held_out = cut is not None and index >= cut
        source, place = sources[held_out], index - (cut or 0) * held_out
        name = names[index]
        try:
            return dataclasses.replace(source.read_stored(place), name=name)
        except BadImage as error:
            reason = str(error).removeprefix(f"{source.name(place)}: ")
            raise BadImage(name, reason) from error

    return Originals(
        names,
        first.class_names,
        cut,
        read,
        tuple(sorted(fields)),
        first.category_names if "objects" in fields else (),
    )
