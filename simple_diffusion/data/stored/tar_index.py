"""The index of a shard, a tar file of samples: where the files of each sample are.

Samples are as in WebDataset: the files with a common key, which is the path up to the
first dot of the base name. What follows the dot says what a file is:

  jpg, jpeg, png, webp     the image
  txt                      the caption
  json                     an object with `caption` or `text`, `label`, and `objects` in
                           the form of metadata.py
  cls                      the class number
  NAME.png, NAME.npy, ...  the map NAME

An index is built by one pass over the headers, and kept in a file.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64, Shaped

from simple_diffusion.core import files
from simple_diffusion.data.stored import field_names, metadata, tar_members

IMAGE, CAPTION, JSON, CLASS = "image", "txt", "json", "cls"
_IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
_MAP_SUFFIXES = _IMAGE_SUFFIXES | {"npy"}
_CAPTION_KEYS = ("caption", "text")
_ABSENT = (0, -1)
_VERSION = 1
_SUFFIX = ".index.npz"
_MEMBERS_BETWEEN_REPORTS = 200


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard.

    keys: of the samples, as bytes, in the order of their first files.
    places: what a file is -> offset and size in bytes of that file of each sample; the
      size is -1 if a sample has none. A map is "map:NAME".
    label: place of each sample's class in `labels`; -1 if it has none.
    labels: all different classes, as texts.
    categories: all different classes of objects, as texts.
    fields: of any sample, named as in field_names.py.
    without_image: keys of samples without an image, which are left out.
    damage: what cannot be read; empty if all can.
    """

    keys: Shaped[np.ndarray, "n"]
    places: dict[str, Int64[np.ndarray, "n 2"]]
    label: Int64[np.ndarray, "n"]
    labels: list[str]
    categories: list[str]
    fields: list[str]
    without_image: list[str]
    damage: str

    def __len__(self) -> int:
        return len(self.keys)


def load_or_build(path: Path, report: Callable[[int], None]) -> ShardIndex:
    """Returns the index of a shard: the stored one, if the shard is as it was.

    A new one is stored beside the shard or, if that is not possible, in the cache
    folder of the user.

    Args:
      path: the shard.
      report: called with the number of bytes that are done, while it is built.

    Raises:
      OSError: if the shard cannot be read.
    """
    status = path.stat()
    identity = [_VERSION, path.name, status.st_size, status.st_mtime_ns]
    places = [path.with_name(path.name + _SUFFIX), _find_cache(path)]
    for place in places:
        if (found := _load(place, identity)) is not None:
            return found
    with path.open("rb") as file:
        index = build(file, report)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _save(place, index, identity)
            break
        except OSError:
            continue  # it is built again the next time
    return index


def build(file: BinaryIO, report: Callable[[int], None]) -> ShardIndex:
    """Returns the index of an open shard; reports the bytes that are done."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    damage = []
    for number, member in enumerate(tar_members.list_members(file)):
        if isinstance(member, tar_members.Damage):
            damage.append(f"{member.reason} (byte {member.offset:,})")
            continue
        key, kind = split_name(member.name)
        if kind is not None:
            samples.setdefault(key, {}).setdefault(kind, member[1:])
        if number % _MEMBERS_BETWEEN_REPORTS == 0:
            report(member.offset)
    complete = {key: kinds for key, kinds in samples.items() if IMAGE in kinds}
    facts = [_read_facts(file, kinds) for kinds in complete.values()]
    labels = sorted({fact.label for fact in facts if fact.label is not None})
    number_of = {label: k for k, label in enumerate(labels)} | {None: -1}
    present = {kind for kinds in complete.values() for kind in kinds}
    fields = {kind for kind in present if kind.startswith(field_names.MAP)}
    fields |= {name for fact in facts for name in fact.fields}
    return ShardIndex(
        keys=np.array([os.fsencode(key) for key in complete], np.bytes_),
        places={
            kind: np.array(
                [kinds.get(kind, _ABSENT) for kinds in complete.values()], np.int64
            ).reshape(-1, 2)
            for kind in sorted(present - {CLASS})
        },
        label=np.array([number_of[fact.label] for fact in facts], np.int64),
        labels=labels,
        categories=sorted({c for fact in facts for c in fact.categories}),
        fields=sorted(fields | {"image"}),
        without_image=[key for key in samples if key not in complete],
        damage="; ".join(damage),
    )


def split_name(name: str) -> tuple[str, str | None]:
    """Returns the key of a file in a shard, and what it is; None if it is not used."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    if not stem:
        return name, None  # hidden
    key, kind = f"{folder}{slash}{stem}", suffix.lower()
    if kind in _IMAGE_SUFFIXES:
        return key, IMAGE
    if kind in (CAPTION, JSON, CLASS):
        return key, kind
    label, dot, last = suffix.rpartition(".")
    if dot and last.lower() in _MAP_SUFFIXES:
        return key, f"{field_names.MAP}{label}"
    return key, None


