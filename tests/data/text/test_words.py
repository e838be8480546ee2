"""The tokenizer of words."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import words

CAPTIONS = [
    "a red boat on the left; two green trees",
    "Two RED boats, a tree",
    "a house",
]


def plain_split(caption):
    """The rule in words: lower case, white space, each sign apart."""
    text = unicodedata.normalize("NFKC", caption).lower()
    return re.findall(r"\w+|[^\w\s]", text)


def test_words_are_ranked_by_count_and_then_by_the_alphabet():
    tokenizer = words.make_tokenizer(CAPTIONS)
    counts = {}
    for word in [w for caption in CAPTIONS for w in plain_split(caption)]:
        counts[word] = counts.get(word, 0) + 1
    ranked = sorted(counts, key=lambda w: (-counts[w], w))
    assert words.list_words(tokenizer) == ranked
    assert tokenizer.tokens(np.arange(5)) == ["[pad]", "[unknown]", "a", "red", "two"]
    assert tokenizer.vocabulary_size == len(ranked) + 2


def test_the_order_of_the_captions_does_not_matter():
    first = words.make_tokenizer(CAPTIONS)
    other = words.make_tokenizer(reversed(CAPTIONS))
    assert first.describe() == other.describe()


@given(st.lists(st.sampled_from("red boat, TWO trees; 3 a.b isn't 日本".split())))
@settings(max_examples=30, deadline=None)
def test_known_words_come_back_in_lower_case_and_in_order(parts):
    caption = "  ".join(parts)
    tokenizer = words.make_tokenizer(["red boat, two trees; 3 a.b isn't 日本"])
    found = tokenizer.encode([caption], 100)
    tokens = tokenizer.tokens(found.ids[0][found.mask[0]])
    assert tokens == plain_split(caption)


def test_other_words_are_unknown_and_no_text_gives_the_special_tokens():
    tokenizer = words.make_tokenizer(CAPTIONS)
    found = tokenizer.encode(["a blue [pad] [unknown]"], 10)
    tokens = tokenizer.tokens(found.ids[0][found.mask[0]])
    assert tokens == ["a", *["[unknown]"] * 7]


def test_the_null_is_all_padding():
    found = words.make_tokenizer(CAPTIONS).encode(["", " \t"], 3)
    np.testing.assert_array_equal(found.ids, 0)
    assert not found.mask.any()


def test_the_most_frequent_words_are_kept():
    tokenizer = words.make_tokenizer(CAPTIONS, max_words=2)
    assert words.list_words(tokenizer) == ["a", "red"]


def test_captions_without_words_and_no_room_for_words_are_errors():
    with pytest.raises(DataError, match="data.source: its captions have no words"):
        words.make_tokenizer(["", "  "])
    with pytest.raises(ValueError, match="max_words=0 must be at least 1"):
        words.make_tokenizer(CAPTIONS, max_words=0)
