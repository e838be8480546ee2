"""Tokenizers: a caption in, ids of tokens of one length out; they are saved as JSON.

`clip`, `t5` and `words` make one; the file that `save` writes needs none of the files
it was made from. The library `tokenizers` is imported when a tokenizer is made or read.

Shapes: b captions, n tokens.
"""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Int32

from simple_diffusion.core import console, files
from simple_diffusion.data.errors import DataError

_FORMAT = "simple_diffusion tokenizer 1"
_MOST_COUNTED = 1_000_000  # captions that were cut; each is remembered
_EXCERPT = 40  # characters of a caption in a message


class Tokens(NamedTuple):
    """Captions of the same number of tokens.

    ids: numbers of tokens.
    mask: True for tokens that attention may use, False for padding.
    """

    ids: Int32[np.ndarray, "b n"]
    mask: Bool[np.ndarray, "b n"]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Splits captions into tokens.

    The null, an empty caption or one of white space, is the special tokens followed by
    padding. A tokenizer of kind "words" has no special tokens: all its mask is False.

    Fields:
      kind: "clip", "t5" or "words".
      model: of the `tokenizers` library, without truncation, padding or special tokens
        of its own.
      pad_id: fills a short caption.
      start_id: comes first; None: nothing does.
      end_id: follows the last token, also of a caption that is cut; None: nothing does.
      mask_padding: whether the mask is False for padding. Without it all is True: the
        networks of Stable Diffusion attend to the padding of CLIP.
    """

    kind: str
    model: Any
    pad_id: int
    start_id: int | None = None
    end_id: int | None = None
    mask_padding: bool = True
    _cut: "_CutCounter" = dataclasses.field(
        default_factory=lambda: _CutCounter(), repr=False, compare=False
    )

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return max(self.model.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, captions: Sequence[str], max_length: int) -> Tokens:
        """Returns the tokens of captions, cut or padded to `max_length`.

        Prints one note if captions are cut that were not cut before, when the number of
        such captions reaches 1, 10, 100, ... Safe to use from threads.

        Args:
          captions: any texts; "" is the null.
          max_length: number of tokens, with the special ones.

        Raises:
          ValueError: if `max_length` leaves no room for one token of a caption.
        """
        start = [] if self.start_id is None else [self.start_id]
        end = [] if self.end_id is None else [self.end_id]
        room = max_length - len(start) - len(end)
        if room < 1:
            raise ValueError(
                f"max_length={max_length} tokens must be at least "
                f"{1 + len(start) + len(end)}"
            )
        rows = self._split(captions)
        long = [k for k, row in enumerate(rows) if len(row) > room]
        if long:
            lengths = {captions[k]: len(rows[k]) + max_length - room for k in long}
            self._cut.record(lengths, max_length)
        ids = np.full((len(rows), max_length), self.pad_id, np.int32)
        mask = np.full(ids.shape, not self.mask_padding)
        for k, row in enumerate(rows):
            row = [*start, *row[:room], *end]
            ids[k, : len(row)] = row
            mask[k, : len(row)] = True
        return Tokens(ids, mask)

    def _split(self, captions: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each caption, of any number, without special tokens."""
        # A lone surrogate, from a file name or a damaged file, is no valid Unicode.
        # White space at the ends is a token in some files of T5, and never in
        # SentencePiece.
        texts = [c.encode("utf-8", "replace").decode().strip() for c in captions]
        encodings = self.model.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Int[np.ndarray, "n"]) -> str:
        """Returns the text of ids, as far as they tell it; "" for padding alone."""
        return self.model.decode([i for i in ids.tolist() if i != self.pad_id])

    def tokens(self, ids: Int[np.ndarray, "n"]) -> list[str]:
        """Returns the tokens of these ids as the vocabulary spells them."""
        return [self.model.id_to_token(i) for i in ids.tolist()]

    def describe(self) -> dict[str, Any]:
        """Returns what tells tokenizers apart, as values of JSON.

        Two tokenizers of the same `digest` turn all captions into the same tokens.
        """
        settings = self._settings()
        text = json.dumps([settings, json.loads(self.model.to_str())], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        size = {"vocabulary_size": self.vocabulary_size}
        return {**settings, **size, "digest": digest}

    def save(self, path: epath.PathLike) -> None:
        """Writes the tokenizer to one JSON file, atomically.

        Raises:
          OSError: if it cannot be written.
        """
        with files.open_atomic(path) as file:
            file.write(self.to_json())

    def to_json(self) -> bytes:
        """Returns the content of the file that `save` writes."""
        model = json.loads(self.model.to_str())
        record = {"format": _FORMAT, **self._settings(), "model": model}
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()

    def _settings(self) -> dict[str, Any]:
        names = ("kind", "pad_id", "start_id", "end_id", "mask_padding")
        return {name: getattr(self, name) for name in names}


def load(path: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.save` wrote.

    Raises:
      DataError: for a file of another format, or a damaged one.
      OSError: if there is no such file, or it cannot be read.
    """
    path = epath.Path(path).expanduser()
    record = read_json(path)
    if record.get("format") != _FORMAT:
        raise DataError(
            f"{path} is no tokenizer of a run; a tokenizer.json of Hugging Face is "
            "read by the kind that it is, clip or t5"
        )
    del record["format"]
    model = parse_model(path, json.dumps(record.pop("model")))
    try:
        return Tokenizer(model=model, **record)
    except TypeError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      DataError: if it holds anything else.
      OSError: if there is no such file, or it cannot be read.
    """
    try:
        record = json.loads(epath.Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} holds a {type(record).__name__}, not an object")
    return record


def parse_model(path: epath.PathLike, text: str) -> Any:
    """Returns a model of the `tokenizers` library from its JSON.

    Args:
      path: of the file it comes from, for messages.
      text: as in a tokenizer.json; its truncation and padding are dropped.

    Raises:
      DataError: if the library does not accept it.
    """
    import tokenizers  # here, because only captions need it

    try:
        model = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # it raises the plain type
        raise DataError(f"{path} is no tokenizer: {error}") from None
    model.no_truncation()
    model.no_padding()
    return model


class _CutCounter:
    """Counts different captions that were cut, and reports some of them."""

    def __init__(self):
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def record(self, lengths: dict[str, int], max_length: int) -> None:
        """Counts captions, and prints a note whenever the count gains a digit.

        Args:
          lengths: captions and their numbers of tokens.
          max_length: the number that is kept.
        """
        with self._lock:
            before = len(self._seen)
            if before >= _MOST_COUNTED:
                return
            self._seen |= {hash(caption) for caption in lengths}
            count = len(self._seen)
        if before and len(str(count)) == len(str(before)):
            return
        caption, length = next(iter(lengths.items()))
        excerpt = caption[:_EXCERPT] + ("..." if len(caption) > _EXCERPT else "")
        console.print_once(
            f"note: a caption is cut: {excerpt!r} has {length} tokens, of which "
            f"{max_length} are kept (captions so far: {count})"
        )