def find_caption(facts: Any) -> Any:
    """Returns the caption of the content of a .json file; None if there is none."""
    if isinstance(facts, dict):
        for key in _CAPTION_KEYS:
            if facts.get(key) is not None:
                return facts[key]
    return None


@dataclasses.dataclass(frozen=True)
class _Facts:
    label: str | None
    categories: list[str]
    fields: set[str]


def _read_facts(file: BinaryIO, kinds: dict[str, tuple[int, int]]) -> _Facts:
    """Returns what the small files of a sample say; invalid ones say nothing here."""
    fields = {"caption"} if CAPTION in kinds else set()
    label, categories = None, []
    if JSON in kinds:
        facts = _parse_json(_read(file, kinds[JSON]))
        if find_caption(facts) is not None:
            fields.add("caption")
        if isinstance(facts, dict) and facts.get("objects") is not None:
            fields.add("objects")
            categories = [str(c) for c in metadata.list_categories(facts["objects"])]
        value = facts.get("label") if isinstance(facts, dict) else None
        label = str(value) if isinstance(value, str | int) else None
    if CLASS in kinds:
        label = _read(file, kinds[CLASS]).decode("utf-8", "replace").strip() or None
    if label is not None:
        fields.add("label")
    return _Facts(label, categories, fields)


def _parse_json(encoded: bytes) -> Any:
    try:
        return json.loads(encoded)
    except ValueError:  # reading the sample reports it
        return None


def _read(file: BinaryIO, place: tuple[int, int]) -> bytes:
    offset, size = place
    return os.pread(file.fileno(), size, offset)


def _find_cache(path: Path) -> Path:
    """Returns the file for the index of a shard in the cache folder of the user."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return Path(folder) / "simple_diffusion" / f"{path.name}-{digest}{_SUFFIX}"


def _save(place: Path, index: ShardIndex, identity: list[Any]) -> None:
    arrays: dict[str, Any] = {"keys": index.keys, "label": index.label}
    arrays |= {f"place {kind}": values for kind, values in index.places.items()}
    facts = dataclasses.asdict(dataclasses.replace(index, places={}))
    for name in ("keys", "label", "places"):
        del facts[name]
    note = json.dumps({"identity": identity, **facts})
    with files.open_atomic(place) as file:
        np.savez(file, note=np.array(note), **arrays)


def _load(place: Path, identity: list[Any]) -> ShardIndex | None:
    """Returns a stored index, or None if there is none of this shard as it is."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            facts = json.loads(str(stored["note"]))
            if facts.pop("identity") != identity:
                return None
            places = {
                name.removeprefix("place "): stored[name]
                for name in stored.files
                if name.startswith("place ")
            }
            keys, label = stored["keys"], stored["label"]
            return ShardIndex(keys=keys, places=places, label=label, **facts)
    except Exception:  # missing or damaged, in one of many ways: it is built again
        return None
