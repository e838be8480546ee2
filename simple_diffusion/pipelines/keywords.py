"""Keyword arguments of `Model`: the keys of the config, with the same names.

A test compares them with `configs/base.py`, so that Python and the command line stay
the same. The default of every keyword is the value in the run's config.
"""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ml_collections import ConfigDict

from simple_diffusion.build import recipes
from simple_diffusion.core.options import Config

Size = str | tuple[int, int]
Classes = str | int | Sequence[str | int]


class SampleKeys(TypedDict, total=False):
    """Keys of the section `sample`, without the first arguments of `sample`."""

    seed: int
    count: int
    batch_size: int
    size: Size | None
    frame: str
    extrapolate: bool
    coarse_size: Size | None
    coarse_time: float
    window: int | None
    window_stride: int | None
    window_batch: int
    window_taper: float
    solver: str
    grid: str
    steps: int
    gamma: float
    eta: float
    guidance: float
    guidance_low: float | None
    guidance_high: float | None
    guidance_of: dict[str, float | None]
    clip: str
    prompts: Any
    layout: Any
    map: Any
    low_resolution: Any
    low_resolution_noise: float
    image: Any
    hole_mask: Any
    vector: Any


class RestoreKeys(TypedDict, total=False):
    """Keys of the section `restore`, and those of `sample` that a restoration uses.

    A name that both sections have sets the key of `restore`.
    """

    degrade: bool
    size: Size | None
    samples: int
    classes: Classes | None
    factor: int
    downsampling: str
    kernel: str
    blur_sigma: tuple[float, float] | None
    blur_taps: int | None
    blur_threshold: float
    sensing: str
    ratio: float
    block_side: int
    operator_seed: int
    sigma_y: float
    solver: str
    steps: int
    eta: float
    fresh: str
    clip: str
    travel_length: int
    travel_repeat: int
    travel_from_estimate: bool
    dilate: tuple[int, int] | None
    mask_mode: str
    compat: bool
    # Of the section `sample`.
    seed: int
    batch_size: int
    frame: str
    extrapolate: bool
    window: int | None
    window_stride: int | None
    window_batch: int
    window_taper: float
    grid: str
    gamma: float
    guidance: float
    guidance_low: float | None
    guidance_high: float | None


# Keys that are arguments of their own.
_ARGUMENTS = ("classes",)
_KEYS = {"sample": SampleKeys, "restore": RestoreKeys}
# Keys of `sample` that decide which weights are loaded -> arguments of `load`.
OF_LOAD = {
    "weights": "weights",
    "checkpoint_step": "step",
    "best_checkpoint": "best",
    "guidance_workdir": "guidance_workdir",
    "guidance_step": "guidance_step",
}


def set_keys(config: Config, section: str, keys: Mapping[str, Any]) -> None:
    """Sets keys of a section, as the command line does.

    Raises:
      ValueError: a key does not exist, it is an argument of `load`, or its value has
        the wrong type or is out of range.
    """
    known = typing.get_type_hints(_KEYS[section])
    for key, value in keys.items():
        if section == "sample" and key in OF_LOAD:
            raise ValueError(
                f"sample.{key} decides which weights are loaded: "
                f"simple_diffusion.load(..., {OF_LOAD[key]}=...)"
            )
        if key not in config[section] or not (key in known or key in _ARGUMENTS):
            raise ValueError(
                f"{section}.{key}: there is no such keyword; known are "
                f"{', '.join(sorted(known))}"
            )
        if key.endswith("size") and isinstance(value, tuple | list):
            value = "x".join(str(int(side)) for side in value)
        elif key == "classes" and value is not None:
            value = join_classes(value)
        elif known.get(key) is not Any:
            _check_type(f"{section}.{key}", value, known[key])
        if isinstance(value, Mapping) and isinstance(config[section][key], ConfigDict):
            _set_subkeys(config[section][key], f"{section}.{key}", value)
        else:
            config[section][key] = value
    recipes.check(config)


def _set_subkeys(config: Config, path: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in config:
            raise ValueError(
                f"{path}.{name}: there is no such key; known are "
                f"{', '.join(sorted(config))}"
            )
        config[name] = value


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Raises ValueError for a value that does not have its annotated type."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    allowed = tuple(typing.get_origin(option) or option for option in options)
    if float in allowed:
        allowed = (*allowed, int)
    if not isinstance(value, allowed) or (isinstance(value, bool) != (bool in allowed)):
        names = " or ".join(
            getattr(option, "__name__", str(option)) for option in options
        )
        raise ValueError(
            f"{name}={value!r} must be {names}".replace("NoneType", "None")
        )


def join_classes(classes: Classes) -> str:
    """Returns classes, by name or number, in the form of the config: "sun,3,house"."""
    if isinstance(classes, str | int):
        return str(classes)
    return ",".join(str(word) for word in classes)


def list_prompts(prompts: Classes) -> list[str]:
    """Returns prompts as a list; one alone may be given without a list."""
    if isinstance(prompts, str | int):
        return [str(prompts)]
    return [str(prompt) for prompt in prompts]


def fingerprint(config: Config, sections: Sequence[str], without: Sequence[str]) -> str:
    """Returns a string that is equal for equal values of the keys of some sections."""
    kept = {
        f"{section}.{key}": value
        for section in sections
        for key, value in json.loads(config[section].to_json_best_effort()).items()
        if f"{section}.{key}" not in without
    }
    return json.dumps(kept, sort_keys=True)
