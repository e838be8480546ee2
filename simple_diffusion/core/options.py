"""Configs as types see them, and options by name."""

from collections.abc import Mapping
from typing import Any

# An ml_collections.ConfigDict, or a section of one. No type checker can know its keys.
Config = Any


def pick(table: Mapping[str, Any], name: str, key: str) -> Any:
    """Returns table[name]; an unknown name is an error that lists the known ones."""
    if name not in table:
        raise ValueError(f"{key}={name!r} must be one of: {', '.join(table)}")
    return table[name]
