"""Prepares a dataset: writes original images into shards and a manifest.

The files depend on the images and the settings alone, and not on the number of workers
or on interruptions: the images keep their order, and each shard is as full as possible.
`unfinished/` describes the finished shards until there is a manifest.
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

from simple_diffusion.core import console
from simple_diffusion.data.errors import DataError, format_path
from simple_diffusion.data.records import encoding, originals, shards
from simple_diffusion.data.records.ordered_pool import OrderedPool, Progress

_UNFINISHED = "unfinished"
_SETTINGS = "settings.json"
_FILE = "records-{}.array_record"

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """A finished shard, and what the manifest needs to know about its images.

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
    report: Report = print,
) -> shards.Manifest:
    """Prepares a dataset, continues it, or checks and repairs it if it is complete.

    Args:
      settings: the input, and how to encode it.
      output: folder, possibly in a bucket; missing, empty or partly prepared.
      workers: number of images to encode in parallel; one for each CPU by default.
      verify: whether to compare all files of a complete dataset with their checksums.
      report: called with each line about progress.

    Raises:
      DataError: if the input or the output is not suitable, or cannot be written.
    """
    root = epath.Path(output).expanduser()
    settings = dataclasses.replace(settings, input=_make_absolute(settings.input))
    _check_output_is_not_input(settings.input, root)
    workers = workers or _cpu_count()
    with lock_output(root):
        for path in root.glob(f"{_FILE.format('*')}{shards.PARTIAL}"):
            path.unlink()  # left behind by a power failure
        manifest = shards.load(root)
        if manifest is not None:
            _compare_settings(root, manifest.settings, settings.as_flags())
            damaged = _find_damage(root, manifest, verify, report)
            if damaged:
                for file, fault in damaged.items():
                    report(f"{file} {fault}, and is written again")
                _repair(root, manifest, settings, damaged, workers, report)
        else:
            images = _open_input(root, settings)
            parts = _write_shards(root, images, settings, workers, report)
            manifest = _finish(root, images, settings, parts)
        with contextlib.suppress(FileNotFoundError):
            (root / _UNFINISHED).rmtree()
    report(f"complete: {_summarize(root, manifest)}")
    return manifest


def check(output: epath.PathLike, *, report: Report = print) -> None:
    """Compares all files of a complete dataset with their checksums.

    Raises:
      DataError: if any is not as it was written; the message names it.
    """
    root = epath.Path(output).expanduser()
    manifest = shards.load(root)
    if manifest is None:
        raise DataError(f"--output {root} has no {shards.MANIFEST}: it is not finished")
    damaged = _find_damage(root, manifest, True, report)
    if damaged:
        raise DataError(shards.describe_damage(root, manifest, damaged))
    report(f"complete: {_summarize(root, manifest)}")


def _make_absolute(spec: str) -> str:
    """Returns the input with an absolute path."""
    kind, _, name = spec.partition(":")
    if kind in ("folder", "tar") and name:
        return f"{kind}:{Path(name).expanduser().absolute()}"
    return spec


def _check_output_is_not_input(spec: str, root: epath.Path) -> None:
    """Raises DataError if the output is the input."""
    kind, _, name = spec.partition(":")
    both_local = kind == "folder" and shards.is_local(root)
    if both_local and os.path.realpath(name) == os.path.realpath(root):
        raise DataError(
            f"--output {root} is the folder of the images itself; give another"
        )


