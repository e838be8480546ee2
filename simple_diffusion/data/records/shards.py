"""Prepared images in a few large files: their format, and how they are vouched for.

The folder of a prepared data set holds

  records-00000.array_record ...   shards. A record is the class and name of an image
                                   and its encoded bytes; ArrayRecord keeps a hash of
                                   each, and finds any of them by its place.
  names                            the names of all records, with zero bytes between
  manifest.json                    settings, classes, what was left out, and every file
                                   with its size and checksum

The manifest is written last, and every file takes its name when it is whole. So a
folder without a manifest is not finished, whatever else is in it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue] (compiled)
)
from etils import epath

from simple_diffusion.data.errors import DataError

MANIFEST = "manifest.json"
NAMES = "names"
PARTIAL = ".partial"  # the end of a file's name until it is whole
_VERSION = 1
_HEAD = struct.Struct("<IH")  # class, and bytes of the name that follows
# One record to a chunk, for reading in any order. Images do not shrink any further.
_WRITING = "group_size:1,uncompressed"
# Nothing is read ahead, since nobody knows what comes next.
_READING = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER = 2**15
_AT_ONCE = 32  # files looked at together: in a bucket, each takes its time


@dataclasses.dataclass(frozen=True)
class File:
    """A file of the set, as it has to be."""

    file: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    first, end: which of the original images it was made of, those left out included.
    count: records.
    """

    file: str
    bytes: int
    sha256: str
    first: int
    end: int
    count: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared data set is.

    settings: flags of the command that made it, without their dashes.
    originals: fingerprint of the list of original images.
    classes: name to number of images, in the order of the class numbers.
    holdout_from: the records from this one on are held out; None if the names decide,
      as for a folder.
    skipped: name of an image that could not be read, to the reason.
    names: the file of names.
    shards: in the order of their records.
    """

    settings: dict[str, Any]
    originals: str
    count: int
    classes: dict[str, int]
    holdout_from: int | None
    skipped: dict[str, str]
    names: File
    shards: tuple[Shard, ...]

    def to_json(self) -> str:
        """Returns the text of the file."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, indent=1)

    def command(self, root: epath.Path) -> str:
        """Returns the command that made the set, and mends it."""
        settings = {"output": root, **self.settings}
        flags = " ".join(
            f"--{key} {shlex.quote(str(value))}"
            for key, value in settings.items()
            if value is not None
        )
        return f"python -m simple_diffusion.modes.prepare {flags}"


def pack(label: int, name: str, encoded: bytes) -> bytes:
    """Returns the record of an image."""
    stored = os.fsencode(name)
    return _HEAD.pack(label, len(stored)) + stored + encoded


def unpack(record: bytes) -> tuple[int, str, bytes]:
    """Returns class, name and encoded image of a record."""
    label, length = _HEAD.unpack_from(record)
    start = _HEAD.size + length
    return label, os.fsdecode(record[_HEAD.size : start]), record[start:]


def load(root: epath.Path) -> Manifest | None:
    """Returns the manifest of a folder, or None if it has none.

    Raises:
      DataError: if it cannot be read or is of another version.
    """
    path = root / MANIFEST
    try:
        fields = json.loads(path.read_text())
        version = fields.pop("version")
        if version == _VERSION:
            names = File(**fields.pop("names"))
            files = tuple(Shard(**shard) for shard in fields.pop("shards"))
            return Manifest(**fields, names=names, shards=files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({type(error).__name__}: {error}): bring back a copy "
            "of it, or prepare the data set again in an empty folder"
        ) from error
    raise DataError(
        f"{path} is of version {version}, and this program reads version {_VERSION}: "
        "prepare the data set again, in an empty folder"
    )


def load_names(root: epath.Path, manifest: Manifest) -> list[str]:
    """Returns the names of all records.

    Raises:
      DataError: if the file of names is not what it was.
    """
    data = (root / manifest.names.file).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.names.sha256:
        raise DataError(
            f"{root / manifest.names.file} has changed since it was written. "
            f"{how_to_mend(root, manifest)}"
        )
    return [os.fsdecode(name) for name in data.split(b"\0")]


def damage(
    root: epath.Path, files: Sequence[File | Shard], *, checksums: bool = False
) -> dict[str, str]:
    """Returns which files are not as they were written, and what is wrong with each.

    Args:
      root: the folder.
      files: which of them to look at.
      checksums: whether to read them whole, beyond sizes and numbers of records.
    """

    def wrong(file: File | Shard) -> str:
        return _wrong(root / file.file, file, checksums)

    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        pairs = zip(files, pool.map(wrong, files), strict=True)
        return {file.file: what for file, what in pairs if what}


