"""The tokenizer of T5, from its published tokenizer.json."""

import json

from etils import epath

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.text import tokenizer
from simple_diffusion.data.text.tokenizer import Tokenizer

_PAD, _END = "<pad>", "</s>"


def read_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Returns T5's tokenizer: SentencePiece's unigrams, the end token, then padding.

    Args:
      path: a tokenizer.json, or the folder it is in. All sizes of T5 and T5 v1.1 have
        the same 32,000 pieces; the networks have 32,128 rows.

    Raises:
      DataError: for a file of another kind.
      FileNotFoundError: if there is no such file.
    """
    path = epath.Path(path).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"no file {path}: T5's tokenizer is read from tokenizer.json (not from "
            "spiece.model); that of google-t5/t5-small is right for every T5 v1.1"
        )
    record = tokenizer.read_json(path)
    kind = (record.get("model") or {}).get("type")
    if kind != "Unigram":
        raise DataError(f"{path} has a model of type {kind}, T5's is Unigram")
    model = tokenizer.parse_model(path, json.dumps(record))
    ids = {token: model.token_to_id(token) for token in (_PAD, _END)}
    if None in ids.values():
        raise DataError(f"{path} has no token {_PAD} or no {_END}: it is not T5's")
    return Tokenizer("t5", model, pad_id=ids[_PAD], end_id=ids[_END])
