"""The names of fields of stored examples: "caption", "objects", "map:NAME", ..."""

from collections.abc import Set

_KINDS = {"map": "maps", "vector": "vectors"}
MAP = "map:"
VECTOR = "vector:"


def to_source_field(name: str) -> str:
    """Returns a field as `protocols.Source` declares it: any map is "maps"."""
    return _KINDS.get(name.partition(":")[0], name)


def to_source_fields(fields: Set[str]) -> frozenset[str]:
    """Returns fields as `protocols.Source` declares them."""
    return frozenset(map(to_source_field, fields))


def select_wanted(fields: Set[str], wanted: Set[str]) -> frozenset[str]:
    """Returns the fields that are wanted, of those that a source has.

    Args:
      fields: that the source has.
      wanted: names of fields; "maps" are all maps.
    """
    return frozenset(
        name for name in fields if name in wanted or to_source_field(name) in wanted
    )


def list_maps(fields: Set[str]) -> list[str]:
    """Returns the names of the maps, in order."""
    return sorted(name.removeprefix(MAP) for name in fields if name.startswith(MAP))


def list_vectors(fields: Set[str]) -> list[str]:
    """Returns the names of the vectors, in order."""
    return sorted(
        name.removeprefix(VECTOR) for name in fields if name.startswith(VECTOR)
    )