def complaint(root: epath.Path, manifest: Manifest, damaged: dict[str, str]) -> str:
    """Returns what to say about damaged files, and what to do about them."""
    shown = [f"{file} {what}" for file, what in list(damaged.items())[:5]]
    more = len(damaged) - len(shown)
    and_more = f", and {more} more" if more else ""
    return (
        f"{root} is not as it was written: {'; '.join(shown)}{and_more}. "
        f"{how_to_mend(root, manifest)}"
    )


def how_to_mend(root: epath.Path, manifest: Manifest) -> str:
    """Returns what to do about a damaged file."""
    return (
        "Copy it from where it is sound, or make it again from the original images:\n"
        f"  {manifest.command(root)} --verify"
    )


def _wrong(path: epath.Path, file: File | Shard, checksums: bool) -> str:
    """Returns what is wrong with a file, "" if nothing is."""
    try:
        size = path.stat().length
        if size != file.bytes:
            return f"has {size:,} bytes instead of {file.bytes:,}"
        if checksums and checksum(path) != file.sha256:
            return "has changed: its checksum is another"
        if isinstance(file, Shard):
            count = open_shard(path).num_records()
            if count != file.count:
                return f"has {count} records instead of {file.count}"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except RuntimeError as error:
        return f"has changed ({error})"
    return ""


def open_shard(path: epath.Path) -> Any:
    """Returns a reader of records by their place, for several threads at a time.

    Raises:
      RuntimeError: if it is no file of records, or `read` finds a record damaged.
    """
    return array_record_module.ArrayRecordReader(
        os.fspath(path), _READING, file_reader_buffer_size=_BUFFER
    )


def checksum(path: Path | epath.Path) -> str:
    """Returns the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_shard(
    root: epath.Path, name: str, records: Iterable[bytes], expected: str | None = None
) -> File:
    """Writes a file of records.

    Args:
      root: the folder.
      name: of the file.
      records: not all of which need to be there when writing begins.
      expected: the checksum that it has to have, if that is known.

    Raises:
      DataError: if it cannot be written, or is not as expected; whatever file had its
        name is then still there.
    """
    with _whole(root, name, expected) as (path, written):
        with _complaints(root / name):
            writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITING)
        try:
            for record in records:
                with _complaints(root / name):
                    writer.write(record)
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        with _complaints(root / name):
            writer.close()
    return written[0]


def write_bytes(
    root: epath.Path, name: str, data: bytes, expected: str | None = None
) -> File:
    """Writes a file; see `write_shard`."""
    with _whole(root, name, expected) as (path, written):
        with _complaints(root / name):
            path.write_bytes(data)
    return written[0]


@contextlib.contextmanager
def _whole(
    root: epath.Path, name: str, expected: str | None
) -> Iterator[tuple[Path, list[File]]]:
    """Yields where to write a file, which then appears whole or not at all.

    In a bucket, which has no renaming but whose files appear when they are whole, it
    comes from a temporary folder of this machine. What it became stands in the list
    that is yielded, afterwards.
    """
    written: list[File] = []
    with contextlib.ExitStack() as stack:
        local = is_local(root)
        if local:
            path = Path(root / (name + PARTIAL))
            stack.callback(path.unlink, missing_ok=True)
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / name
        yield path, written
        with _complaints(root / name):
            _onto_disk(path)
            found = File(name, path.stat().st_size, checksum(path))
            if expected not in (None, found.sha256):
                raise DataError(
                    f"{root / name} cannot be made again as it was: the original "
                    "images, or the libraries that read and write them, have changed "
                    "since. Prepare the data set again, in an empty folder"
                )
            if local:
                os.replace(path, root / name)
                _onto_disk(Path(root))
            else:
                epath.Path(path).copy(root / name, overwrite=True)
        written.append(found)


def is_local(root: epath.Path) -> bool:
    """Returns whether a folder is one of this machine's, and not in a bucket."""
    return "://" not in os.fspath(root)


def _onto_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _complaints(path: epath.Path) -> Iterator[None]:
    """Makes what goes wrong in writing an error that says what is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot write {path}: {error}. Whatever is finished is kept; once there "
            "is room, and the right to write, run the same command again"
        ) from error
