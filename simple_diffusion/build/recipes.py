"""Finds recipes by name or path, and loads them without the command line."""

import functools
import importlib
import importlib.machinery
import inspect
import os
import re
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    file, variant = _split(text)
    if file.endswith(".py") or os.path.basename(file) != file:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"there is no recipe at {os.path.abspath(file)}")
        return text
    if file not in names():
        raise ValueError(
            f"recipe {file!r} must be the path of a .py file or one of: "
            + ", ".join(names())
        )
    return f"{_folder() / file}.py" + (f":{variant}" if variant else "")


def load(text: str) -> ConfigDict:
    """Returns the config of a recipe.

    Args:
      text: name or path, optionally with `:variant`; see `resolve`.

    Raises:
      ValueError: there is no recipe of that name, it has no such variant, or it fails.
      FileNotFoundError: there is no file at that path.
    """
    path, variant = _split(resolve(text))
    try:
        loader = importlib.machinery.SourceFileLoader(f"recipe_{Path(path).stem}", path)
        module = types.ModuleType(loader.name)
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise ValueError(f"recipe {path} defines no function get_config()")
        arguments = _check_variant(text, get_config, variant)
        config = get_config(*arguments)
    except (ValueError, OSError):  # the recipe's own message
        raise
    except Exception as error:
        if variant and isinstance(error, KeyError) and error.args == (variant,):
            raise ValueError(f"recipe {path} has no variant {variant!r}") from error
        raise ValueError(
            f"recipe {text} fails in {_locate(error, path)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() of recipe {path} must return a ConfigDict, it returns "
            f"{type(config).__name__}"
        )
    return config


def _split(text: str) -> tuple[str, str]:
    """Returns file or name, and the variant; a path may hold colons, too."""
    match = re.fullmatch(r"(.*\.py)(?::(.*))?", text, re.DOTALL)
    file, variant = match.groups() if match else text.partition(":")[::2]
    return file, variant or ""


def _check_variant(
    text: str, get_config: Callable[..., Any], variant: str
) -> list[str]:
    """Returns the arguments of `get_config` for a variant."""
    parameters = inspect.signature(get_config).parameters.values()
    if variant and not parameters:
        raise ValueError(
            f"recipe {text}: it has no variants; leave out the part :{variant}"
        )
    if not variant and any(p.default is p.empty for p in parameters):
        raise ValueError(f"recipe {text} needs a variant: --config {text}:VARIANT")
    return [variant] if variant else []


def _locate(error: Exception, path: str) -> str:
    """Returns the file of an error, with the last line of it that was running."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f"{path}, line {lines[-1]}" if lines else path


def defaults() -> ConfigDict:
    """Returns every key with its default, see configs/base.py."""
    return _module("base").default()


def _module(name: str) -> Any:
    return importlib.import_module(f"{configs.__name__}.{name}")


def check(config: ConfigDict) -> None:
    """Checks numbers and names of a config against what configs/base.py declares.

    Raises:
      ValueError: a number is out of range, or a name is unknown; the message names the
        key, the value and what is valid.
    """
    _declare_all()
    _module("keys").check(config)


@functools.cache
def _declare_all() -> None:
    """Makes every section once: a stored config was not made by these functions."""
    base = _module("base")
    base.default()
    base.patches(1, None)
    for make_section in _module("conditions").KINDS.values():
        make_section()
    for make_section in (*_module("networks").KINDS.values(), *base.SCHEDULES.values()):
        make_section()


def section_defaults(name: str, kind: str) -> ConfigDict:
    """Returns a section of several kinds with the defaults of its keys.

    Args:
      name: `model`, `schedule`, `patches`, or a condition such as `text`.
      kind: the value of its key `name`; an unknown one gives an empty section.
    """
    if name == "patches":
        return _module("base").patches(1, None)
    if name in _module("conditions").KINDS:
        return _module("conditions").KINDS[name]()
    kinds = _module("networks").KINDS if name == "model" else _module("base").SCHEDULES
    return kinds[kind]() if kind in kinds else ConfigDict()


def _folder() -> Path:
    return Path(configs.__path__[0])
