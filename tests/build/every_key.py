"""The walk over all config keys: second values, and probes that show their effect.

A `Case` gives a key a second value and names a probe, a function of the config that
returns something that the key is about. `check` asserts that the probe is deterministic
and that the second value changes it.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from simple_diffusion.configs import base, conditions, networks

SUBSECTIONS = ("schedule", "patches", "guidance_of", *conditions.KINDS)


class Case(NamedTuple):
    """How the effect of one key is shown.

    value: the second value; "{folder}" in it is replaced, see `set_keys`.
    probe: config -> anything that `same` can compare.
    given: other keys with the values without which the key has no effect; may hold the
      key itself, in place of its default.
    """

    value: Any
    probe: Callable[[ConfigDict], Any]
    given: Mapping[str, Any] = {}


def kinds(module: Any) -> dict[str, ConfigDict]:
    """Returns the sections that the functions of a module make, by their names."""
    made = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        needs = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty
        ]
        if name.startswith("_") or needs or function.__module__ != module.__name__:
            continue
        section = function()
        if "name" in section:
            made[section.name] = section
    return made


def all_keys() -> Iterator[str]:
    """Yields every key; those of one kind of section as "model:unet.channels"."""
    config = base.default()
    for section, keys in config.items():
        if section != "model":
            # A condition is a section; sample.image is the file of an image.
            sub = SUBSECTIONS if section != "sample" else ("guidance_of",)
            yield from (f"{section}.{key}" for key in keys if key not in sub)
    yield from (f"sample.guidance_of.{key}" for key in config.sample.guidance_of)
    for name, section in conditions.KINDS.items():
        yield from (f"conditions.{name}.{key}" for key in section())
    yield from (f"data.patches.{key}" for key in base.patches(8, 16))
    for kind, section in kinds(networks).items():
        yield from (f"model:{kind}.{key}" for key in section)
    for kind, section in kinds(base).items():
        yield from (f"diffusion.schedule:{kind}.{key}" for key in section)


def tiny() -> ConfigDict:
    """Returns a config of a tiny U-ViT of images of 8x8 pixels."""
    config = base.default()
    config.data.resolution = 8
    config.train.batch_size = 8
    config.sample.update(steps=3, count=2, batch_size=8)
    with config.unlocked():
        config.model = tiny_network("uvit")
    return config


def tiny_network(kind: str) -> ConfigDict:
    """Returns the section of a network of the least width in which all parts occur."""
    section = kinds(networks)[kind]
    section.update(base_channels=8, emb_channels=8, patching="none")
    if kind == "uvit":
        section.update(channels=(8,), blocks=(1,), trunk_blocks=2)
        section.update(trunk_channels=8, trunk_heads=2)
        return section
    section.update(channels=(8, 8), blocks=(1, 1), heads=(2, 2))
    if kind == "unet":
        section.update(attention_resolutions=(4,), dropout_resolution=4)
    else:
        section.update(kinds=("conv", "transformer"), dropout=(0.0, 0.1))
    return section


def set_keys(config: ConfigDict, values: Mapping[str, Any], folder: str = "") -> None:
    """Sets keys by their dotted names; "{folder}" in a text becomes `folder`."""
    for name, value in values.items():
        *path, key = name.split(".")
        section = functools.reduce(ConfigDict.__getitem__, path, config)
        if isinstance(value, str):
            value = value.replace("{folder}", folder)
        with config.unlocked():
            if isinstance(value, ConfigDict):
                value = value.copy_and_resolve_references()
            section[key] = value


def check(name: str, case: Case, folder: str = "") -> None:
    """Asserts that the probe repeats itself, and that the second value changes it."""
    key = name.partition(":")[0]
    if ":" in name:
        key = f"{key}.{name.rpartition('.')[2]}"

    def probe(changes: Mapping[str, Any]) -> Any:
        config = tiny()
        set_keys(config, case.given, folder)
        set_keys(config, changes, folder)
        return case.probe(config)

    # A kind has no second name: another section takes its place.
    changes = {key.removesuffix(".name") if _is_section(case) else key: case.value}
    known = case.probe, repr(sorted(case.given.items(), key=str)), folder
    if known not in _FIRST:
        _FIRST[known] = probe({})
    if case.probe not in _REPEATED:
        _REPEATED.add(case.probe)
        assert same(_FIRST[known], probe({})), f"{name}: the probe is not deterministic"
    assert not same(_FIRST[known], probe(changes)), f"{name}={case.value} has no effect"


# What probes returned without a second value; many keys share it.
_FIRST: dict[Any, Any] = {}
# The probes that were run twice, to see that they are deterministic.
_REPEATED: set[Callable] = set()


def _is_section(case: Case) -> bool:
    return isinstance(case.value, ConfigDict) and "name" in case.value


def same(a: Any, b: Any) -> bool:
    """Returns whether two trees are equal, NaN counting as equal to itself."""
    leaves, structure = jax.tree.flatten(a, is_leaf=lambda x: x is None)
    others, other_structure = jax.tree.flatten(b, is_leaf=lambda x: x is None)
    return structure == other_structure and all(map(_equal, leaves, others))


def _equal(a: Any, b: Any) -> bool:
    arrays = np.ndarray | np.generic | jax.Array
    if not isinstance(a, arrays) or not isinstance(b, arrays):
        return bool(a == b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    is_float = np.issubdtype(np.asarray(a).dtype, np.floating)
    return np.array_equal(a, b, equal_nan=is_float)


def write_images(folder: Any, count: int = 20) -> str:
    """Writes noise, of two classes, and returns the folder.

    Every third image is higher than wide.
    """
    random = np.random.default_rng(0)
    for k in range(count):
        path = folder / "ab"[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (16, 24) if k % 3 else (24, 16)
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return str(folder)
