"""Computes the features of the captions of a prepared dataset, once.

The encoder is a function that is passed in: no network is known here.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from etils import epath
from jaxtyping import Float

from simple_diffusion.core import console
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import (
    preparation,
    record_fields,
    shards,
    text_features,
)
from simple_diffusion.data.records.text_features import TextEncoding

_FILE = "{:05d}.array_record"
_NOTE = "{:05d}.json"  # of a finished file, while there is no manifest

Embed = Callable[[Iterable[str]], Iterator[Float[np.ndarray, "n d"]]]


def prepare(
    output: epath.PathLike,
    encoding: TextEncoding,
    embed: Embed,
    *,
    verify: bool = False,
    report: preparation.Report = print,
) -> None:
    """Computes the features of all captions, continues, or checks and repairs them.

    Args:
      output: folder of a complete prepared dataset.
      encoding: the encoder.
      embed: captions -> the tokens of each, float16, in order.
      verify: whether to compare all files with their checksums, and not only sizes.
      report: called with each line about progress.

    Raises:
      DataError: the dataset is not finished or has no captions, has features of another
        encoder already, or cannot be read or written.
    """
    root = epath.Path(output).expanduser()
    records = load_records(root)
    folder = root / text_features.FOLDER
    with preparation.lock_output(root):
        folder.mkdir(exist_ok=True)
        kept = _find_kept(root, encoding, records, verify)
        missing = records.count - sum(records.shards[k].count for k in kept)
        if kept:
            done = records.count - missing
            report(f"{done:,} of {records.count:,} captions have their features")
        if missing:  # what is kept survives an interruption
            for k, file in kept.items():
                _write_note(folder, k, records.shards[k], encoding, file)
            (folder / shards.MANIFEST).unlink(missing_ok=True)
        with console.show_progress("text features", missing, "captions") as show:
            count = _Counter(show)
            found = tuple(
                kept[k] if k in kept else _write(root, k, shard, encoding, embed, count)
                for k, shard in enumerate(records.shards)
            )
        _finish(folder, encoding, records, found)
    size = sum(file.bytes for file in found)
    report(f"complete: features of {records.count:,} captions, {size / 1e9:.2f} GB")


@dataclasses.dataclass
class _Counter:
    """Counts captions, and shows the number."""

    show: Callable[[int], None]
    number: int = 0

    def advance(self) -> None:
        self.number += 1
        self.show(self.number)


def load_records(root: epath.Path) -> shards.Manifest:
    """Returns the description of a finished dataset with captions.

    Raises:
      DataError: it is not finished, or has no captions.
    """
    records = shards.load(root)
    if records is None:
        raise DataError(
            f"--output {root} has no {shards.MANIFEST}: features are computed of "
            "finished records. Give --input as well"
        )
    if "caption" not in records.fields:
        raise DataError(
            f"--text_encoder needs captions, which {root} does not have; it has "
            f"{', '.join(('image', *records.fields))}"
        )
    return records


def _find_kept(
    root: epath.Path, encoding: TextEncoding, records: shards.Manifest, verify: bool
) -> dict[int, shards.Shard]:
    """Returns the finished and undamaged files by the number of their shard.

    Raises:
      DataError: there are features of another encoder, or of other records.
    """
    folder, manifest = root / text_features.FOLDER, text_features.load(root)
    found: dict[int, shards.Shard] = {}
    if manifest is not None:
        text_features.check_records(root, manifest, records)
        _check_encoding(folder, manifest.encoding, encoding)
        found = dict(enumerate(manifest.files))
    else:
        for k, shard in enumerate(records.shards):
            note = _load_note(folder / _NOTE.format(k))
            if note is not None:
                _check_encoding(folder, TextEncoding(**note["encoding"]), encoding)
                if note["records"] == shard.sha256:
                    found[k] = shards.Shard(**note["file"])
    damaged = shards.find_damage(folder, [*found.values()], checksums=verify)
    return {k: file for k, file in found.items() if file.file not in damaged}


def _load_note(path: epath.Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # the file is written again


def _check_encoding(folder: epath.Path, before: TextEncoding, now: TextEncoding):
    if not before.is_same(now):
        raise DataError(
            f"{folder} holds features of another encoder: {before}, and not {now}. "
            "Delete this folder to compute them again"
        )


def _write(
    root: epath.Path,
    number: int,
    shard: shards.Shard,
    encoding: TextEncoding,
    embed: Embed,
    counter: _Counter,
) -> shards.Shard:
    """Writes the features of one shard of records, and a note that it is finished."""
    folder = root / text_features.FOLDER

    def encode() -> Iterator[bytes]:
        for row in embed(_read_captions(root, shard)):
            assert row.dtype == text_features.DTYPE
            assert row.ndim == 2 and row.shape[1] == encoding.features
            yield row.tobytes()
            counter.advance()

    file = shards.write_shard(folder, _FILE.format(number), encode())
    place = {key: getattr(shard, key) for key in ("first", "end", "count")}
    found = shards.Shard(**dataclasses.asdict(file), **place)
    _write_note(folder, number, shard, encoding, found)
    return found


def _write_note(
    folder: epath.Path,
    number: int,
    shard: shards.Shard,
    encoding: TextEncoding,
    file: shards.Shard,
) -> None:
    note = {
        "encoding": dataclasses.asdict(encoding),
        "records": shard.sha256,
        "file": dataclasses.asdict(file),
    }
    shards.write_bytes(folder, _NOTE.format(number), json.dumps(note).encode())


def _read_captions(root: epath.Path, shard: shards.Shard) -> Iterator[str]:
    path = root / shard.file
    reader = shards.open_shard(path)
    for k in range(shard.count):
        try:
            (record,) = reader.read([k])
            _, _, content = shards.unpack(record)
            fields, _ = record_fields.split(content, {"caption"})
        except Exception as error:  # RuntimeError; others if the shard is no shard
            raise DataError(
                f"{path}: record {k} is damaged ({error}); prepare with --verify first"
            ) from error
        yield fields["caption"]


def _finish(
    folder: epath.Path,
    encoding: TextEncoding,
    records: shards.Manifest,
    found: tuple[shards.Shard, ...],
) -> None:
    """Writes the manifest, and removes the notes that it replaces."""
    manifest = text_features.make_manifest(encoding, records, found)
    shards.write_bytes(folder, shards.MANIFEST, manifest.to_json().encode())
    for k in range(len(found)):
        (folder / _NOTE.format(k)).unlink(missing_ok=True)
