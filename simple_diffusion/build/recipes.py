"""Finds recipes by name or path, and loads them without the command line."""

import importlib
import importlib.machinery
import os
import re
import types
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from simple_diffusion import configs


def names() -> list[str]:
    """Returns the names of the recipes that come with the library."""
    # base.py and a few other files define no recipe, only parts that recipes share.
    # Read the files without running them: one broken recipe must not hide the others.
    return sorted(
        path.stem
        for path in _folder().glob("*.py")
        if re.search(r"^def get_config\(", path.read_text("utf-8"), re.MULTILINE)
    )


def resolve(text: str) -> str:
    """Returns `path[:variant]` of a recipe, given its name or path.

    Args:
      text: `quickstart`, `imagenet512:uvit`, or the path of a file, `mine.py:variant`.
        A text that ends in .py or contains a slash is a path.

    Raises:
      ValueError: there is no recipe of that name.
      FileNotFoundError: there is no file at that path.
    """
    file, colon, variant = text.partition(":")
    if file.endswith(".py") or os.path.basename(file) != file:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"there is no recipe at {os.path.abspath(file)}")
        return text
    if file not in names():
        raise ValueError(
            f"recipe {file!r} must be the path of a .py file or one of: "
            + ", ".join(names())
        )
    return f"{_folder() / file}.py{colon}{variant}"


def load(text: str) -> ConfigDict:
    """Returns the config of a recipe.

    Args:
      text: name or path, optionally with `:variant`; see `resolve`.

    Raises:
      ValueError: there is no recipe of that name, or it has no such variant.
      FileNotFoundError: there is no file at that path.
    """
    path, _, variant = resolve(text).partition(":")
    loader = importlib.machinery.SourceFileLoader(f"recipe_{Path(path).stem}", path)
    module = types.ModuleType(loader.name)
    loader.exec_module(module)
    return module.get_config(*[variant] if variant else [])


def defaults() -> ConfigDict:
    """Returns every key with its default, see configs/base.py."""
    return importlib.import_module(f"{configs.__name__}.base").default()


def network_defaults(name: str | None) -> ConfigDict:
    """Returns the section `model` of a kind of network; empty for an unknown name."""
    networks = importlib.import_module(f"{configs.__name__}.networks")
    make: Callable[[], ConfigDict] = getattr(networks, name or "", ConfigDict)
    return make()


def _folder() -> Path:
    return Path(configs.__path__[0])
