"""The section `conditions`: what a network is conditioned on besides class and place.

Each entry of `CONDITIONS` joins the parts of one condition: the spec by which the
network embeds it (`nets/conditioning/specs.py`), the encoder that makes its arrays on
the host (`data/`), and the entries of `Conditioning.fields` that hold them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simple_diffusion.build import data
from simple_diffusion.core import console
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, FieldCondition, Request
from simple_diffusion.data.conditioning import captions
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.data.sources.protocols import BatchSource, EncodedSource, Source
from simple_diffusion.data.text import tokenizer, words
from simple_diffusion.data.text.tokenizer import Tokenizer
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.training.topology import Shard

Size = tuple[int, int]

TOKENIZER = "tokenizer.json"  # in a workdir and in an export
# Captions that the vocabulary is made of, where a source has more.
_CAPTIONS = 20_000
_BATCH = 1000


class _Parts(NamedTuple):
    """The parts of one condition.

    spec: its section of the config -> the spec.
    encoder: (section, tokenizer) -> the host encoder.
    arrays: entry of `Conditioning.fields` -> entry of `Batch.fields`.
    """

    spec: Callable[[Config], specs.Spec]
    encoder: Callable[[Config, Tokenizer | None], Encoder]
    arrays: Mapping[str, str]


def _text_spec(c: Config) -> specs.Spec:
    return specs.Text(c.vocabulary, c.length, c.width, c.depth, c.heads)


def _text_encoder(c: Config, tokens: Tokenizer | None) -> Encoder:
    assert tokens is not None
    return captions.CaptionEncoder(tokens, c.length)


CONDITIONS: dict[str, _Parts] = {
    "text": _Parts(_text_spec, _text_encoder, {"text": "text"}),
}


def _active(config: Config) -> dict[str, Config]:
    """Returns the sections of the conditions that a config has, by name."""
    sections = {name: config.conditions[name] for name in CONDITIONS}
    return {name: section for name, section in sections.items() if section is not None}


def build_specs(config: Config) -> tuple[specs.Spec, ...]:
    """Returns the specs by which the network of a config embeds its conditions."""
    return tuple(
        CONDITIONS[name].spec(section) for name, section in _active(config).items()
    )


def build_field_conditions(config: Config) -> tuple[FieldCondition, ...]:
    """Returns the conditions of a config for the training objective."""
    return tuple(
        FieldCondition(name, _take(CONDITIONS[name].arrays), section.drop)
        for name, section in _active(config).items()
    )


def _take(arrays: Mapping[str, str]) -> Callable[[Batch], dict[str, jax.Array]]:
    def of_batch(batch: Batch) -> dict[str, jax.Array]:
        return {name: jnp.asarray(batch.fields[key]) for name, key in arrays.items()}

    return of_batch


def build_encoders(
    config: Config, tokens: Tokenizer | None = None
) -> tuple[Encoder, ...]:
    """Returns the host encoders of the conditions of a config."""
    return tuple(
        CONDITIONS[name].encoder(section, tokens)
        for name, section in _active(config).items()
    )


def complete(
    conditions: Sequence[specs.Spec], fields: Mapping[str, Any], count: int, size: Size
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the fields of all conditions of a network, and which are dropped.

    Args:
      conditions: of the network.
      fields: those that are given; other conditions are dropped.
      count: number of images.
      size: height and width of the input of the network.
    """
    found, dropped = {}, {}
    for spec in conditions:
        entries = spec.examples(count, size)
        is_given = all(name in fields for name in entries)
        found |= {k: jnp.asarray(fields[k]) for k in entries} if is_given else entries
        dropped[spec.name] = jnp.full(count, not is_given)
    return found, dropped


def request_of_batch(config: Config, batch: Batch) -> Request:
    """Returns a request for images like those of a batch, on the host."""
    found: dict[str, np.ndarray] = {}
    for condition in build_field_conditions(config):
        found |= {k: np.asarray(v) for k, v in condition.of_batch(batch).items()}
    return Request(np.asarray(batch.label), found)


def needs_tokenizer(config: Config) -> bool:
    """Returns whether a config has a condition on text."""
    return config.conditions.text is not None


def load_tokenizer(config: Config, folder: epath.Path) -> Tokenizer | None:
    """Returns the tokenizer of a run or an export; None for a model without text.

    Raises:
      OSError: there is none.
      ValueError: the file is damaged.
    """
    return tokenizer.load(folder / TOKENIZER) if needs_tokenizer(config) else None


def open_data(
    config: Config, share: Shard, folder: epath.Path
) -> tuple[data.Data, Tokenizer | None]:
    """Opens the source of a config, with the fields that its conditions need.

    Args:
      config: the whole config.
      share: the part of every batch that this process reads.
      folder: the workdir. Without a tokenizer in it, one is made from the captions of
        the source.

    Returns:
      The data, and the tokenizer; None without captions.

    Raises:
      ValueError: as `data.open_data`.
    """
    tokens: Tokenizer | None = None

    def make_encoders(source: Source) -> tuple[Encoder, ...]:
        nonlocal tokens
        if needs_tokenizer(config):
            catalogue.check_fields(
                source, config.data.source, {"caption"}, "conditions.text"
            )
            is_made = (folder / TOKENIZER).exists()
            tokens = (
                load_tokenizer(config, folder)
                if is_made
                else _make_tokenizer(config, source)
            )
        return build_encoders(config, tokens)

    return data.open_data(config, share, make_encoders), tokens


def _make_tokenizer(config: Config, source: Source) -> Tokenizer:
    """Returns the tokenizer of the words in the captions of a source."""
    step = max(1, len(source) // _CAPTIONS)
    numbers = range(0, min(len(source), step * _CAPTIONS), step)
    # Two ids are not words: padding, and the unknown word.
    most = config.conditions.text.vocabulary - 2
    return words.make_tokenizer(_read_captions(source, numbers), most)


def _read_captions(source: Source, numbers: Sequence[int]) -> Iterator[str]:
    """Yields the captions of some examples; skips those that cannot be read."""
    source = protocols.select_fields(source, {"caption"})
    with console.show_progress("reading captions", len(numbers), "captions") as show:
        for at in range(0, len(numbers), _BATCH):
            rows = numbers[at : at + _BATCH]
            if isinstance(source, BatchSource):
                size = 1, 1  # only the captions are needed
                found = source.read_batch(np.asarray(rows), size, fields=("caption",))
                yield from found.caption or ()
            elif isinstance(source, EncodedSource):  # without decoding the images
                for number in rows:
                    with contextlib.suppress(BadImage):
                        yield source.read_stored(number).caption or ""
            show(at + len(rows))
