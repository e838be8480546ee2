"""Files of a run: where they are, and how to write each completely or not at all."""

import contextlib
import importlib.util
import json
import secrets
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from simple_diffusion.core import console

PARTIAL = ".partial"  # ends the name of a file that is being written

# In the workdir of a run, besides checkpoints and pictures.
CONFIG = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.json"
SAMPLES = "samples.png"


@contextlib.contextmanager
def open_atomic(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of another one when it is complete.

    Several processes may write the same at once; the last one to end wins.

    Args:
      path: of the file, in a folder that is there.

    Raises:
      OSError: if it cannot be written; then nothing of it is left.
    """
    path = epath.Path(path).expanduser()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def resolve_folder(workdir: str, flag: str = "--workdir") -> epath.Path:
    """Returns the workdir as a path, on a disk or in a bucket.

    Args:
      workdir: as it was given.
      flag: how, for messages.

    Raises:
      ValueError: it is in a place of another kind, or what writes checkpoints into
        buckets is not installed.
    """
    if "://" in workdir and not workdir.startswith("gs://"):
        raise ValueError(f"{flag}={workdir} must be a folder or gs://BUCKET/PATH")
    if "://" in workdir and not _installed("google.cloud.storage"):
        raise ValueError(
            f"{flag}={workdir} needs the package google-cloud-storage: install it "
            "by .venv/bin/python -m pip install google-cloud-storage"
        )
    return epath.Path(workdir)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent is
        return False


def write(path: epath.Path, value: Any) -> None:
    """Writes JSON; a run that is killed meanwhile leaves what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def read(path: epath.Path) -> Any:
    """Returns what was written; None if nothing was, or it cannot be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        console.print_line(f"{path} is damaged and passed over")
        return None


def write_metrics(folder: epath.Path, record: dict[str, Any]) -> epath.Path:
    """Writes the newest metrics, with what they are metrics of."""
    path = folder / METRICS
    if console.is_first_process():
        write(path, record)
    return path


def read_metrics(folder: epath.Path) -> dict[str, Any]:
    """Returns what `write_metrics` wrote, {} if nothing yet."""
    return read(folder / METRICS) or {}


def differences(before: Any, now: Any, path: str) -> list[str]:
    """Returns "path: before -> now" for all leaves of two JSON trees that differ."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{path}: {before} -> {now}"]
    lines = []
    for key in sorted(before.keys() | now.keys()):
        lines += differences(before.get(key), now.get(key), f"{path}.{key}")
    return lines
