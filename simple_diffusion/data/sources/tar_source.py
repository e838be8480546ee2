"""Samples in tar files, as WebDataset and img2dataset write them: read in place.

See stored/tar_index.py for what a sample is. Any sample is found by its number, so the
order of the examples, and resuming, are those of every other source.
"""

import copy
import functools
import hashlib
import io
import json
import logging
import os
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np

from simple_diffusion.core import console
from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, DataError, format_path
from simple_diffusion.data.stored import (
    examples,
    field_names,
    image_paths,
    metadata,
    shard_paths,
    tar_index,
)
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)

# Shards that are open at a time; systems usually allow 1024 open files.
_MAX_OPEN_SHARDS = 256
_MEGABYTE = 1_000_000


class TarSource:
    """The samples of tar files, or the part of them that is held out.

    Args:
      pattern: a tar file, a folder of them, or a pattern; see `shard_paths`.
      split: "train", "holdout", or "all" for both.
      holdout_fraction: share held out, in [0, 1). The split of a sample depends on its
        key alone, so adding shards, or dividing them differently, moves none.
      crop_box: the part to use of every image, see `decode.decode`.
      channels: of the images, see `decode.decode`.
      flag: the config key or flag that names the source, for messages.

    Raises:
      DataError: if there is no such file, or no sample in any.
    """

    def __init__(
        self,
        pattern: str,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
        channels: int = 3,
        flag: str = "data.source=",
    ):
        key = f"{flag}tar:{pattern}"
        self._crop_box, self.channels = crop_box, channels
        self._shards = shard_paths.find_shards(pattern, key)
        indices = _load_indices(self._shards, key)
        fields = {field for index in indices for field in index.fields}
        self.fields = field_names.to_source_fields(fields)
        self.map_classes = {name: () for name in field_names.list_maps(fields)}
        self.class_names = metadata.name_classes(v for i in indices for v in i.labels)
        self.category_names = metadata.name_classes(
            v for i in indices for v in i.categories
        )
        self._wanted = self._listed = frozenset(fields)
        self._keys = np.concatenate([index.keys for index in indices])
        self._places = _join_places(indices)
        self._labels = _join_labels(indices, self.class_names)
        counts = [len(index) for index in indices]
        self._shard_of = np.repeat(np.arange(len(indices)), counts)
        self._numbers = _select_split(self._keys, split, holdout_fraction)
        # A thread that still reads from an evicted shard keeps it open.
        self._open_shard = functools.lru_cache(_MAX_OPEN_SHARDS)(
            lambda k: _OpenFile(self._shards[k])
        )
        log.info(
            "%s: %d samples in %d shards, %d of them for %s; %d classes; fields: %s",
            key,
            len(self._keys),
            len(self._shards),
            len(self),
            split,
            len(self.class_names),
            ", ".join(sorted(fields)),
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example; see `protocols.Source`."""
        return examples.read(
            self.read_stored(index), resolution, self._crop_box, self.channels
        )

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns a part of an example; see `protocols.CropSource`."""
        return examples.read_crop(
            self.read_stored(index), choose, self._crop_box, self.channels
        )

    def select_fields(self, wanted: Set[str]) -> "TarSource":
        """Returns the same source without some fields; see `SelectiveSource`."""
        other = copy.copy(self)
        other._wanted = field_names.select_wanted(self._listed, wanted)
        return other

    def key(self, index: int) -> str:
        """Returns the key of a sample."""
        return self._find(int(self._numbers[index]))[1]

    def relative_path(self, index: int) -> str:
        """Returns the name of the shard and the key of a sample."""
        shard, key = self._find(int(self._numbers[index]))
        return f"{shard.name}/{key}"

    def name(self, index: int) -> str:
        """Returns the path of the shard and the key of a sample, as text."""
        shard, key = self._find(int(self._numbers[index]))
        return format_path(f"{shard}: {key}")

    def fingerprint(self) -> str:
        """Returns a digest of names and sizes; see `protocols.StoredSource`."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update(os.fsencode(f"{shard.name} {shard.stat().st_size}\n"))
        digest.update(self._keys[self._numbers].tobytes())
        return digest.hexdigest()[:12]

    def read_stored(self, index: int) -> examples.StoredExample:
        """Returns an example as it is stored, with the fields that are wanted."""
        number, name, wanted = int(self._numbers[index]), self.name(index), self._wanted
        image = self._read_file(number, tar_index.IMAGE, name, "image")
        assert image is not None
        caption = boxes = None
        if "caption" in wanted:
            caption = self._read_file(number, tar_index.CAPTION, name, "caption")
            if caption is None:
                caption = tar_index.find_caption(self._read_facts(number, name))
            caption = examples.check_caption(caption, name)
        if "objects" in wanted:
            boxes = self._read_boxes(number, name)
        maps = {}
        for key in field_names.list_maps(wanted):
            encoded = self._read_file(number, f"map:{key}", name, f"map {key}")
            if encoded is None:
                raise BadImage(name, f"map {key}: missing")
            maps[key] = encoded
        label = int(self._labels[number])
        if label < 0 and "label" in wanted:
            raise BadImage(name, "label: missing, or no class")
        return examples.StoredExample(
            io.BytesIO(image), name, max(label, 0), caption, boxes, maps
        )

    def _find(self, number: int) -> tuple[Path, str]:
        """Returns the shard and the key of a sample."""
        shard = self._shards[int(self._shard_of[number])]
        return shard, os.fsdecode(self._keys[number].item())

    def _read_boxes(self, number: int, name: str) -> examples.Boxes:
        facts = self._read_facts(number, name)
        objects = facts.get("objects") if isinstance(facts, dict) else None
        try:
            return metadata.to_boxes(objects, self.category_names)
        except ValueError as error:
            raise BadImage(name, f"objects: {error}") from None

    def _read_facts(self, number: int, name: str) -> Any:
        """Returns the content of the .json file of a sample; None if it has none."""
        encoded = self._read_file(number, tar_index.JSON, name, "json")
        if encoded is None:
            return None
        try:
            return json.loads(encoded.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise BadImage(name, f"json: {error}") from None

    def _read_file(self, number: int, kind: str, name: str, field: str) -> bytes | None:
        """Returns a file of a sample, None if it has none; raises BadImage."""
        if kind not in self._places:
            return None
        offset, size = (int(v) for v in self._places[kind][number])
        if size < 0:
            return None
        try:
            file = self._open_shard(int(self._shard_of[number]))
            data = os.pread(file.handle, size, offset)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise BadImage(name, f"{field}: {reason}") from error
        if len(data) < size:
            raise BadImage(name, f"{field}: the shard is shorter than it was")
        return data


class _OpenFile:
    """A file that is closed when nobody uses it any more."""

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "handle"):
            os.close(self.handle)


def _load_indices(shards: list[Path], key: str) -> list[tar_index.ShardIndex]:
    """Returns the indices of all shards; builds those that are missing."""
    try:
        sizes = [shard.stat().st_size for shard in shards]
    except OSError as error:
        raise DataError(f"{key}: {error.filename}: {error.strerror}") from error
    indices, done = [], 0
    total = max(sum(sizes) // _MEGABYTE, 1)
    with console.show_progress("indexing tar files", total, "MB") as show:
        for shard, size in zip(shards, sizes, strict=True):

            def report(position: int, before: int = done) -> None:
                show((before + position) // _MEGABYTE)

            try:
                indices.append(tar_index.load_or_build(shard, report))
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise DataError(f"{key}: {format_path(shard)}: {reason}") from error
            done += size
            show(done // _MEGABYTE)
    _warn(shards, indices, key)
    return indices


def _warn(shards: list[Path], indices: list[tar_index.ShardIndex], key: str) -> None:
    """Names damaged shards, and counts incomplete samples; raises if none is left."""
    for shard, index in zip(shards, indices, strict=True):
        if index.damage:
            console.print_once(
                f"{key}: {format_path(shard)} is damaged: {index.damage}; "
                f"its {len(index)} samples that can be read are used"
            )
    incomplete = [
        f"{shard.name}: {name}"
        for shard, index in zip(shards, indices, strict=True)
        for name in index.without_image
    ]
    if incomplete:
        console.print_once(
            f"{key}: {len(incomplete)} samples have no image and are left out, such as "
            f"{format_path(incomplete[0])}"
        )
    if not any(len(index) for index in indices):
        raise DataError(
            f"{key}: no sample in {len(shards)} tar files, such as "
            f"{format_path(shards[0])}; a sample has an image KEY.jpg, KEY.png or "
            "KEY.webp, and KEY.txt, KEY.json or KEY.cls beside it"
        )


def _join_places(indices: list[tar_index.ShardIndex]) -> dict[str, np.ndarray]:
    """Returns the places of the files of all shards, one after the other."""
    kinds = sorted({kind for index in indices for kind in index.places})
    return {
        kind: np.concatenate(
            [
                index.places.get(kind, np.tile(np.array([0, -1]), (len(index), 1)))
                for index in indices
            ]
        )
        for kind in kinds
    }


def _join_labels(
    indices: list[tar_index.ShardIndex], class_names: tuple[str, ...]
) -> np.ndarray:
    """Returns the class numbers of all samples; -1 for none."""
    number_of = {name: k for k, name in enumerate(class_names)}
    parts = []
    for index in indices:
        numbers = [number_of.get(label, -1) for label in index.labels]
        parts.append(np.array([*numbers, -1])[index.label])
    return np.concatenate(parts)


def _select_split(keys: np.ndarray, split: str, fraction: float) -> np.ndarray:
    """Returns the numbers of the samples of one split, in order."""
    numbers = np.arange(len(keys))
    if split == "all":
        return numbers
    unique, group = np.unique(keys, return_inverse=True)
    names = [os.fsdecode(key) for key in unique.tolist()]
    chosen = set(image_paths.select_split(names, split, fraction))
    is_chosen = np.fromiter((name in chosen for name in names), bool, len(names))
    return numbers[is_chosen[group]]
