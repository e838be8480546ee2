"""What a run leaves in its workdir besides checkpoints, pictures and metrics."""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from simple_diffusion.build.options import Config

CONFIG = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.json"

# What the trained parameters depend on.
_SECTIONS = ("data", "model", "diffusion", "loss", "optimizer", "ema")


def folder(workdir: str, flag: str = "--workdir") -> epath.Path:
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


def remember(
    config: Config,
    folder: epath.Path,
    class_names: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Writes config and class names; says which keys differ from those of before."""
    if jax.process_index():
        return
    now = json.loads(config.to_json_best_effort())
    before = read(folder / CONFIG)
    for section in _SECTIONS if before else ():
        for line in differences(before.get(section), now[section], section):
            say(f"changed since this run began: {line}")
    write(folder / CONFIG, now)
    write(folder / CLASSES, class_names)


def compare(config: Config, folder: epath.Path, say: Callable[[str], None]) -> None:
    """Says which keys that say what the model is differ from those of its training.

    Much of what a model was trained with leaves no trace in its parameters, such as the
    range of sizes in which it knows the scale.
    """
    before = read(folder / CONFIG)
    if jax.process_index() or not before:
        return
    now = json.loads(config.to_json_best_effort())
    for section in ("data", "model", "diffusion"):
        for line in differences(before.get(section), now[section], section):
            say(f"differs from the training: {line}")


def config(folder: epath.Path) -> Config:
    """Returns the config that a run was last trained with.

    Raises:
      ValueError: if nothing was ever trained in this folder.
    """
    found = read(folder / CONFIG)
    if found is None:
        raise ValueError(f"{folder} holds no trained model ({CONFIG} is missing)")
    return ConfigDict(found)


def class_names(folder: epath.Path) -> tuple[str, ...]:
    """Returns the names of the classes of the run; () if it has none.

    Raises:
      ValueError: if nothing was ever trained in this folder.
    """
    found = read(folder / CLASSES)
    if found is None:
        raise ValueError(
            f"--workdir {folder} holds no trained model ({CLASSES} is missing); "
            "train first, with --mode train"
        )
    return tuple(found)


def write_metrics(folder: epath.Path, record: dict[str, Any]) -> epath.Path:
    """Writes the newest metrics, with what they are metrics of."""
    path = folder / METRICS
    if jax.process_index() == 0:
        write(path, record)
    return path


def read_metrics(folder: epath.Path) -> dict[str, Any]:
    """Returns what `write_metrics` wrote, {} if nothing yet."""
    return read(folder / METRICS) or {}


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
        say(f"{path} is damaged and passed over")
        return None


def say(line: str) -> None:
    """Prints a line, on the first process only."""
    if jax.process_index() == 0:
        print(line, flush=True)


def differences(before: Any, now: Any, path: str) -> list[str]:
    """Returns "path: before -> now" for all leaves of two JSON trees that differ."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{path}: {before} -> {now}"]
    lines = []
    for key in sorted(before.keys() | now.keys()):
        lines += differences(before.get(key), now.get(key), f"{path}.{key}")
    return lines
