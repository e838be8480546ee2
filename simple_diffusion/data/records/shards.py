"""Prepared images in a few large files: their format, and how they are verified.

The folder of a prepared dataset holds

  records-00000.array_record ...   shards. A record is the class and name of an image,
                                   its other fields if the dataset has any (see
                                   record_fields.py), and its encoded bytes;
                                   ArrayRecord keeps a hash of each record, and finds
                                   any of them by its index.
  names                            the names of all records, with zero bytes between
  manifest.json                    settings, classes, skipped images, and every file
                                   with its size and checksum

The manifest is written last, and a file gets its name when it is complete. So a folder
without a manifest is not finished, whatever else is in it.
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

from etils import epath

from simple_diffusion.data.errors import DataError

MANIFEST = "manifest.json"
NAMES = "names"
PARTIAL = ".partial"  # the end of a file's name until it is complete
# Of datasets without and with other fields than images and classes.
_PLAIN_VERSION, _FIELDS_VERSION = 1, 2
_HEADER = struct.Struct("<IH")  # class, and bytes of the name that follows
# One record per chunk, for random access. Images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# Nothing is read ahead: the order of the records is random.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 2**15
_PARALLEL_CHECKS = 32  # files checked together: in a bucket, each has a latency


@dataclasses.dataclass(frozen=True)
class File:
    """A file of the dataset, as it was written."""

    file: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    The fingerprint of the source is a hash of the text of these objects, so the names
    of the class and of its fields must not change.

    first, end: the range of the original images in it, skipped ones included.
    count: number of records.
    """

    file: str
    bytes: int
    sha256: str
    first: int
    end: int
    count: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The description of a prepared dataset.

    settings: flags of the command that wrote it, without their dashes.
    originals: fingerprint of the list of original images.
    classes: name to number of images, in the order of the class numbers.
    holdout_from: the records from this one on are held out; None if the names decide,
      as for a folder.
    skipped: name of each image that could not be read, to the reason.
    names: the file of names.
    shards: in the order of their records.
    fields: of every record besides image and class, named as in `field_names`.
    category_names: the classes of the objects.
    """

    settings: dict[str, Any]
    originals: str
    count: int
    classes: dict[str, int]
    holdout_from: int | None
    skipped: dict[str, str]
    names: File
    shards: tuple[Shard, ...]
    fields: tuple[str, ...] = ()
    category_names: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the text of the file."""
        content = dataclasses.asdict(self)
        if not self.fields:  # as older versions of this program can read it
            del content["fields"], content["category_names"]
        version = _FIELDS_VERSION if self.fields else _PLAIN_VERSION
        return json.dumps({"version": version, **content}, indent=1)

    def command(self, root: epath.Path) -> str:
        """Returns the command that wrote the dataset, and repairs it."""
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
    return _HEADER.pack(label, len(stored)) + stored + encoded


def unpack(record: bytes) -> tuple[int, str, bytes]:
    """Returns class, name and encoded image of a record."""
    label, length = _HEADER.unpack_from(record)
    start = _HEADER.size + length
    return label, os.fsdecode(record[_HEADER.size : start]), record[start:]


def load(root: epath.Path) -> Manifest | None:
    """Returns the manifest of a folder, or None if it has none.

    Raises:
      DataError: if it cannot be read or is of another version.
    """
    path = root / MANIFEST
    try:
        fields = json.loads(path.read_text())
        version = fields.pop("version")
        if version in (_PLAIN_VERSION, _FIELDS_VERSION):
            names = File(**fields.pop("names"))
            files = tuple(Shard(**shard) for shard in fields.pop("shards"))
            fields["fields"] = tuple(fields.get("fields", ()))
            fields["category_names"] = tuple(fields.get("category_names", ()))
            return Manifest(**fields, names=names, shards=files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it from a "
            "copy, or prepare the dataset again in an empty folder"
        ) from error
    raise DataError(
        f"{path} is of version {version}, and this program reads versions "
        f"{_PLAIN_VERSION} and {_FIELDS_VERSION}: prepare the dataset again, in an "
        "empty folder"
    )


def load_names(root: epath.Path, manifest: Manifest) -> list[str]:
    """Returns the names of all records.

    Raises:
      DataError: if the file of names has changed.
    """
    data = (root / manifest.names.file).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.names.sha256:
        raise DataError(
            f"{root / manifest.names.file} has changed since it was written. "
            f"{describe_repair(root, manifest)}"
        )
    return [os.fsdecode(name) for name in data.split(b"\0")]


