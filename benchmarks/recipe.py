"""Recipes as plain values, for machines without the packages of configs.

`load` reads a config file, which needs ml_collections, or the `config.json` of a
workdir, which does not. `build` reads both by attributes.
"""

import ast
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import protocol


class Section(dict):
    """A section of a recipe, whose keys are also attributes as in a ConfigDict."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"the recipe has no key {key}") from None


def load(name: str) -> dict[str, Any]:
    """Returns the recipe of `configs/x.py`, `configs/x.py:variant` or `x.json`."""
    file, _, variant = name.partition(":")
    path = Path(file) if Path(file).is_absolute() else protocol.ROOT / file
    if path.suffix == ".json":
        return json.loads(path.read_text())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config {name!r} must be a .py or .json file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error}: where configs cannot be read, give --config a .json file, the "
            "config.json of a workdir or what --describe has written elsewhere"
        ) from None
    config = module.get_config(*[variant] if variant else [])
    return json.loads(config.to_json_best_effort())


def changes(texts: Iterable[str], section: str = "") -> dict[str, Any]:
    """Returns {"model.remat": "full"} of "model.remat=full" and the like.

    Args:
      texts: key=value; values are Python literals or else strings.
      section: of the keys that name none.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} must be key=value")
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            literal = value
        found[key if "." in key else f"{section}.{key}"] = literal
    return found


def changed(recipe: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a recipe with other values at some keys.

    Raises:
      ValueError: the recipe has no such key.
    """
    copy = json.loads(json.dumps(recipe))
    for key, value in by.items():
        *path, last = key.split(".")
        section = copy
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ValueError(f"the recipe has no key {key}")
        section[last] = value
    return copy


def sections(tree: Any) -> Any:
    """Returns a recipe as `build` reads configs: by attributes, lists as tuples."""
    if isinstance(tree, dict):
        return Section({key: sections(value) for key, value in tree.items()})
    if isinstance(tree, list):
        return tuple(sections(value) for value in tree)
    return tree


def peer_arguments(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the peer's U-ViT, see `peer`, for a recipe of ours.

    Its widths, depth, heads, dropout and patch size; the peer has two blocks a level on
    the way down and up, whatever the recipe has, and a third at the end.

    Raises:
      ValueError: the recipe is of another network, which the peer has not.
    """
    m = recipe["model"]
    if m["name"] != "uvit":
        raise ValueError(
            f"the peer has a U-ViT and no model.name={m['name']!r}: leave out "
            "--peer-python"
        )
    width, *wider = m["channels"]
    kind, _, number = m["patching"].partition("_")
    return dict(
        dim=width,
        dim_mults=tuple(c // width for c in (*wider, m["trunk_channels"])),
        vit_depth=m["trunk_blocks"],
        vit_dropout=m["trunk_dropout"],
        attn_heads=m["trunk_heads"],
        attn_dim_head=m["trunk_channels"] // m["trunk_heads"],
        # Wavelets count levels, convolutions say the size itself.
        patch_size=int(number) if kind == "conv" else 2 ** int(number or 0),
    )