@contextlib.contextmanager
def lock_output(root: epath.Path) -> Iterator[None]:
    """Creates the folder, and locks it against other processes of this machine.

    The system releases the lock when the process ends, however it ends.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY) if shards.is_local(root) else None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"--output {root} cannot be created or read: {reason}"
        ) from error
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
                    "wait until it is done, or stop it"
                ) from None
        yield
    finally:
        os.close(handle)


def _open_input(root: epath.Path, settings: encoding.Settings) -> originals.Originals:
    """Opens the input; writes the settings, or compares them with those on disk."""
    unfinished = root / _UNFINISHED
    path = unfinished / _SETTINGS
    flags = settings.as_flags()
    before = json.loads(path.read_text()) if path.exists() else None
    if before is not None:
        _compare_settings(root, before["settings"], flags)
    else:
        foreign = sorted(path.name for path in root.iterdir())
        if set(foreign) - {_UNFINISHED}:
            raise DataError(
                f"--output {root} is not empty, and is not a prepared dataset: it "
                f"holds {', '.join(foreign[:3])}. Give an empty folder, or a new one"
            )
    images = _open_originals(settings)
    fingerprint = images.fingerprint()
    if before is None:
        unfinished.mkdir(exist_ok=True)
        note = {"settings": flags, "originals": fingerprint}
        shards.write_bytes(unfinished, _SETTINGS, json.dumps(note).encode())
    elif before["originals"] != fingerprint:
        raise DataError(_describe_changed_input(root, settings))
    return images


def _open_originals(settings: encoding.Settings) -> originals.Originals:
    return originals.open_originals(
        settings.input, settings.data_dir, settings.kept_fields, settings.tfds_fields
    )


def _describe_changed_input(root: epath.Path, settings: encoding.Settings) -> str:
    return (
        f"--output {root} was started when --input {settings.input} held other images: "
        "some were added, removed or renamed. Restore them, or prepare again with "
        "another --output"
    )


def _compare_settings(
    root: epath.Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    """Raises DataError if the settings differ from those before."""
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        old = " ".join(f"--{key} {before.get(key)}" for key in different)
        new = " ".join(f"--{key} {now[key]}" for key in different)
        raise DataError(
            f"--output {root} was started with {old}, not with {new}. Use the former "
            "to continue it, or another --output"
        )


def _write_shards(
    root: epath.Path,
    images: originals.Originals,
    settings: encoding.Settings,
    workers: int,
    report: Report,
) -> list[FinishedShard]:
    """Writes the shards that are missing, and returns all."""
    parts: list[FinishedShard] = []
    position, total = 0, len(images.names)
    while position < total and (
        part := _load_finished_shard(root, len(parts), position)
    ):
        parts.append(part)
        position = part.shard.end
    if parts:
        report(f"continuing after {position:,} images in {len(parts)} finished shards")
    skipped = sum(len(part.skipped) for part in parts)
    limit = settings.shard_megabytes
    with (
        _show(position, total) as show,
        encoding.encode_in_order(images, settings, position, workers) as pool,
    ):
        progress = Progress(position, total, skipped, report, show)
        while pool.position < total:
            name = _name_shard(len(parts))
            part = _write_shard(root, name, pool, limit, progress)
            note = json.dumps(dataclasses.asdict(part)).encode()
            shards.write_bytes(root / _UNFINISHED, f"{name}.json", note)
            parts.append(part)
    return parts


def _show(
    position: int, total: int
) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Returns the progress bar; `Progress` itself prints lines without a terminal."""
    return console.show_progress(
        "preparing", total, "images", start=position, prints_lines=False
    )


def _name_shard(number: int) -> str:
    return _FILE.format(f"{number:05d}")


