"""The config and class names of a run, stored in its workdir."""

import json
import os
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from simple_diffusion.build import recipes
from simple_diffusion.build.conditioning.kinds import CONDITIONS
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config


def save_config(
    config: Config,
    folder: epath.Path,
    class_names: tuple[str, ...],
    words: Lexicon | None = None,
) -> None:
    """Writes config, class names, words; prints every key that changed."""
    if jax.process_index():
        return
    now = json.loads(config.to_json_best_effort())
    before = _read_completed(folder)
    if before:
        for line in files.list_differences(before, now):
            console.print_line(f"changed since the last start of this run: {line}")
    files.write_json(folder / files.CONFIG, now)
    files.write_json(folder / files.CLASSES, class_names)
    if words is not None:
        words.save(folder)


def print_differences(config: Config, folder: epath.Path) -> None:
    """Prints the keys of the model that differ from those of its training.

    Many settings of a training cannot be recognised in the parameters, such as the
    range of image sizes.
    """
    before = _read_completed(folder)
    if jax.process_index() or not before:
        return
    now = json.loads(config.to_json_best_effort())
    for section in ("data", "model", "diffusion"):
        for line in files.list_differences(before.get(section), now[section], section):
            console.print_line(f"differs from the training: {line}")


def _read_completed(folder: epath.Path) -> dict[str, Any]:
    """Returns the stored config with the keys that are newer than it; {} without one.

    Complete, so that newer keys do not count as changed.
    """
    stored = files.read_json(folder / files.CONFIG)
    return json.loads(complete_config(stored).to_json_best_effort()) if stored else {}


def load_config(folder: epath.Path) -> Config:
    """Returns the config that a run was last trained with.

    Raises:
      ValueError: the folder holds no trained model.
    """
    stored = files.read_json(folder / files.CONFIG)
    if stored is None:
        raise ValueError(f"{folder} holds no trained model ({files.CONFIG} is missing)")
    return complete_config(stored)


def load_config_for(mode: str, folder: epath.Path) -> Config:
    """Returns the config of the run in a workdir, for one of the modes.

    Training continues on the mesh of the run; the other modes use all devices of this
    machine, which may have fewer than that of the training.

    Raises:
      ValueError: the folder holds no run.
    """
    if not (folder / files.CONFIG).exists():
        if mode == "report":
            return recipes.defaults()  # it reads whatever is in the workdir
        first = "" if mode == "train" else "train first; or "
        raise ValueError(
            f"--workdir={folder} holds no run ({files.CONFIG} is missing): {first}name "
            f"a recipe by --config, one of: {', '.join(recipes.names())}"
        )
    config = load_config(folder)
    if mode != "train":
        use_all_devices(config)
    return config


def load_config_file(path: str) -> Config:
    """Returns the config in a config.json, on all devices of this machine.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds no config.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no config at {os.path.abspath(path)}")
    try:
        config = complete_config(json.loads(file.read_text()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--config={path} is no {files.CONFIG} of a run ({error})"
        ) from error
    use_all_devices(config)
    return config


def use_all_devices(config: Config) -> None:
    """Replaces the mesh of another machine by one over all devices of this one."""
    config.mesh.update(data=-1, fsdp=1, tensor=1, slices=1, split_rows=False)


def complete_config(stored: dict[str, Any]) -> Config:
    """Returns a stored config, with the defaults of keys that are newer than it."""
    config = recipes.defaults()
    with config.unlocked(), config.ignore_type():
        _update(config, stored)
    return config.lock()


# Sections whose keys depend on their kind: the defaults of their own kind count.
_REPLACED_SECTIONS = ("model", "schedule", "patches", *CONDITIONS)


def _update(section: ConfigDict, stored: dict[str, Any]) -> None:
    for key, value in stored.items():
        if isinstance(value, dict):
            present = section.get(key)
            if key not in _REPLACED_SECTIONS and isinstance(present, ConfigDict):
                _update(present, value)
                continue
            subsection = ConfigDict()
            if key in _REPLACED_SECTIONS:
                subsection = recipes.section_defaults(key, value.get("name", ""))
            with subsection.unlocked(), subsection.ignore_type():
                _update(subsection, value)
            value = subsection
        elif isinstance(value, list):
            value = _to_tuple(value)
        # A key that is None on both sides keeps the type of its default.
        if value is not None or key not in section or section[key] is not None:
            section[key] = value


def _to_tuple(value: Any) -> Any:
    """Converts lists to tuples: configs hold tuples, which JSON stores as lists."""
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


def load_classes(folder: epath.Path) -> tuple[str, ...]:
    """Returns the class names of the run; () if it has none.

    Raises:
      ValueError: the folder holds no trained model.
    """
    names = files.read_json(folder / files.CLASSES)
    if names is None:
        raise ValueError(
            f"--workdir {folder} holds no trained model ({files.CLASSES} is missing); "
            "train first, with --mode train"
        )
    return tuple(names)
