"""The tokenizer of CLIP, from vocab.json and merges.txt or from tokenizer.json."""

import json
from typing import Any

from etils import epath

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import tokenizer
from simple_diffusion.data.text.tokenizer import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"
# Contractions, runs of letters, single digits, runs of other signs.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_tokenizer(
    folder: epath.PathLike, pad: str | None = None, mask_padding: bool = False
) -> Tokenizer:
    """Returns CLIP's tokenizer: pairs of bytes, between a start and an end token.

    Text is lower-cased and its white space cleaned. Stable Diffusion 1 pads with the
    end token, Stable Diffusion 2 with "!".

    Args:
      folder: with vocab.json and merges.txt, which come first, or a tokenizer.json.
      pad: the token to pad with. None: the one that special_tokens_map.json or
        tokenizer_config.json of the folder states, or else the end token.
      mask_padding: see `Tokenizer`; the networks of Stable Diffusion need False.

    Raises:
      DataError: for files of another kind.
      FileNotFoundError: if the files are not there.
    """
    folder = epath.Path(folder).expanduser()
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    whole = folder / "tokenizer.json"
    if vocabulary.exists() and merges.exists():
        model = _from_vocabulary(vocabulary, merges)
    elif whole.exists():
        model = _from_tokenizer_json(whole)
    else:
        raise FileNotFoundError(
            f"{folder} has no tokenizer of CLIP: it needs vocab.json and merges.txt, "
            "or tokenizer.json"
        )
    pad = pad or _stated_pad(folder) or END
    ids = {token: model.token_to_id(token) for token in (pad, START, END)}
    missing = [token for token, number in ids.items() if number is None]
    if missing:
        raise DataError(f"{folder}: the vocabulary lacks {', '.join(missing)}")
    return Tokenizer("clip", model, ids[pad], ids[START], ids[END], mask_padding)


def _from_vocabulary(vocabulary: epath.Path, merges: epath.Path) -> Any:
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Model

    pairs = _read_merges(merges)
    try:
        bpe = models.BPE(
            tokenizer.read_json(vocabulary),
            pairs,
            continuing_subword_prefix="",
            end_of_word_suffix=_END_OF_WORD,
            unk_token=END,
        )
    except Exception as error:  # the library raises the plain type
        raise DataError(
            f"{vocabulary} and {merges.name} do not agree: {error}"
        ) from None
    model = Model(bpe)
    model.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # As the published tokenizer does: their names in a caption are these tokens.
    special = [t for t in (START, END) if model.token_to_id(t) is not None]
    model.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    return model


def _read_merges(path: epath.Path) -> list[tuple[str, str]]:
    """Returns the pairs of a merges.txt, whose first line is a version."""
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts or (number == 1 and line.startswith("#version")):
            continue
        if len(parts) != 2:
            raise DataError(f"{path}: line {number} is no pair of tokens: {line!r:.60}")
        pairs.append((parts[0], parts[1]))
    return pairs


def _from_tokenizer_json(path: epath.Path) -> Any:
    record = tokenizer.read_json(path)
    model = record.get("model") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind != "BPE" or model.get("end_of_word_suffix") != _END_OF_WORD:
        raise DataError(
            f"{path} has a model of type {kind} with the end of words "
            f"{model.get('end_of_word_suffix')!r}; CLIP's is BPE with {_END_OF_WORD!r}"
        )
    return tokenizer.parse_model(path, json.dumps(record))


def _stated_pad(folder: epath.Path) -> str | None:
    """Returns the padding token that the files beside the vocabulary state, if any."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        token = tokenizer.read_json(path).get("pad_token") if path.exists() else None
        if isinstance(token, dict):  # with its options
            token = token.get("content")
        if token is not None:
            return token
    return None
