"""The tokenizer of words, made from the captions of a data set."""

import collections
import json
from collections.abc import Iterable
from typing import Any

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text.tokenizer import Tokenizer

PAD, UNKNOWN = "[pad]", "[unknown]"  # which no text gives: brackets are split off


def make_tokenizer(captions: Iterable[str], max_words: int = 8192) -> Tokenizer:
    """Returns a tokenizer whose tokens are the words and signs of these captions.

    Text is lower-cased and split at white space; each sign of punctuation is a token.
    Id 0 is padding and 1 any other word; then follow the words, the most frequent ones
    first, and equally frequent ones by the alphabet. The order of the captions does not
    matter.

    Args:
      captions: of the training set; read once.
      max_words: size of the vocabulary without these two.

    Raises:
      DataError: if there is not one word.
      ValueError: if `max_words` is below 1.
    """
    if max_words < 1:
        raise ValueError(f"max_words={max_words} must be at least 1")
    normalizer, splitter = _text_rules()
    counts: collections.Counter[str] = collections.Counter()
    for caption in captions:
        text = normalizer.normalize_str(caption.encode("utf-8", "replace").decode())
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    if not counts:
        raise DataError("data.source: its captions have no words to make tokens of")
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = {w: k for k, w in enumerate([PAD, UNKNOWN, *ranked[:max_words]])}

    import tokenizers

    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN)
    )
    model.normalizer, model.pre_tokenizer = normalizer, splitter
    return Tokenizer("words", model, pad_id=0)


def _text_rules() -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    # NFKC: the same word in other code points is the same token.
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    return normalizer, splitter


def list_words(tokenizer: Tokenizer) -> list[str]:
    """Returns the words that a tokenizer of this kind knows, by their ids."""
    vocabulary = json.loads(tokenizer.model.to_str())["model"]["vocab"]
    return sorted(vocabulary.keys() - {PAD, UNKNOWN}, key=vocabulary.__getitem__)
