"""The words and names that the conditions of a model know, saved with a run."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from simple_diffusion.build.text import frozen
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.records import text_features
from simple_diffusion.data.records.text_features import TextEncoding
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.data.sources.protocols import BatchSource, EncodedSource, Source
from simple_diffusion.data.text import tokenizer, words
from simple_diffusion.data.text.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"  # in a workdir and in an export
NAMES = "condition_names.json"
TEXT_ENCODER = "text_encoder.json"
FILES = (TOKENIZER, NAMES, TEXT_ENCODER)
# Captions that the vocabulary is made of, where a source has more.
_CAPTIONS = 20_000
_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The words and names that the conditions of a model know.

    tokenizer: of captions; None for a model without text.
    names: by condition, the names of its classes by number; () if they have none.
    text_encoding: the frozen encoder of captions; None for a model without one.
    """

    tokenizer: Tokenizer | None = None
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    text_encoding: TextEncoding | None = None

    @property
    def has_text(self) -> bool:
        """Whether the model is asked by prompts."""
        return self.tokenizer is not None or self.text_encoding is not None

    def to_files(self) -> dict[str, bytes]:
        """Returns the contents of the files, by name; {} without such conditions."""
        found = {}
        if self.tokenizer is not None:
            found[TOKENIZER] = self.tokenizer.to_json()
        if self.names:
            found[NAMES] = (json.dumps(self.names, indent=2) + "\n").encode()
        if self.text_encoding is not None:
            content = dataclasses.asdict(self.text_encoding)
            found[TEXT_ENCODER] = (json.dumps(content, indent=2) + "\n").encode()
        return found

    def save(self, folder: epath.Path) -> None:
        """Writes the files into a folder, each atomically."""
        for name, content in self.to_files().items():
            with files.open_atomic(folder / name) as file:
                file.write(content)

    def find(self, condition: str, name: str | int, key: str, count: int) -> int:
        """Returns the number of a class, given its name or number.

        Args:
          condition: that has the classes.
          name: of the class, or its number.
          key: config key of the value, for messages.
          count: number of classes.

        Raises:
          ValueError: there is no such class.
        """
        names = self.names.get(condition, ())
        if name in names:
            return names.index(name)
        text = str(name)
        if text.isdecimal() and int(text) < count:
            return int(text)
        known = f"0 to {count - 1}" + (f", {', '.join(names)}" if names else "")
        raise ValueError(f"{key} has the class {name!r}; known are {known}")


def load(config: Config, folder: epath.Path) -> Lexicon:
    """Returns the words and names of a run or an export.

    Raises:
      OSError: a file that the conditions need is missing.
      ValueError: a file is damaged.
    """
    c = config.conditions
    tokens = None if c.text is None else tokenizer.load(folder / TOKENIZER)
    names: Mapping[str, Any] = {}
    if c.layout is not None or c.semantic is not None:
        names = tokenizer.read_json(folder / NAMES)
    encoding = None
    if c.text_features is not None:
        encoding = _load_encoding(folder / TEXT_ENCODER)
    names = {name: tuple(value) for name, value in names.items()}
    return Lexicon(tokens, names, encoding)


def _load_encoding(path: epath.Path) -> TextEncoding:
    try:
        return TextEncoding(**tokenizer.read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def make(config: Config, source: Source, folder: epath.Path) -> Lexicon:
    """Returns the words and names for a data source.

    Args:
      config: the whole config.
      source: of the examples.
      folder: the workdir. A tokenizer in it is used; otherwise one is made from the
        captions of the source.

    Raises:
      ValueError: the source lacks captions, or its classes are not as many as the
        config says.
    """
    c = config.conditions
    names = {}
    if c.layout is not None:
        has_names = isinstance(source, protocols.ObjectSource)
        found = source.category_names if has_names else ()
        names["layout"] = _check_count("layout", c.layout.classes, found)
    if c.semantic is not None:
        maps = source.map_classes if isinstance(source, protocols.MapSource) else {}
        found = tuple(maps.get(c.semantic.map, ()))
        names["semantic"] = _check_count("semantic", c.semantic.classes, found)
    tokens = None
    if c.text is not None:
        user = "conditions.text"
        catalogue.check_fields(source, config.data.source, {"caption"}, user)
        path = folder / TOKENIZER
        if path.exists():
            tokens = tokenizer.load(path)
        else:
            tokens = _make_tokenizer(c.text.vocabulary, source)
    encoding = None
    if c.text_features is not None:
        path = folder / TEXT_ENCODER
        before = _load_encoding(path) if path.exists() else None
        encoding = _check_encoding(config, source, before)
    return Lexicon(tokens, names, encoding)


def _check_encoding(
    config: Config, source: Source, before: TextEncoding | None
) -> TextEncoding:
    """Returns the encoder that made the features of a source.

    Args:
      config: the whole config.
      source: of the examples.
      before: the encoder with which the run began; None for a new run.

    Raises:
      ValueError: the source has no features, or they do not fit the config or the run.
    """
    key, c = "conditions.text_features", config.conditions.text_features
    found, spec = None, config.data.source
    if isinstance(source, protocols.TextFeatureSource):
        found = source.text_encoding
    if found is None:
        root, given = "/data/records", spec
        if spec.startswith("records:"):
            root, given = spec.removeprefix("records:"), ""
        raise ValueError(
            f"{key} needs features of the captions, which data.source={spec} does not "
            "have. Compute them once, with the folder of a T5 or CLIP text encoder:\n"
            f"  {text_features.prepare_command(root, given)}\n"
            f"then train with data.source=records:{root}"
        )
    if found.features != c.features:
        raise ValueError(
            f"{key}.features={c.features}, but data.source={spec} has those of {found}"
        )
    if found.length > c.length:
        raise ValueError(
            f"{key}.length={c.length}, but data.source={spec} has up to {found.length} "
            f"tokens of each caption: {found}"
        )
    if before is not None and not found.is_same(before):
        raise ValueError(
            f"data.source={spec} has features of {found}, but this run was trained "
            f"with those of {before}"
        )
    if c.encoder is not None:
        frozen.check_folder(c.encoder, found)
    return found


def _check_count(name: str, count: int, found: Sequence[str]) -> tuple[str, ...]:
    if found and len(found) != count:
        shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
        raise ValueError(
            f"conditions.{name}.classes={count}, but the data source has "
            f"{len(found)}: {shown}"
        )
    return tuple(found)


def _make_tokenizer(vocabulary: int, source: Source) -> Tokenizer:
    """Returns the tokenizer of the words in the captions of a source."""
    step = max(1, len(source) // _CAPTIONS)
    numbers = range(0, min(len(source), step * _CAPTIONS), step)
    # Two ids are not words: padding, and the unknown word.
    return words.make_tokenizer(_read_captions(source, numbers), vocabulary - 2)


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
