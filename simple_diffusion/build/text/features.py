"""Features of captions, computed once, so that training need not run the encoder.

Shapes: b captions, n tokens, d features.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from simple_diffusion.build.text.encoders import TextEncoder


class CaptionFeatures(NamedTuple):
    """Features of captions, to be stored; they are 0 where the mask is False."""

    features: Float[np.ndarray, "b n d"]
    mask: Bool[np.ndarray, "b n"]


def embed_captions(
    captions: Iterable[str],
    encoder: TextEncoder,
    batch_size: int = 64,
    dtype: str = "float16",
) -> Iterator[CaptionFeatures]:
    """Yields the features of captions in order, up to `batch_size` at a time.

    Args:
      captions: any number; "" gives the null.
      encoder: see `load_text_encoder`.
      batch_size: captions per call of the network; the last call is padded, so that
        there is one program.
      dtype: of the features, "float16" or "bfloat16".

    Raises:
      ValueError: if features are not finite in this type, naming the caption.
    """
    stored = {"float16": np.float16, "bfloat16": jnp.bfloat16}.get(dtype)
    if stored is None:
        raise ValueError(f"dtype={dtype!r} must be float16 or bfloat16")
    compute = jax.jit(encoder.apply)
    remaining = iter(captions)
    while texts := list(itertools.islice(remaining, batch_size)):
        padded = texts + [""] * (batch_size - len(texts))
        ids, mask = encoder.tokenizer.encode(padded, encoder.max_length)
        found = np.asarray(compute(encoder.params, ids, mask))[: len(texts)]
        mask = mask[: len(texts)]
        with np.errstate(over="ignore"):  # reported below
            found = np.where(mask[..., None], found, 0).astype(stored)
        finite = np.isfinite(found.astype(np.float32)).all(axis=(1, 2))
        if not finite.all():
            caption = texts[int(np.argmin(finite))]
            raise ValueError(f"features of {caption!r:.60} are not finite in {dtype}")
        yield CaptionFeatures(found, mask)
