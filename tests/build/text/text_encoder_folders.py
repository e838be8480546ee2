"""Writes folders with tiny text encoders, as Hugging Face's are published."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.data.text import make_tokenizer_fixture as captions
from tests.nets.text import make_text_encoders_fixture as peers

TOKENS = Path(captions.__file__).with_name("tokenizer_fixture.npz")
# One more than the largest ids of the tokenizers of the fixture; the tables of tokens
# of the other fixture are smaller.
T5_ROWS, CLIP_ROWS = 64, 574
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def write_t5(folder):
    """Writes T5's encoder and its tokenizer; returns the folder."""
    folder.mkdir(parents=True)
    config = peers.T5 | {"vocab_size": T5_ROWS}
    (folder / "config.json").write_text(json.dumps(config))
    weights = add_rows(peers.t5_weights(), "shared.weight", T5_ROWS)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    with np.load(TOKENS) as file:
        (folder / "tokenizer.json").write_text(str(file["t5_json"]))
    return folder


def write_stable_diffusion(folder):
    """Writes those parts of Stable Diffusion that concern text; returns the folder."""
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir(parents=True)
    with np.load(TOKENS) as file:
        (folder / "tokenizer/vocab.json").write_text(str(file["clip_vocab"]))
        (folder / "tokenizer/merges.txt").write_text(str(file["clip_merges"]))
    config = peers.CLIP | {"vocab_size": CLIP_ROWS}
    (folder / "text_encoder/config.json").write_text(json.dumps(config))
    weights = add_rows(peers.clip_weights(), TOKEN_TABLE, CLIP_ROWS)
    weights["text_model.embeddings.position_ids"] = np.arange(12)[None]
    safetensors.numpy.save_file(weights, folder / "text_encoder/model.safetensors")
    return folder


def add_rows(weights, name, rows):
    """Returns weights whose table `name` has more rows, random ones."""
    table = weights[name]
    more = np.random.default_rng(1).normal(size=(rows - len(table), table.shape[1]))
    return weights | {name: np.concatenate([table, 0.01 * more]).astype(np.float32)}
