"""Config and class names of a run, in its workdir."""

import json
from collections.abc import Callable

import jax
from etils import epath
from ml_collections import ConfigDict

from simple_diffusion.core import files
from simple_diffusion.core.options import Config

# What the trained parameters depend on.
_SECTIONS = ("data", "model", "diffusion", "loss", "optimizer", "ema")


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
    before = files.read(folder / files.CONFIG)
    for section in _SECTIONS if before else ():
        for line in files.differences(before.get(section), now[section], section):
            say(f"changed since this run began: {line}")
    files.write(folder / files.CONFIG, now)
    files.write(folder / files.CLASSES, class_names)


def compare(config: Config, folder: epath.Path, say: Callable[[str], None]) -> None:
    """Says which keys that say what the model is differ from those of its training.

    Much of what a model was trained with leaves no trace in its parameters, such as the
    range of sizes in which it knows the scale.
    """
    before = files.read(folder / files.CONFIG)
    if jax.process_index() or not before:
        return
    now = json.loads(config.to_json_best_effort())
    for section in ("data", "model", "diffusion"):
        for line in files.differences(before.get(section), now[section], section):
            say(f"differs from the training: {line}")


def config(folder: epath.Path) -> Config:
    """Returns the config that a run was last trained with.

    Raises:
      ValueError: if nothing was ever trained in this folder.
    """
    found = files.read(folder / files.CONFIG)
    if found is None:
        raise ValueError(f"{folder} holds no trained model ({files.CONFIG} is missing)")
    return ConfigDict(found)


def class_names(folder: epath.Path) -> tuple[str, ...]:
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
