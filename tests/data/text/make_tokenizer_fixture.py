"""Writes tokenizer_fixture.npz: the tokens that transformers makes of some captions.

Runs where these libraries are, which the tests do without; written with
transformers 4.57.6, whose slow tokenizers are independent of the library `tokenizers`,
sentencepiece 0.2.3 and ftfy 6.3.1, with which the slow one of CLIP repairs text.

  python tests/data/text/make_tokenizer_fixture.py

The vocabularies are tiny and learned here from a few sentences. The fixture holds
their files, so that the tests can write them into a folder.
"""

import collections
import json
import tempfile
from pathlib import Path

import numpy as np

SENTENCES = [
    "a photo of a red boat on the left and two green trees",
    "two photos of boats, trees and a house with a red roof",
    "the house on the hill isn't red, it's green; they're three boats",
    "a sunset over the sea in 1999, with 2 boats and 30 birds",
    "don't paint the trees: i've seen them, i'll see them, he'd see them",
]
CAPTIONS = [
    "a red boat on the left; two green trees",
    "  A Red   BOAT\n\ton the   LEFT  ",
    "",
    "it's 1999 and they're 30 houses, isn't it?!",
    "a cafe\u0301 on the \u212bngstro\u0308m hill",  # NFC changes these
    "emoji \U0001f6a3\u200d\u2640\ufe0f\U0001f333 and 日本の家 &amp; &lt;b&gt;",
    "ﬁne ｒｅｄ boat №5",  # T5's rule changes these
    "the <|endoftext|> token",
    "trees </s> trees",
    "...!!!??? -- a_b c-d 'quoted' \"twice\"",
    "boats " * 40,
    "x",
]
LENGTH = 24
NORMALISATION = {
    "ﬁ": "fi",
    "ｒ": "r",
    "ｅ": "e",
    "ｄ": "d",
    "№": "No",
    "\t": " ",
    "\n": " ",
}


def clip_files():
    """Returns vocab.json and merges.txt of pairs learned from the sentences.

    The order of the vocabulary is CLIP's: bytes, bytes that end a word, merged pairs,
    the special tokens.
    """
    from transformers.models.clip import tokenization_clip

    symbols = tokenization_clip.bytes_to_unicode()
    vocabulary = [*symbols.values(), *(f"{s}</w>" for s in symbols.values())]
    counts = collections.Counter(" ".join(SENTENCES).split())
    words = {
        word: [*(symbols[b] for b in word.encode()[:-1]), word[-1] + "</w>"]
        for word in counts
    }
    merges = []
    for _ in range(60):
        pairs = collections.Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in words.values():
            k = 0
            while k < len(parts) - 1:
                if (parts[k], parts[k + 1]) == best:
                    parts[k : k + 2] = ["".join(best)]
                k += 1
    vocabulary += ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbered = {token: k for k, token in enumerate(vocabulary)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return json.dumps(numbered), "\n".join(lines) + "\n"


def clip(folder):
    import transformers

    vocabulary, merges = clip_files()
    (folder / "vocab.json").write_text(vocabulary)
    (folder / "merges.txt").write_text(merges)
    slow = transformers.CLIPTokenizer.from_pretrained(folder)
    fast = transformers.CLIPTokenizerFast.from_pretrained(folder)
    found = {"clip_vocab": np.array(vocabulary), "clip_merges": np.array(merges)}
    for name, model in (("slow", slow), ("fast", fast)):
        found[f"clip_{name}"] = encode(model)["input_ids"]
    fast.save_pretrained(folder)
    found["clip_json"] = np.array((folder / "tokenizer.json").read_text())
    return found


def t5(folder):
    import sentencepiece
    import transformers

    rules = folder / "rules.tsv"
    lines = [
        "\t".join(" ".join(f"{ord(c):x}" for c in text) for text in pair)
        for pair in NORMALISATION.items()
    ]
    rules.write_text("\n".join(lines) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        model_type="unigram",
        normalization_rule_tsv=str(rules),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    options = {"extra_ids": 4, "legacy": True, "add_prefix_space": True}
    slow = transformers.T5Tokenizer(str(folder / "spiece.model"), **options)
    fast = transformers.T5TokenizerFast(str(folder / "spiece.model"), **options)
    fast.save_pretrained(folder)
    found = {"t5_json": np.array((folder / "tokenizer.json").read_text())}
    for name, model in (("slow", slow), ("fast", fast)):
        both = encode(model)
        found[f"t5_{name}"] = both["input_ids"]
        found[f"t5_{name}_mask"] = both["attention_mask"].astype(bool)
    return found


def encode(model):
    return model(
        CAPTIONS,
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="np",
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as other:
        arrays = clip(Path(first)) | t5(Path(other))
    for kind in ("clip", "t5"):
        for caption, slow, fast in zip(
            CAPTIONS, arrays[f"{kind}_slow"], arrays[f"{kind}_fast"], strict=True
        ):
            if not np.array_equal(slow, fast):
                print(f"{kind}: slow and fast differ in {caption!r}", slow, fast)
    path = Path(__file__).with_name("tokenizer_fixture.npz")
    np.savez_compressed(path, **arrays)
