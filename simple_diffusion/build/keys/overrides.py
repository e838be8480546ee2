"""Overrides of config keys by texts: `train.batch_size=64` of `--config.train...`."""

import ast
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference

from simple_diffusion.build import recipes
from simple_diffusion.core.options import Config

_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


class Override(NamedTuple):
    """A key and its new value as the user wrote them; `text` None is a key alone."""

    key: str
    text: str | None

    def __str__(self):
        value = "" if self.text is None else f"={self.text}"
        return f"--config.{self.key}{value}"


def apply(config: Config, overrides: Iterable[Override]) -> None:
    """Changes keys of a config in place; of a key given twice, the last value counts.

    A tuple may also be given by its elements, each as an override of its own.

    Raises:
      ValueError: there is no such key, or the text is no value for it.
    """
    elements: dict[str, tuple] = {}
    for override in overrides:
        section, name = _find(config, override)
        value = _parse(config, section, name, override)
        if isinstance(value, tuple):
            value = elements[override.key] = elements.get(override.key, ()) + value
        section[name] = value


def list_keys(config: Config, prefix: str = "") -> Iterator[str]:
    """Yields the dotted name of every key that is no section."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from list_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _find(config: Config, override: Override) -> tuple[Config, str]:
    """Returns the section of a key and its name there."""
    *path, name = override.key.split(".")
    section, done = config, ""
    for part in path:
        done = f"{done}.{part}".strip(".")
        if part not in section:
            raise ValueError(_describe_unknown(config, override))
        if section[part] is None and section.get_type(part) is ConfigDict:
            raise ValueError(
                f"{override}: {done} is None in this recipe, so {name!r} is no key of "
                f"it; start from a recipe that has {done}: "
                f"{', '.join(_recipes_with(done)) or 'none of the library does'}"
            )
        section = section[part]
        if not isinstance(section, ConfigDict):
            raise ValueError(
                f"{override}: {done} is a value, not a section of keys; write "
                f"--config.{done}=VALUE"
            )
    if name not in section:
        raise ValueError(_describe_unknown(config, override))
    return section, name


def _describe_unknown(config: Config, override: Override) -> str:
    keys = list(list_keys(config))
    name = override.key.rsplit(".", 1)[-1]
    same_name = [key for key in keys if key.rsplit(".", 1)[-1] == name]
    close = difflib.get_close_matches(override.key, keys, n=1)
    if close and "." in override.key:  # a section is given: the whole name counts
        same_name = close
    likely = " or ".join(same_name or close)
    hint = f"; did you mean {likely}?" if likely else ""
    return (
        f"{override}: there is no key {override.key}{hint} (configs/base.py lists all "
        "keys)"
    )


def _recipes_with(section: str) -> list[str]:
    """Returns the names of the recipes in which a section is not None."""

    def has(recipe: str) -> bool:
        value = recipes.load(recipe)
        for part in section.split("."):
            value = value.get(part) if isinstance(value, ConfigDict) else None
        return value is not None

    return [name for name in recipes.names() if has(name)]


def _parse(config: Config, section: Config, name: str, override: Override) -> Any:
    """Returns the value of an override in the type of its key."""
    kind = section.get_type(name)
    current = section[name]
    if isinstance(current, ConfigDict) and override.text is None:
        keys = ", ".join(current)
        raise ValueError(
            f"{override} is a section; give one of its keys, such as "
            f"--config.{override.key}.{next(iter(current))}=VALUE: {keys}"
        )
    text = override.text
    if text is None:
        if kind is not bool:
            raise ValueError(f"{override} needs a value: {override}=VALUE")
        text = "true"
    fields = dict(section.items(preserve_field_references=True))
    is_optional = isinstance(fields[name], FieldReference)
    if is_optional and text in ("None", "none"):
        return None
    what, parse = _KINDS.get(kind, ("a text", str))
    try:
        return parse(text)
    except (ValueError, SyntaxError):
        now = f"; it is {current!r} now" if not isinstance(current, ConfigDict) else ""
        raise ValueError(
            f"{override}: {override.key} must be {what}"
            f"{' or None' if is_optional else ''}{now}"
        ) from None


def _parse_bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _parse_int(text: str) -> int:
    return int(text, 0) if text.lower().startswith(("0x", "0o", "0b")) else int(text)


def _parse_tuple(text: str) -> tuple:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if any(mark in text for mark in "()[]{}'\""):
            raise
        value = tuple(word.strip() for word in text.split(",") if word.strip())
    if isinstance(value, list):
        value = tuple(value)
    return value if isinstance(value, tuple) else (value,)


def _parse_side_or_size(text: str) -> int | str:
    if text.isdecimal():
        return int(text)
    if not all(side.isdecimal() for side in text.lower().split("x", 1)):
        raise ValueError(text)
    return text


def _parse_any(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parse_section(text: str) -> ConfigDict:
    value = ast.literal_eval(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return ConfigDict(value)


# Type of a key -> what it must be, for messages, and its parser.
_KINDS: dict[type, tuple[str, Callable[[str], Any]]] = {
    bool: ("True or False", _parse_bool),
    int: ("a whole number", _parse_int),
    float: ("a number", float),
    str: ("a text", str),
    object: ("a side in pixels or a size HxW", _parse_side_or_size),
    # In the config of a run, where a key of a replaced section has lost its type.
    type(None): ("a value", _parse_any),
    tuple: ("a tuple, such as (1, 2) or a,b", _parse_tuple),
    ConfigDict: ("a section, {'key': value, ...}", _parse_section),
}
