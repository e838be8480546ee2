"""The files of a run, and atomic writing."""

import contextlib
import importlib.util
import json
import os
import re
import secrets
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from simple_diffusion.core import console
from simple_diffusion.core.options import Config

PARTIAL = ".partial"  # suffix of a file that is being written

# Files in the workdir of a run, besides checkpoints and pictures.
CONFIG = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.json"
SAMPLES = "samples.png"


@contextlib.contextmanager
def open_atomic(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Yields a file that replaces `path` when it is complete.

    Several processes may write the same file at once; the last one to finish wins.

    Args:
      path: of the file, in an existing folder.

    Raises:
      OSError: the file cannot be written; its incomplete part is removed.
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
      workdir: folder or gs:// path, as the user gave it; ~ is the home folder.
      flag: the flag it comes from, for messages.

    Raises:
      ValueError: it is another kind of URL, or the package that writes checkpoints to
        buckets is not installed.
    """
    if "://" in workdir and not workdir.startswith("gs://"):
        raise ValueError(f"{flag}={workdir} must be a folder or gs://BUCKET/PATH")
    if "://" in workdir and not _installed("google.cloud.storage"):
        raise ValueError(
            f"{flag}={workdir} needs the package google-cloud-storage: install it "
            "by .venv/bin/python -m pip install google-cloud-storage"
        )
    return epath.Path(expand_home(workdir))


def expand_home(text: str) -> str:
    """Returns a path with its leading ~ replaced by the home folder.

    Shells replace it only at the start of a word, and not in `--workdir=~/run` or
    `folder:~/pictures`.

    Args:
      text: a path, or KIND:PATH as in `data.source`. Other texts are not changed.
    """
    kind, path = re.fullmatch(r"((?:\w+:)?)(.*)", text, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess] (it always matches)
    return kind + os.path.expanduser(path)


def expand_home_in(config: Config) -> None:
    """Applies `expand_home` to every text of a config, in place."""
    for key, value in config.items():
        if isinstance(value, str):
            config[key] = expand_home(value)
        elif hasattr(value, "items"):
            expand_home_in(value)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing, too
        return False


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON; if the process is killed meanwhile, the old file stays."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def read_json(path: epath.Path) -> Any:
    """Returns the content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        console.print_line(f"{path} is damaged and was skipped")
        return None


def write_metrics(folder: epath.Path, record: dict[str, Any]) -> epath.Path:
    """Writes the record of the newest metrics; returns its path."""
    path = folder / METRICS
    if console.is_first_process():
        write_json(path, record)
    return path


def read_metrics(folder: epath.Path) -> dict[str, Any]:
    """Returns the record that `write_metrics` wrote; {} if there is none."""
    return read_json(folder / METRICS) or {}


def list_differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Returns "path: before -> now" for every leaf that differs in two JSON trees."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{path}: {before} -> {now}"]
    lines = []
    for key in sorted(before.keys() | now.keys()):
        lines += list_differences(
            before.get(key), now.get(key), f"{path}.{key}".strip(".")
        )
    return lines