def _load_finished_shard(
    root: epath.Path, number: int, position: int
) -> FinishedShard | None:
    """Returns a shard that was finished before, if it has not changed since."""
    try:
        text = (root / _UNFINISHED / f"{_name_shard(number)}.json").read_text()
        fields = json.loads(text)
        part = FinishedShard(**{**fields, "shard": shards.Shard(**fields["shard"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it is written again
    if part.shard.first != position or shards.find_damage(root, [part.shard]):
        return None
    return part


def _write_shard(
    root: epath.Path,
    name: str,
    pool: OrderedPool[encoding.EncodedImage | encoding.SkippedImage],
    megabytes: float,
    progress: Progress,
    expected: str | None = None,
) -> FinishedShard:
    """Writes one shard, of the images from the position of the pool on.

    It is full when the next image would make it too large. It also lists the images up
    to there that cannot be read.
    """
    first = pool.position
    counts: collections.Counter[str] = collections.Counter()
    skipped: dict[str, str] = {}

    def records() -> Iterator[bytes]:
        size = 0
        while pool.position < pool.total:
            found = pool.peek()
            if isinstance(found, encoding.SkippedImage):
                skipped[found.name] = found.reason
                progress.record_skipped(format_path(found.name), found.reason)
            else:
                if size and size + len(found.record) > megabytes * 1e6:
                    return
                size += len(found.record)
                counts[str(found.label)] += 1
                yield found.record
            pool.advance()
            progress.update(pool.position)
        if not size:
            raise DataError(
                f"none of {len(skipped)} images can be read, such as "
                f"{': '.join(next(iter(skipped.items())))}"
            )

    file = shards.write_shard(root, name, records(), expected)
    shard = shards.Shard(
        **dataclasses.asdict(file),
        first=first,
        end=pool.position,
        count=sum(counts.values()),
    )
    return FinishedShard(shard, dict(counts), skipped)


def _finish(
    root: epath.Path,
    images: originals.Originals,
    settings: encoding.Settings,
    parts: list[FinishedShard],
) -> shards.Manifest:
    """Writes the names and, last of all, the manifest."""
    skipped = {n: reason for part in parts for n, reason in part.skipped.items()}
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
        counts.update(part.counts)
    start = images.holdout_from
    if start is not None:
        start = sum(name not in skipped for name in images.names[:start])
    names = _join_names(images, skipped)
    manifest = shards.Manifest(
        settings=settings.as_flags(),
        originals=images.fingerprint(),
        count=sum(part.shard.count for part in parts),
        classes={n: counts[str(k)] for k, n in enumerate(images.class_names)},
        holdout_from=start,
        skipped=skipped,
        names=shards.write_bytes(root, shards.NAMES, names),
        shards=tuple(part.shard for part in parts),
        fields=images.other_fields,
        category_names=images.category_names,
    )
    shards.write_bytes(root, shards.MANIFEST, manifest.to_json().encode())
    return manifest


def _join_names(images: originals.Originals, skipped: dict[str, str]) -> bytes:
    """Returns the content of the file of names."""
    kept = (name for name in images.names if name not in skipped)
    return b"\0".join(map(os.fsencode, kept))


def _find_damage(
    root: epath.Path,
    manifest: shards.Manifest,
    checksums: bool,
    report: Report,
) -> dict[str, str]:
    """Returns the damaged files of a complete dataset, and their faults."""
    files = (manifest.names, *manifest.shards)
    how = "checksums" if checksums else "sizes and counts"
    report(f"comparing {how} of {len(files)} files with the manifest")
    return shards.find_damage(root, files, checksums=checksums)


def _repair(
    root: epath.Path,
    manifest: shards.Manifest,
    settings: encoding.Settings,
    damaged: dict[str, str],
    workers: int,
    report: Report,
) -> None:
    """Writes damaged files again, with the same content as before."""
    images = _open_originals(settings)
    if images.fingerprint() != manifest.originals:
        raise DataError(_describe_changed_input(root, settings))
    for shard in manifest.shards:
        if shard.file in damaged:
            with (
                _show(shard.first, shard.end) as show,
                encoding.encode_in_order(
                    images, settings, shard.first, workers
                ) as pool,
            ):
                progress = Progress(shard.first, shard.end, 0, report, show)
                name, limit = shard.file, settings.shard_megabytes
                _write_shard(root, name, pool, limit, progress, shard.sha256)
    if manifest.names.file in damaged:
        names = _join_names(images, manifest.skipped)
        shards.write_bytes(root, shards.NAMES, names, manifest.names.sha256)


def _summarize(root: epath.Path, manifest: shards.Manifest) -> str:
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
