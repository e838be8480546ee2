"""Config and class names of a run, in its workdir."""

import json
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from simple_diffusion.build import recipes
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config

# What the trained parameters depend on.
_SECTIONS = ("data", "model", "diffusion", "loss", "optimizer", "ema")


def save_config(
    config: Config,
    folder: epath.Path,
    class_names: tuple[str, ...],
) -> None:
    """Writes config and class names; prints which keys differ from those of before."""
    if jax.process_index():
        return
    now = json.loads(config.to_json_best_effort())
    before = files.read(folder / files.CONFIG)
    for section in _SECTIONS if before else ():
        for line in files.differences(before.get(section), now[section], section):
            console.print_line(f"changed since this run began: {line}")
    files.write(folder / files.CONFIG, now)
    files.write(folder / files.CLASSES, class_names)


def print_differences(config: Config, folder: epath.Path) -> None:
    """Prints which keys of the model differ from those of its training.

    Much of what a model was trained with leaves no trace in its parameters, such as the
    range of sizes in which it knows the scale.
    """
    before = files.read(folder / files.CONFIG)
    if jax.process_index() or not before:
        return
    now = json.loads(config.to_json_best_effort())
    for section in ("data", "model", "diffusion"):
        for line in files.differences(before.get(section), now[section], section):
            console.print_line(f"differs from the training: {line}")


def load_config(folder: epath.Path) -> Config:
    """Returns the config that a run was last trained with.

    Raises:
      ValueError: if nothing was ever trained in this folder.
    """
    found = files.read(folder / files.CONFIG)
    if found is None:
        raise ValueError(f"{folder} holds no trained model ({files.CONFIG} is missing)")
    return complete_config(found)


def complete_config(found: dict[str, Any]) -> Config:
    """Returns a stored config, with the defaults of keys that it does not have yet."""
    config = recipes.defaults()
    with config.unlocked(), config.ignore_type():
        _update(config, found)
    return config.lock()


# Their keys depend on their kind: they are taken as they are stored.
_OF_A_KIND = ("model", "schedule", "patches")


def _update(section: ConfigDict, found: dict[str, Any]) -> None:
    for key, value in found.items():
        if isinstance(value, dict):
            present = section.get(key)
            if key not in _OF_A_KIND and isinstance(present, ConfigDict):
                _update(present, value)
                continue
            fresh = ConfigDict()
            _update(fresh, value)
            value = fresh
        elif isinstance(value, list):
            value = _to_tuple(value)
        # A key that is None on both sides keeps the type that the default gives it.
        if value is not None or key not in section or section[key] is not None:
            section[key] = value


def _to_tuple(value: Any) -> Any:
    """Returns lists as tuples, which JSON does not know and configs hold."""
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


def load_classes(folder: epath.Path) -> tuple[str, ...]:
    """Returns the names of the classes of the run; () if it has none.

    Raises:
      ValueError: if nothing was ever trained in this folder.
    """
    found = files.read(folder / files.CLASSES)
    if found is None:
        raise ValueError(
            f"--workdir {folder} holds no trained model ({files.CLASSES} is missing); "
            "train first, with --mode train"
        )
    return tuple(found)