def find_damage(
    root: epath.Path, files: Sequence[File | Shard], *, checksums: bool = False
) -> dict[str, str]:
    """Returns the files that are not as they were written, and what is wrong with each.

    Args:
      root: the folder.
      files: the files to check.
      checksums: whether to compare checksums too, besides sizes and numbers of records.
    """

    def find(file: File | Shard) -> str:
        return _find_fault(root / file.file, file, checksums)

    with futures.ThreadPoolExecutor(_PARALLEL_CHECKS) as pool:
        pairs = zip(files, pool.map(find, files), strict=True)
        return {file.file: fault for file, fault in pairs if fault}


def describe_damage(
    root: epath.Path, manifest: Manifest, damaged: dict[str, str]
) -> str:
    """Returns an error message about damaged files, with what to do about them."""
    shown = [f"{file} {fault}" for file, fault in list(damaged.items())[:5]]
    more = len(damaged) - len(shown)
    and_more = f", and {more} more" if more else ""
    return (
        f"{root} is not as it was written: {'; '.join(shown)}{and_more}. "
        f"{describe_repair(root, manifest)}"
    )


def describe_repair(root: epath.Path, manifest: Manifest) -> str:
    """Returns what to do about a damaged file."""
    return (
        "Copy it from an intact copy, or write it again from the original images:\n"
        f"  {manifest.command(root)} --verify"
    )


def _find_fault(path: epath.Path, file: File | Shard, checksums: bool) -> str:
    """Returns what is wrong with a file, "" if nothing is."""
    try:
        size = path.stat().length
        if size != file.bytes:
            return f"has {size:,} bytes instead of {file.bytes:,}"
        if checksums and compute_checksum(path) != file.sha256:
            return "has changed: its checksum differs"
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


def load_array_record() -> Any:
    """Returns the library that reads and writes shards.

    Imported when records are read or written: other sources and the plain install do
    without it, and some platforms have to.

    Raises:
      DataError: it cannot be imported.
    """
    try:
        from array_record.python import (
            array_record_module,  # pyright: ignore[reportAttributeAccessIssue] (compiled)
        )
    except ImportError as error:
        raise DataError(
            "records need the package array_record, which cannot be imported "
            f"({error}). Install it by: pip install array_record. Where it has no "
            "wheels, such as on Windows and on Macs with Intel processors, use the "
            "images themselves: data.source=folder:PATH"
        ) from error
    return array_record_module


def open_shard(path: epath.Path) -> Any:
    """Returns a reader of records by their index, for several threads at a time.

    Raises:
      RuntimeError: if it is not a file of records, or `read` finds a damaged record.
    """
    return load_array_record().ArrayRecordReader(
        os.fspath(path), _READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
    )


def compute_checksum(path: Path | epath.Path) -> str:
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
      records: may be generated while they are written.
      expected: the checksum that the file has to have, if that is known.

    Raises:
      DataError: if it cannot be written, or is not as expected; a file that had this
        name before is then unchanged.
    """
    with _write_atomically(root, name, expected) as (path, written):
        with _explain_errors(root / name):
            writer = load_array_record().ArrayRecordWriter(
                os.fspath(path), _WRITER_OPTIONS
            )
        try:
            for record in records:
                with _explain_errors(root / name):
                    writer.write(record)
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        with _explain_errors(root / name):
            writer.close()
    return written[0]


def write_bytes(
    root: epath.Path, name: str, data: bytes, expected: str | None = None
) -> File:
    """Writes a file; see `write_shard`."""
    with _write_atomically(root, name, expected) as (path, written):
        with _explain_errors(root / name):
            path.write_bytes(data)
    return written[0]


@contextlib.contextmanager
def _write_atomically(
    root: epath.Path, name: str, expected: str | None
) -> Iterator[tuple[Path, list[File]]]:
    """Yields a path to write a file to; the file then appears completely or not at all.

    A bucket cannot rename files, but they appear there when they are complete; so the
    file is copied from a temporary folder of this machine. Afterwards, the list that
    is yielded holds its description.
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
        with _explain_errors(root / name):
            _sync_to_disk(path)
            found = File(name, path.stat().st_size, compute_checksum(path))
            if expected not in (None, found.sha256):
                raise DataError(
                    f"{root / name} cannot be written again as it was: the original "
                    "images, or the libraries that read and write them, have changed "
                    "since. Prepare the dataset again, in an empty folder"
                )
            if local:
                os.replace(path, root / name)
                _sync_to_disk(Path(root))
            else:
                epath.Path(path).copy(root / name, overwrite=True)
        written.append(found)


def is_local(root: epath.Path) -> bool:
    """Returns whether a folder is on this machine, and not in a bucket."""
    return "://" not in os.fspath(root)


def _sync_to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of files, survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explain_errors(path: epath.Path) -> Iterator[None]:
    """Turns any error of writing into a `DataError` that says what is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot write {path}: {error}. Finished files are kept. Free some space "
            "or correct the permissions, then run the same command again"
        ) from error
