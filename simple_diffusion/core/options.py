"""The type of configs, and options by name."""

from collections.abc import Mapping
from typing import Any

# An ml_collections.ConfigDict, or a section of one. Type checkers cannot know its keys.
Config = Any


def pick(table: Mapping[str, Any], name: str, key: str) -> Any:
    """Returns table[name]; an unknown name is an error that lists the known ones."""
    if name not in table:
        raise ValueError(f"{key}={name!r} must be one of: {', '.join(table)}")
    return table[name]


def parse_size(text: str, key: str) -> tuple[int, int]:
    """Returns (height, width) of "HxW"; ValueError, with the key, for other texts."""
    numbers = text.lower().split("x")
    # Zero is accepted here: what uses the size says which sizes it supports.
    if len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
        raise ValueError(f"{key}={text!r} must be HxW in pixels, such as 64x96")
    return int(numbers[0]), int(numbers[1])


def training_size(config: Config) -> tuple[int, int]:
    """Returns height and width in pixels of the images or patches of the training.

    Raises:
      ValueError: `data.resolution` is neither a side nor HxW.
    """
    side = config.data.resolution
    if isinstance(side, str):
        return parse_size(side, "data.resolution")
    return side, side
