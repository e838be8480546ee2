"""Preparing a data set: from images as they are stored to shards and a manifest.

What comes out depends on the images and the settings alone, and not on the number of
workers or on interruptions: the images in their order, each shard as full as it gets.
`unfinished/` holds what is known of finished shards until the manifest does.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from simple_diffusion.data.errors import DataError, printable
from simple_diffusion.data.records import encoding, originals, shards
from simple_diffusion.data.records.ordered_pool import Ahead, Progress

_UNFINISHED = "unfinished"
_SETTINGS = "settings.json"
_FILE = "records-{}.array_record"

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished shard, and what the manifest says of its images.

    counts: class number, as text, to number of images.
    skipped: name of an image that could not be read, to the reason.
    """

    shard: shards.Shard
    counts: dict[str, int]
    skipped: dict[str, str]


def prepare(
    settings: encoding.Settings,
    output: epath.PathLike,
    *,
    workers: int | None = None,
    verify: bool = False,
    say: Say = print,
) -> shards.Manifest:
    """Prepares a data set, goes on with it, or checks and mends it if it is complete.

    Args:
      settings: what is prepared, and how.
      output: folder, perhaps in a bucket; empty or not there, or with the beginning.
      workers: images worked on at a time; one for each CPU by default.
      verify: of a complete set, whether all is read and compared with its checksum.
      say: what is called with each line about progress.

    Raises:
      DataError: if the input or the output is not what is needed, or cannot be written.
    """
    root = epath.Path(output).expanduser()
    settings = dataclasses.replace(settings, input=_absolute(settings.input))
    _check_apart(settings.input, root)
    workers = workers or _cpu_count()
    with _alone(root):
        for path in root.glob(f"{_FILE.format('*')}{shards.PARTIAL}"):
            path.unlink()  # from when the power went out
        manifest = shards.load(root)
        if manifest is not None:
            _compare(root, manifest.settings, settings.as_flags())
            damaged = _damage(root, manifest, verify, say)
            if damaged:
                for file, what in damaged.items():
                    say(f"{file} {what}, and is made again")
                _mend(root, manifest, settings, damaged, workers, say)
        else:
            images = _begun(root, settings)
            parts = _parts(root, images, settings, workers, say)
            manifest = _finish(root, images, settings, parts)
        with contextlib.suppress(FileNotFoundError):
            (root / _UNFINISHED).rmtree()
    say(f"complete: {_summary(root, manifest)}")
    return manifest


def check(output: epath.PathLike, *, say: Say = print) -> None:
    """Compares all files of a complete set with their checksums.

    Raises:
      DataError: if any is not as it was written; the message names it.
    """
    root = epath.Path(output).expanduser()
    manifest = shards.load(root)
    if manifest is None:
        raise DataError(f"--output {root} has no {shards.MANIFEST}: it is not finished")
    damaged = _damage(root, manifest, True, say)
    if damaged:
        raise DataError(shards.complaint(root, manifest, damaged))
    say(f"complete: {_summary(root, manifest)}")


def _absolute(spec: str) -> str:
    """Returns the input as it would be called from any folder."""
    kind, _, name = spec.partition(":")
    if kind == "folder" and name:
        return f"folder:{Path(name).expanduser().absolute()}"
    return spec


def _check_apart(spec: str, root: epath.Path) -> None:
    """Raises DataError if the output is the input."""
    kind, _, name = spec.partition(":")
    both_here = kind == "folder" and shards.is_local(root)
    if both_here and os.path.realpath(name) == os.path.realpath(root):
        raise DataError(
            f"--output {root} is the folder of the images itself; give another"
        )


@contextlib.contextmanager
def _alone(root: epath.Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes of this machine out of it.

    The system gives the lock back when the process ends, however it ends.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY) if shards.is_local(root) else None
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"--output {root} cannot be made or read: {why}") from error
    if handle is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"--output {root}: another process is preparing images there; "
                    "wait until it is done, or end it"
                ) from None
        yield
    finally:
        os.close(handle)


def _begun(root: epath.Path, settings: encoding.Settings) -> originals.Originals:
    """Opens the input; notes the settings, or compares them with those noted before."""
    unfinished = root / _UNFINISHED
    noted = unfinished / _SETTINGS
    flags = settings.as_flags()
    before = json.loads(noted.read_text()) if noted.exists() else None
    if before is not None:
        _compare(root, before["settings"], flags)
    else:
        foreign = sorted(path.name for path in root.iterdir())
        if set(foreign) - {_UNFINISHED}:
            raise DataError(
                f"--output {root} is not empty, and nothing was prepared there: it "
                f"holds {', '.join(foreign[:3])}. Give an empty folder, or a new one"
            )
    images = originals.open_originals(settings.input, settings.data_dir)
    fingerprint = images.fingerprint()
    if before is None:
        unfinished.mkdir(exist_ok=True)
        note = {"settings": flags, "originals": fingerprint}
        shards.write_bytes(unfinished, _SETTINGS, json.dumps(note).encode())
    elif before["originals"] != fingerprint:
        raise DataError(_changed(root, settings))
    return images


def _changed(root: epath.Path, settings: encoding.Settings) -> str:
    return (
        f"--output {root} was begun when --input {settings.input} held other images: "
        "some have come, gone or been renamed. Bring them back, or prepare again with "
        "another --output"
    )


