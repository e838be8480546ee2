"""Features of captions by a frozen text encoder, stored beside the records.

The subfolder text_features/ of a prepared dataset holds

  00000.array_record ...   one file for each shard of the records, with one record for
                           each image: its tokens, [n, features] float16. Only tokens
                           that count are stored, so the length of a record tells n.
  manifest.json            the encoder with its digest, and every file with its size
                           and checksum

The manifest is written last. In an `Example` they are the vector `text_features`, the
tokens one after the other: [n * features].
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import shards

VECTOR = "text_features"  # in `Example.vectors`
FIELD = f"vector:{VECTOR}"
FOLDER = "text_features"
VERSION = 1
DTYPE = np.dtype("<f2")
_MAX_OPEN_SHARDS = 128  # beside those of the records, see records_source.py


@dataclasses.dataclass(frozen=True)
class TextEncoding:
    """The encoder that made features, as it is kept with the records and with a run.

    digest: of its weights and its tokenizer.
    name: of its folder, for messages.
    features: of each token.
    length: largest number of tokens of a caption.
    dtype: of its computation.
    """

    digest: str
    name: str
    features: int
    length: int
    dtype: str

    def __str__(self) -> str:
        return (
            f"{self.name} (digest {self.digest[:12]}, {self.features} features, "
            f"{self.length} tokens, {self.dtype})"
        )

    def is_same(self, other: "TextEncoding") -> bool:
        """Returns whether two differ in no more than the name of the folder."""
        return dataclasses.replace(self, name=other.name) == other


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The description of the features of a dataset.

    encoding: the encoder.
    records: fingerprint of the records that they belong to.
    files: one for each shard of the records, in the same order.
    """

    encoding: TextEncoding
    records: str
    files: tuple[shards.Shard, ...]

    def to_json(self) -> str:
        """Returns the text of the file."""
        content = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1)


class StoredFeatures:
    """The features of a prepared dataset.

    encoding: the encoder that made them.
    """

    def __init__(self, root: epath.Path, manifest: Manifest):
        self.encoding = manifest.encoding
        paths = [root / FOLDER / shard.file for shard in manifest.files]
        self._open_shard = functools.lru_cache(_MAX_OPEN_SHARDS)(
            lambda k: shards.open_shard(paths[k])
        )

    def read(self, shard: int, offset: int) -> Float[np.ndarray, "_"]:
        """Returns the tokens of one image, one after the other.

        Args:
          shard: number of the shard of records that holds the image.
          offset: of the image in it.

        Raises:
          RuntimeError: the record is damaged.
        """
        (record,) = self._open_shard(shard).read([offset])
        return np.frombuffer(record, DTYPE)


def open_features(root: epath.Path, records: shards.Manifest) -> StoredFeatures | None:
    """Returns the features of a prepared dataset; None if it has none.

    Raises:
      DataError: they are damaged, or were made for other records.
    """
    manifest = load(root)
    if manifest is None:
        return None
    check_records(root, manifest, records)
    damaged = shards.find_damage(root / FOLDER, manifest.files)
    if damaged:
        file, fault = next(iter(damaged.items()))
        raise DataError(
            f"{root / FOLDER / file} {fault}. Write it again by: "
            f"{prepare_command(root)}"
        )
    return StoredFeatures(root, manifest)


def prepare_command(root: Any, source: str = "") -> str:
    """Returns the command that computes features, for messages.

    Args:
      root: folder of the records.
      source: `data.source`, if the records themselves must be prepared.
    """
    given = f" --input {source}" if source else ""
    return (
        f"python -m simple_diffusion.modes.prepare{given} --output {root} "
        "--text_encoder FOLDER"
    )


def check(root: epath.PathLike, *, report: Callable[[str], None] = print) -> None:
    """Compares the files of features, if there are any, with their checksums.

    Raises:
      DataError: if any is not as it was written; the message names it.
    """
    root = epath.Path(root).expanduser()
    manifest = load(root)
    if manifest is None:
        return
    report(f"comparing checksums of {len(manifest.files)} files of text features")
    folder = root / FOLDER
    damaged = shards.find_damage(folder, manifest.files, checksums=True)
    if damaged:
        shown = "; ".join(f"{file} {fault}" for file, fault in damaged.items())
        raise DataError(
            f"{folder} is not as it was written: {shown}. Write it again by: "
            f"{prepare_command(root)} --verify"
        )


def load(root: epath.Path) -> Manifest | None:
    """Returns the description of the features in a prepared dataset, or None.

    Raises:
      DataError: it is damaged, or of another version.
    """
    path = root / FOLDER / shards.MANIFEST
    try:
        content = json.loads(path.read_text())
        if content["version"] == VERSION:
            return Manifest(
                TextEncoding(**content["encoding"]),
                content["records"],
                tuple(shards.Shard(**shard) for shard in content["files"]),
            )
        version = content["version"]
        problem = f"is of version {version}, and this program reads {VERSION}"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"is damaged ({type(error).__name__}: {error})"
    raise DataError(f"{path} {problem}. Delete {path.parent} and compute it again")


def make_manifest(
    encoding: TextEncoding, records: shards.Manifest, files: tuple[shards.Shard, ...]
) -> Manifest:
    """Returns the description of the features of records."""
    return Manifest(encoding, _fingerprint(records), files)


def check_records(
    root: epath.Path, manifest: Manifest, records: shards.Manifest
) -> None:
    """Raises DataError if the features were computed of other records."""
    if manifest.records != _fingerprint(records):
        raise DataError(
            f"{root / FOLDER} holds features of other captions than those of the "
            f"records. Delete this folder, then run: {prepare_command(root)}"
        )


def _fingerprint(records: shards.Manifest) -> str:
    parts = [shard.sha256 for shard in records.shards]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
