"""The files in a tar file, and where each begins, also if parts of it are damaged."""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_PART = 2**20


class Member(NamedTuple):
    """A file in a tar file.

    offset: of its first byte in the tar file.
    size: in bytes.
    """

    name: str
    offset: int
    size: int


class Damage(NamedTuple):
    """A part of a tar file that cannot be read, from a byte on."""

    offset: int
    reason: str


def list_members(file: BinaryIO) -> Iterator[Member | Damage]:
    """Yields the regular files in a tar file, in order, and what is damaged.

    After a damaged part, it goes on at the next header.

    Args:
      file: an uncompressed tar file on a disk, open for reading.
    """
    total = os.fstat(file.fileno()).st_size
    start = file.read(8)
    file.seek(0)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            reason = f"is compressed by {kind}, and cannot be read in any order: unpack"
            yield Damage(0, f"{reason} it to a plain tar file")
            return
    end = 0  # of what has been read
    try:
        # Invalid headers are skipped: then the next member begins later than expected.
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
            while (info := tar.next()) is not None:
                # They would fill the memory. (The type stubs lack this attribute.)
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if not _is_empty(file, end, info.offset):
                    yield Damage(end, "has no valid header")
                end = tar.offset
                if info.offset_data + info.size > total and info.isreg():
                    yield Damage(info.offset, f"ends within {info.name}")
                    return
                if info.isreg() and not info.issparse():
                    yield Member(info.name, info.offset_data, info.size)
        if not _is_empty(file, end, total):
            yield Damage(end, "has no valid header")
    except (tarfile.TarError, ValueError) as error:
        yield Damage(end, str(error))


def _is_empty(file: BinaryIO, start: int, end: int) -> bool:
    """Returns whether all bytes of a range are zero."""
    while start < end:
        part = os.pread(file.fileno(), min(end - start, _PART), start)
        if not part or part.strip(b"\0"):
            return not part
        start += len(part)
    return True