def _compare(root: epath.Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises DataError if the settings are not those of before."""
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        old = " ".join(f"--{key} {before.get(key)}" for key in different)
        new = " ".join(f"--{key} {now[key]}" for key in different)
        raise DataError(
            f"--output {root} was begun with {old}, and not with {new}. Use the former "
            "to go on with it, or another --output"
        )


def _parts(
    root: epath.Path,
    images: originals.Originals,
    settings: encoding.Settings,
    workers: int,
    say: Say,
) -> list[Part]:
    """Returns all shards, made now or before."""
    parts: list[Part] = []
    position, total = 0, len(images.names)
    while position < total and (part := _noted(root, len(parts), position)):
        parts.append(part)
        position = part.shard.end
    if parts:
        say(f"going on after {position:,} images in {len(parts)} finished shards")
    skipped = sum(len(part.skipped) for part in parts)
    progress = Progress(position, total, skipped, say)
    limit = settings.shard_megabytes
    with encoding.ahead_of(images, settings, position, workers) as ahead:
        while ahead.position < total:
            name = _file(len(parts))
            part = _make(root, name, ahead, limit, progress)
            note = json.dumps(dataclasses.asdict(part)).encode()
            shards.write_bytes(root / _UNFINISHED, f"{name}.json", note)
            parts.append(part)
    return parts


def _file(number: int) -> str:
    return _FILE.format(f"{number:05d}")


def _noted(root: epath.Path, number: int, position: int) -> Part | None:
    """Returns a shard that was finished before, if it still is as it was."""
    try:
        text = (root / _UNFINISHED / f"{_file(number)}.json").read_text()
        fields = json.loads(text)
        part = Part(**{**fields, "shard": shards.Shard(**fields["shard"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # what is not known is made again
    if part.shard.first != position or shards.damage(root, [part.shard]):
        return None
    return part


def _make(
    root: epath.Path,
    name: str,
    ahead: Ahead[encoding.Stored | encoding.Skipped],
    megabytes: float,
    progress: Progress,
    expected: str | None = None,
) -> Part:
    """Writes one shard, of the images from a position on.

    It is full when the next image would make it too large; what cannot be read until
    then is its own.
    """
    first = ahead.position
    counts: collections.Counter[str] = collections.Counter()
    skipped: dict[str, str] = {}

    def records() -> Iterator[bytes]:
        size = 0
        while ahead.position < ahead.total:
            found = ahead.peek()
            if isinstance(found, encoding.Skipped):
                skipped[found.name] = found.why
                progress.skip(printable(found.name), found.why)
            else:
                if size and size + len(found.record) > megabytes * 1e6:
                    return
                size += len(found.record)
                counts[str(found.label)] += 1
                yield found.record
            ahead.advance()
            progress.note(ahead.position)
        if not size:
            raise DataError(
                f"none of {len(skipped)} images can be read, such as "
                f"{': '.join(next(iter(skipped.items())))}"
            )

    file = shards.write_shard(root, name, records(), expected)
    shard = shards.Shard(
        **dataclasses.asdict(file),
        first=first,
        end=ahead.position,
        count=sum(counts.values()),
    )
    return Part(shard, dict(counts), skipped)


def _finish(
    root: epath.Path,
    images: originals.Originals,
    settings: encoding.Settings,
    parts: list[Part],
) -> shards.Manifest:
    """Writes the names and, last of all, the manifest."""
    skipped = {name: why for part in parts for name, why in part.skipped.items()}
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
        counts.update(part.counts)
    cut = images.holdout_from
    if cut is not None:
        cut = sum(name not in skipped for name in images.names[:cut])
    names = _names(images, skipped)
    manifest = shards.Manifest(
        settings=settings.as_flags(),
        originals=images.fingerprint(),
        count=sum(part.shard.count for part in parts),
        classes={n: counts[str(k)] for k, n in enumerate(images.class_names)},
        holdout_from=cut,
        skipped=skipped,
        names=shards.write_bytes(root, shards.NAMES, names),
        shards=tuple(part.shard for part in parts),
    )
    shards.write_bytes(root, shards.MANIFEST, manifest.to_json().encode())
    return manifest


def _names(images: originals.Originals, skipped: dict[str, str]) -> bytes:
    """Returns the file of names."""
    kept = (name for name in images.names if name not in skipped)
    return b"\0".join(map(os.fsencode, kept))


def _damage(
    root: epath.Path,
    manifest: shards.Manifest,
    checksums: bool,
    say: Say,
) -> dict[str, str]:
    """Returns what is wrong with a complete set."""
    files = (manifest.names, *manifest.shards)
    how = "checksums" if checksums else "sizes and counts"
    say(f"comparing {how} of {len(files)} files with the manifest")
    return shards.damage(root, files, checksums=checksums)


def _mend(
    root: epath.Path,
    manifest: shards.Manifest,
    settings: encoding.Settings,
    damaged: dict[str, str],
    workers: int,
    say: Say,
) -> None:
    """Makes damaged files again, which have to become what they were."""
    images = originals.open_originals(settings.input, settings.data_dir)
    if images.fingerprint() != manifest.originals:
        raise DataError(_changed(root, settings))
    for shard in manifest.shards:
        if shard.file in damaged:
            progress = Progress(shard.first, shard.end, 0, say)
            with encoding.ahead_of(images, settings, shard.first, workers) as ahead:
                name, limit = shard.file, settings.shard_megabytes
                _make(root, name, ahead, limit, progress, shard.sha256)
    if manifest.names.file in damaged:
        names = _names(images, manifest.skipped)
        shards.write_bytes(root, shards.NAMES, names, manifest.names.sha256)


def _summary(root: epath.Path, manifest: shards.Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    return (
        f"{manifest.count:,} images of {len(manifest.classes)} classes in "
        f"{len(manifest.shards)} shards, {size / 1e9:.2f} GB, "
        f"{len(manifest.skipped)} skipped; train with "
        f"--config.data.source=records:{root}"
    )


def _cpu_count() -> int:
    """Returns how many CPUs this process may use, which a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
