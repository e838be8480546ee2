"""The section `conditions`: what a network is conditioned on besides class and place.

`kinds.py` has the table of conditions, `lexicon.py` the words and names they know.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simple_diffusion.build import data
from simple_diffusion.build.conditioning import lexicon
from simple_diffusion.build.conditioning.kinds import CONDITIONS
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, FieldCondition, Request
from simple_diffusion.data.conditioning import low_resolution
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.data.sources.protocols import Source
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.training.topology import Shard

Size = tuple[int, int]


def active(config: Config) -> dict[str, Config]:
    """Returns the sections of the conditions that a config has, by name.

    Raises:
      ValueError: two of them exclude each other.
    """
    sections = {name: config.conditions[name] for name in CONDITIONS}
    found = {name: section for name, section in sections.items() if section is not None}
    if {"text", "text_features"} <= found.keys():
        raise ValueError(
            "conditions.text and conditions.text_features both read the captions, and "
            "sample.prompts: use one of them, and None for the other"
        )
    return found


def build_specs(config: Config) -> tuple[specs.Spec, ...]:
    """Returns the specs by which the network of a config embeds its conditions."""
    channels = config.data.channels
    return tuple(
        CONDITIONS[name].spec(section, channels)
        for name, section in active(config).items()
    )


def build_field_conditions(config: Config) -> tuple[FieldCondition, ...]:
    """Returns the conditions of a config for the training objective."""
    return tuple(
        FieldCondition(name, _bind(CONDITIONS[name].fields, section), section.drop)
        for name, section in active(config).items()
    )


def _bind(
    fields: Callable[[Config, Batch], dict[str, jax.Array]], section: Config
) -> Callable[[Batch], dict[str, jax.Array]]:
    return lambda batch: fields(section, batch)


def build_encoders(config: Config, words: Lexicon) -> tuple[Encoder, ...]:
    """Returns the host encoders of the conditions of a config."""
    channels = config.data.channels
    return tuple(
        CONDITIONS[name].encoder(section, channels, words)
        for name, section in active(config).items()
    )


def complete(
    conditions: Sequence[specs.Spec], fields: Mapping[str, Any], count: int, size: Size
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the fields of all conditions of a network, and which are dropped.

    Args:
      conditions: of the network.
      fields: those that are given; other conditions are dropped.
      count: number of images.
      size: height and width of the images.
    """
    found, dropped = {}, {}
    for spec in conditions:
        entries = spec.examples(count, size)
        is_given = all(name in fields for name in entries)
        found |= {k: jnp.asarray(fields[k]) for k in entries} if is_given else entries
        dropped[spec.name] = jnp.full(count, not is_given)
    return found, dropped


def request_of_batch(config: Config, batch: Batch) -> Request:
    """Returns a request for images like those of a batch, on the host.

    Small images have the noise of `sample.low_resolution_noise`.

    Raises:
      ValueError: as `read_noise_level`.
    """
    name = "low_resolution.logsnr"
    if name in batch.fields:
        level = read_noise_level(config)
        levels = np.full(len(batch.label), level, np.float32)
        batch = dataclasses.replace(batch, fields={**batch.fields, name: levels})
    found: dict[str, np.ndarray] = {}
    for condition in build_field_conditions(config):
        found |= {k: np.asarray(v) for k, v in condition.of_batch(batch).items()}
    return Request(np.asarray(batch.label), found)


def read_noise_level(config: Config) -> float:
    """Returns the logsnr of `sample.low_resolution_noise`; infinity for no noise.

    Raises:
      ValueError: there is more noise than in the training.
    """
    time = config.sample.low_resolution_noise
    most = config.conditions.low_resolution.augmentation
    if time > most:
        raise ValueError(
            f"sample.low_resolution_noise={time:g}: this model was trained with noise "
            f"up to conditions.low_resolution.augmentation={most:g}"
        )
    return low_resolution.to_logsnr(time)


def open_data(
    config: Config, share: Shard, folder: epath.Path
) -> tuple[data.Data, Lexicon]:
    """Opens the source of a config, with the fields that its conditions need.

    Args:
      config: the whole config.
      share: the part of every batch that this process reads.
      folder: the workdir. Without a tokenizer in it, one is made from the captions of
        the source.

    Returns:
      The data, and the words and names of the conditions.

    Raises:
      ValueError: as `data.open_data` and `lexicon.make`.
    """
    words = Lexicon()

    def make_encoders(source: Source) -> tuple[Encoder, ...]:
        nonlocal words
        words = lexicon.make(config, source, folder)
        return build_encoders(config, words)

    return data.open_data(config, share, make_encoders), words
