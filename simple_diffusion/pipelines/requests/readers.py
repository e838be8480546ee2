"""One reader for each condition: what users ask for -> arrays of a batch.

A reader returns the same arrays, `Batch.fields`, that the host encoder of the condition
makes of an example, so that sampling and training cannot differ.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.conditioning.kinds import CONDITIONS
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.build.text import frozen
from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.core.options import Config
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.data.errors import UnsuitableImage
from simple_diffusion.data.records.text_features import VECTOR
from simple_diffusion.pipelines.requests import files, prompts
from simple_diffusion.pipelines.restoration import masks

Size = tuple[int, int]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ask:
    """What a user asks of one condition.

    name: of the condition.
    config: the whole config.
    values: keys of `sample` that belong to the condition -> their values, as texts of
      the config or as Python objects; only those that are set.
    lexicon: words and names of the model.
    size: height and width of the images in pixels.
    """

    name: str
    config: Config
    values: Mapping[str, Any]
    lexicon: Lexicon
    size: Size

    @property
    def section(self) -> Config:
        """The section of the condition."""
        return self.config.conditions[self.name]

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self.config.data.channels

    def encode(self, examples: list[Example], key: str) -> Arrays:
        """Returns the arrays of the condition's host encoder, [n, ...].

        Raises:
          ValueError: there is no example, or the encoder cannot use one.
        """
        if not examples:
            raise ValueError(f"sample.{key} holds no value")
        encoder: Encoder = CONDITIONS[self.name].encoder(
            self.section, self.channels, self.lexicon
        )
        rng = np.random.default_rng(0)  # these encoders use no random numbers
        try:
            rows = [encoder.encode(example, rng) for example in examples]
        except UnsuitableImage as error:
            raise ValueError(f"sample.{key}: {error}") from error
        return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


class Answer(NamedTuple):
    """Arrays of the n values of a condition.

    arrays: entries of `Batch.fields`, [n, ...].
    titles: of the values, such as prompts or names of files; () without any.
    images: uint8 [n, h, w, c], where a condition is made of an image.
    """

    arrays: Arrays
    titles: tuple[str, ...] = ()
    images: np.ndarray | None = None

    @property
    def count(self) -> int:
        """The number of values."""
        return len(next(iter(self.arrays.values())))


def read_text(ask: Ask) -> Answer:
    """Reads `prompts`."""
    texts = prompts.parse_prompts(ask.values["prompts"])
    blank = np.zeros((1, 1, 3), np.uint8)
    examples = [Example(blank, caption=text) for text in texts]
    return Answer(ask.encode(examples, "prompts"), tuple(texts))


def read_text_features(ask: Ask) -> Answer:
    """Reads `prompts` for the condition `text_features`, by the frozen encoder."""
    texts = prompts.parse_prompts(ask.values["prompts"])
    rows = frozen.embed_prompts(texts, ask.section.encoder, ask.lexicon.text_encoding)
    blank = np.zeros((1, 1, 3), np.uint8)
    examples = [Example(blank, vectors={VECTOR: row.reshape(-1)}) for row in rows]
    return Answer(ask.encode(examples, "prompts"), tuple(texts))


def read_layout(ask: Ask) -> Answer:
    """Reads `layout`."""
    key, blank = "sample.layout", np.zeros((1, 1, 3), np.uint8)
    examples = []
    for entries in files.read_layouts(ask.values["layout"], key):
        numbers = [
            ask.lexicon.find("layout", entry["class"], key, ask.section.classes)
            for entry in entries
        ]
        boxes = np.array([entry["box"] for entry in entries], np.float32)
        objects = Objects(boxes.reshape(-1, 4), np.array(numbers, np.int32))
        examples.append(Example(blank, objects=objects))
    return Answer(ask.encode(examples, "layout"))


def read_semantic(ask: Ask) -> Answer:
    """Reads `map` for the condition `semantic`."""
    found = files.read_maps(ask.values["map"], "sample.map")
    found = [one._replace(value=one.value.astype(np.int32)) for one in found]
    return _read_map(ask, found)


def read_image_map(ask: Ask) -> Answer:
    """Reads `map` for the condition `image`."""
    c, value = ask.section, ask.values["map"]
    if c.kind == "pixels":
        found = files.read_images(value, "sample.map", c.channels)
    else:
        found = files.read_maps(value, "sample.map")
        # Files of images hold integers, of which the largest means `high`.
        found = [one._replace(value=_to_measure(c, one.value)) for one in found]
    return _read_map(ask, found)


def _to_measure(c: Config, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f":
        return value.astype(np.float32)
    share = value.astype(np.float32) / np.iinfo(value.dtype).max
    return c.low + (c.high - c.low) * share


def _read_map(ask: Ask, found: list[files.Named]) -> Answer:
    for one in found:
        _check_size(one, ask.size, "map")
    blank = np.zeros((*ask.size, 3), np.uint8)
    examples = [Example(blank, maps={ask.section.map: one.value}) for one in found]
    return Answer(ask.encode(examples, "map"), _titles(found))


def read_low_resolution(ask: Ask) -> Answer:
    """Reads `low_resolution`, with the noise of `low_resolution_noise`."""
    c, key = ask.section, "sample.low_resolution"
    level = field_conditions.read_noise_level(ask.config)
    found = files.read_images(ask.values["low_resolution"], key, ask.channels)
    for one in found:
        h, w = (side * c.factor for side in one.value.shape[:2])
        if (h, w) != ask.size:
            raise ValueError(
                f"{key}: {one.name or 'the image'} is {_show(one.value.shape)}, which "
                f"the factor {c.factor} of this model enlarges to {h}x{w}; set "
                f"sample.size={h}x{w} for this image (now {_show(ask.size)})"
            )
    n = len(found)
    arrays = {
        "low_resolution.small": np.stack([one.value for one in found]),
        "low_resolution.logsnr": np.full(n, level, np.float32),
        "low_resolution.seed": np.arange(n, dtype=np.uint32)
        + ask.config.sample.seed % 2**31,
    }
    return Answer(arrays, _titles(found))


def read_inpainting(ask: Ask) -> Answer:
    """Reads `image` and `hole_mask`."""
    missing = {"image", "hole_mask"} - {*ask.values}
    if missing:
        raise ValueError(
            f"sample.{missing.pop()} must be set: in-painting needs an image and its "
            "hole (sample.image, sample.hole_mask)"
        )
    found = files.read_images(ask.values["image"], "sample.image", ask.channels)
    for one in found:
        _check_size(one, ask.size, "image")
    hole = ask.values["hole_mask"]
    hole = os.fspath(hole) if isinstance(hole, os.PathLike) else hole
    if isinstance(hole, str):
        holes = [
            masks.load_hole_mask(
                *(hole, one.name, ask.size, ask.size, ask.config.sample.seed, False),
                key="sample.hole_mask",
            )
            for one in found
        ]
    else:
        given = files.read_maps(_to_masks(hole), "sample.hole_mask")
        for one in given:
            _check_size(one, ask.size, "hole_mask")
        holes = [
            masks.fit_hole(
                *(one.value, "the array", "the image", ask.size, ask.size, False),
                key="sample.hole_mask",
            )
            for one in given
        ]
    n = max(len(found), len(holes))
    mask = np.stack([holes[k % len(holes)][..., 0] for k in range(n)])
    image = np.stack([found[k % len(found)].value for k in range(n)])
    return Answer({"inpainting.mask": mask.astype(np.uint8)}, _titles(found), image)


def _to_masks(hole: Any) -> Any:
    """Returns Python masks with 255 in the hole; bool arrays have True there."""
    if isinstance(hole, list | tuple):
        return [_to_masks(one) for one in hole]
    if isinstance(hole, str | os.PathLike):
        return hole
    array = np.asarray(hole.convert("L") if hasattr(hole, "convert") else hole)
    array = array[..., None] if array.ndim == 3 and array.dtype == bool else array
    return array.astype(np.uint8) * 255 if array.dtype == bool else array


def read_vector(ask: Ask) -> Answer:
    """Reads `vector`."""
    c, value = ask.section, ask.values["vector"]
    try:
        if isinstance(value, str):
            rows = [[float(v) for v in row.split(",")] for row in value.split(";")]
        else:
            rows = np.atleast_2d(np.asarray(value, np.float32))
        array = np.asarray(rows, np.float32)
    except ValueError:
        array = np.zeros((0, 0), np.float32)
    if array.shape[1:] != (c.features,) or not np.isfinite(array).all():
        raise ValueError(
            f"sample.vector={value} must be {c.features} numbers separated by ',' for "
            "each image, those of several images separated by ';'"
        )
    blank = np.zeros((1, 1, 3), np.uint8)
    examples = [Example(blank, vectors={c.vector: row}) for row in array]
    return Answer(ask.encode(examples, "vector"))


def _check_size(one: files.Named, size: Size, key: str) -> None:
    if one.value.shape[:2] != size:
        h, w = one.value.shape[:2]
        raise ValueError(
            f"sample.{key}: {one.name or 'the array'} is {h}x{w}, and the samples are "
            f"{_show(size)}; resize it, or set sample.size={h}x{w}"
        )


def _show(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _titles(found: list[files.Named]) -> tuple[str, ...]:
    return tuple(one.name for one in found) if all(one.name for one in found) else ()


class Reader(NamedTuple):
    """How users ask for a condition: keys of the section `sample`, and the function."""

    keys: tuple[str, ...]
    read: Callable[[Ask], Answer]


READERS: dict[str, Reader] = {
    "text": Reader(("prompts",), read_text),
    "text_features": Reader(("prompts",), read_text_features),
    "layout": Reader(("layout",), read_layout),
    "semantic": Reader(("map",), read_semantic),
    "low_resolution": Reader(("low_resolution",), read_low_resolution),
    "inpainting": Reader(("image", "hole_mask"), read_inpainting),
    "image": Reader(("map",), read_image_map),
    "vector": Reader(("vector",), read_vector),
}


def select(key: str, value: Any, name: str) -> Any:
    """Returns the part of a value that is for one condition; None if nothing is.

    Args:
      key: of the section `sample`.
      value: of the key; that of `map` may be "semantic=PATH;image=PATH", or a mapping.
      name: of the condition.

    Raises:
      ValueError: the value names a condition that has no maps.
    """
    if key != "map":
        return value
    if isinstance(value, str) and "=" in value:
        value = dict(part.strip().split("=", 1) for part in value.split(";"))
    if not isinstance(value, Mapping):
        return value
    known = [name for name, reader in READERS.items() if key in reader.keys]
    unknown = sorted(set(value) - {*known})
    if unknown:
        raise ValueError(
            f"sample.map has a map for {unknown[0]!r}; it must be one of: "
            f"{', '.join(known)}"
        )
    return value.get(name)


KEYS = tuple(dict.fromkeys(key for reader in READERS.values() for key in reader.keys))
