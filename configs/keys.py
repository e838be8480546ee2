"""Declares the keys of a config: numbers with a range, names with their choices.

`configs/base.py` declares `label_drop=number(0.1, "[0, 1]")` and
`prediction=choice("v", "eps | x | v | u")`. `section` makes a section of the config,
which holds plain values, and records what was declared; `check` compares a config with
it, before any work begins.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from ml_collections import ConfigDict, FieldReference

# Keys of one section, the first of which must be below the second.
_ORDERED = (
    ("logsnr_min", "logsnr_max"),
    ("guidance_low", "guidance_high"),
    ("low", "high"),
)
_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")
_SIZE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE | re.ASCII)


class Range(NamedTuple):
    """The finite numbers between two bounds.

    Fields:
      text: in interval notation: "[0, 1)" contains 0, but not 1.
      low, high: the bounds.
      has_low, has_high: whether the range contains them.
    """

    text: str
    low: float
    high: float
    has_low: bool
    has_high: bool

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = value >= self.low if self.has_low else value > self.low
        below = value <= self.high if self.has_high else value < self.high
        # NaN is neither.
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        return f"in the range {self.text}"


class Choices(NamedTuple):
    """The names, or numbers, that a key may have."""

    names: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.names and not isinstance(value, bool)

    def __str__(self) -> str:
        return f"one of: {', '.join(map(str, self.names))}"


class Sizes(NamedTuple):
    """Sides of square images in pixels, and sizes of others as texts HxW."""

    sides: Range

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return isinstance(value, int) and value in self.sides
        found = _SIZE.fullmatch(value)
        return bool(found) and all(int(n) in self.sides for n in found.groups())

    def __str__(self) -> str:
        return f"a side {self.sides}, or a size HxW, such as 64x96"


class Valid(Protocol):
    """The valid values of a key, and their description for errors."""

    def __contains__(self, value: Any, /) -> bool: ...

    def __str__(self) -> str: ...


class Declaration(NamedTuple):
    """The default of a key, its valid values, and whether it may be None."""

    default: Any
    valid: Valid
    is_optional: bool


def number(default: Any, within: str, is_optional: bool = False) -> Declaration:
    """Declares a key that holds a number, or a tuple whose entries are numbers.

    Args:
      default: with a placeholder as its default, a key may be None.
      within: the range in interval notation.
      is_optional: whether the key may be None all the same.
    """
    is_optional = is_optional or isinstance(default, FieldReference)
    return Declaration(default, parse_range(within), is_optional)


def size(default: int, within: str) -> Declaration:
    """Declares a key that holds a side in pixels, or a text HxW.

    Args:
      default: a side.
      within: the range of sides in interval notation.
    """
    # A reference of this type may hold values of both types.
    reference = FieldReference(default, field_type=object)
    return Declaration(reference, Sizes(parse_range(within)), is_optional=False)


def whole_choice(default: int, *numbers: int) -> Declaration:
    """Declares a key that holds one of some whole numbers."""
    return Declaration(default, Choices(numbers), is_optional=False)


def choice(default: Any, names: str) -> Declaration:
    """Declares a key that holds one of some names, or a tuple of them.

    Args:
      default: with a placeholder as its default, a key may be None.
      names: such as "eps | x | v | u".
    """
    valid = Choices(tuple(names.split(" | ")))
    return Declaration(default, valid, isinstance(default, FieldReference))


def parse_range(text: str) -> Range:
    """Returns the range that an interval describes, such as "(0, 1]".

    Raises:
      ValueError: the text is no interval, or an empty one.
    """
    found = _INTERVAL.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} must be an interval such as '[0, 1)'")
    opening, low, high, closing = found.groups()
    interval = Range(text, float(low), float(high), opening == "[", closing == "]")
    if not interval.low < interval.high:
        raise ValueError(f"{text!r} is empty")
    return interval


# All keys of each section, and what it declares by key; filled by `section`.
_KEYS: dict[str, set[str]] = {}
_DECLARED: dict[str, dict[str, Declaration]] = {}


def section(name: str, keys: Mapping[str, Any]) -> ConfigDict:
    """Returns a section with the defaults of its keys, and records declarations.

    Args:
      name: of the section; with several kinds, "model:unet".
      keys: each default, or what `number` or `choice` returns.
    """
    _KEYS[name] = set(keys)
    _DECLARED[name] = {
        key: value for key, value in keys.items() if isinstance(value, Declaration)
    }
    return ConfigDict(
        {
            key: value.default if isinstance(value, Declaration) else value
            for key, value in keys.items()
        }
    )


def declared(name: str) -> Mapping[str, Declaration]:
    """Returns what a section declares, by key; empty if no such section was made."""
    return _DECLARED.get(name, {})


def check(config: ConfigDict, path: str = "") -> None:
    """Checks every number and name of a config.

    Args:
      config: the whole config, or the section at `path`.
      path: "" for the whole config.

    Raises:
      ValueError: a number is out of its range, NaN or infinite, a name is unknown, the
        bounds of an interval are exchanged, or a section has keys of another kind; the
        message names the key, the value and what is valid.
    """
    kind = _check_kind(config, path)
    declarations = declared(kind)
    for key, value in config.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, ConfigDict):
            check(value, name)
        elif key in declarations:
            _check_value(name, value, declarations[key])
    for low, high in _ORDERED:
        bounds = config.get(low), config.get(high)
        if None not in bounds and not bounds[0] < bounds[1]:
            raise ValueError(
                f"{path}.{low}={bounds[0]} must be below {path}.{high}={bounds[1]}"
            )


def _check_kind(config: ConfigDict, path: str) -> str:
    """Returns the name of a section, with its kind if there are several."""
    kinds = [name for name in _KEYS if path and name.startswith(f"{path}:")]
    if not kinds:
        return path
    found = f"{path}:{config.name}"
    names = sorted(name.partition(":")[2] for name in kinds)
    if found not in kinds:
        raise ValueError(
            f"{path}.name={config.name!r} must be one of: {', '.join(names)}"
        )
    missing = sorted(_KEYS[found] - set(config))
    if missing:
        raise ValueError(
            f"{path}.name={config.name!r}: {path}.{missing[0]} is missing, because the "
            "section has the keys of another kind. --config can change values of a "
            f"section, not its kind: write a recipe that sets config.{path} as a whole"
        )
    return found


def _check_value(name: str, value: Any, declaration: Declaration) -> None:
    if value is None and declaration.is_optional:
        return
    is_single = isinstance(declaration.valid, Sizes)
    for entry in [value] if is_single else _entries(value):
        if entry not in declaration.valid:
            either = ", or None" if declaration.is_optional else ""
            raise ValueError(f"{name}={value!r} must be {declaration.valid}{either}")


def _entries(value: Any, is_nested: bool = False) -> Iterator[Any]:
    """Yields the numbers or names of a value, which may be a tuple of intervals."""
    if not isinstance(value, tuple | list):
        yield value
        return
    for entry in value:
        if is_nested and entry is None:
            continue  # an interval without this bound
        yield from _entries(entry, is_nested=True)
