"""Frozen text encoders in use: their digest, and features of captions and prompts.

Preparing data and sampling both go through `embed`, so that they cannot differ.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from simple_diffusion.build.text import encoders, features
from simple_diffusion.build.text.encoders import TextEncoder
from simple_diffusion.core import console
from simple_diffusion.core.files import expand_home
from simple_diffusion.data.records.text_features import DTYPE, TextEncoding
from simple_diffusion.weights.hugging_face import folder as hf_folder
from simple_diffusion.weights.hugging_face import text_encoders

_KEY = "conditions.text_features.encoder"
_IGNORED = f"{text_encoders.T5_IGNORED}|{text_encoders.CLIP_IGNORED}"
# Of prompts per call of the encoder; all calls have this size, for one program.
_PROMPTS = 8


@functools.lru_cache(maxsize=1)  # 9.5 GB for T5-XXL in bfloat16
def open_encoder(path: str, length: int | None, dtype: str) -> TextEncoder:
    """Returns the encoder in a folder, loaded once and kept in memory."""
    return encoders.load_text_encoder(path, dtype=dtype, max_length=length)


def embed(
    texts: Iterable[str], encoder: TextEncoder, batch_size: int
) -> Iterator[Float16[np.ndarray, "n d"]]:
    """Yields the tokens of each text that count; none for an empty text.

    Args:
      texts: in order.
      encoder: see `open_encoder`.
      batch_size: texts per call of the network.

    Raises:
      ValueError: features are not finite in float16, naming the caption.
    """
    texts = list(texts)
    for k, batch in enumerate(
        features.embed_captions(iter(texts), encoder, batch_size, dtype="float16")
    ):
        for j, (row, mask) in enumerate(zip(*batch, strict=True)):
            is_empty = not texts[k * batch_size + j].strip()
            yield row[:0] if is_empty else row[mask]


def embed_prompts(
    prompts: Sequence[str], path: str | None, encoding: TextEncoding | None
) -> list[Float16[np.ndarray, "n d"]]:
    """Returns the tokens of prompts as the training saw those of captions.

    Args:
      prompts: the texts; "" has no tokens and needs no encoder.
      path: the folder of the encoder, of `conditions.text_features.encoder`.
      encoding: the encoder of the training.

    Raises:
      ValueError: the folder is not set, missing, or has another encoder.
    """
    assert encoding is not None
    if not any(prompt.strip() for prompt in prompts):
        return [np.zeros((0, encoding.features), DTYPE) for _ in prompts]
    where = f"the folder of {encoding}, with which this model was trained"
    if path is None:
        raise ValueError(f"{_KEY} must be {where}, to read prompts (sample.prompts)")
    if not Path(expand_home(path)).is_dir():
        raise ValueError(f"{_KEY}={path} does not exist here; set it to {where}")
    _check_digest(path, encoding)
    encoder = open_encoder(path, encoding.length, encoding.dtype)
    return list(embed(prompts, encoder, _PROMPTS))


def check_folder(path: str, encoding: TextEncoding) -> None:
    """Checks that a folder has the encoder that made features.

    A folder that is missing on this machine is only noted: training does not need it.

    Raises:
      ValueError: it has another encoder.
    """
    if Path(expand_home(path)).is_dir():
        _check_digest(path, encoding)
    else:
        console.print_once(
            f"{_KEY}={path} does not exist here: the training reads stored features of "
            f"{encoding}; sampling by prompts needs the folder"
        )


@functools.lru_cache(maxsize=8)
def _check_digest(path: str, encoding: TextEncoding) -> None:
    found = compute_digest(path)
    if found != encoding.digest:
        raise ValueError(
            f"{_KEY}={path} has the digest {found[:12]}, but the features that the "
            f"model reads are those of {encoding}; set it to that encoder's folder"
        )


def compute_digest(path: str) -> str:
    """Returns a digest of an encoder's weights and tokenizer.

    Of the weights it covers the names and shapes of all tensors and the first row of
    each, so that 19 GB take moments. Weights of another precision have another digest.

    Raises:
      FileNotFoundError, ValueError: as `encoders.load_text_encoder`.
    """
    root = encoders.find_folder(expand_home(path))
    digest = hashlib.sha256()
    tensors = hf_folder.open_tensors(root)
    names = [name for name in tensors.files if not re.fullmatch(_IGNORED, name)]
    for name in sorted(names):
        digest.update(f"{name} {tensors.shapes[name]}".encode())
        digest.update(tensors.read_start(name).tobytes())
    tokenizer = encoders.find_tokenizer(root)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        if (tokenizer / name).is_file():
            digest.update((tokenizer / name).read_bytes())
    return digest.hexdigest()
