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


def training_size(config: Config) -> tuple[int, int]:
    """Returns height and width in pixels of the images or patches of the training."""
    side = config.data.resolution
    return side, side
