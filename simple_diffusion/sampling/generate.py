"""Generates any number of images in batches of one shape with one compiled program."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from simple_diffusion.core.types import Request

SampleFn = Callable[[Int[np.ndarray, "b"], Request], Array]


def generate(
    sample: SampleFn,
    request: Request,
    batch_size: int,
    start: int = 0,
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yields images start .. n-1 in order, in arrays of at most `batch_size`.

    Args:
      sample: (index [b], request of b images) -> uint8 images [b, h, w, c]. An image
        must depend on its own index and request alone; then it does not depend on
        `batch_size`.
      request: of all images.
      batch_size: images at a time; the last batch is padded and then cropped, so that
        nothing is compiled twice.
      start: number of images to skip at the beginning.
    """
    n = len(request.label)
    for at in range(start, n, batch_size):
        # Modulo n: the last batch is padded with images from the beginning.
        index = np.arange(at, at + batch_size, dtype=np.int32) % n
        images = jax.device_get(sample(index, request.at(index)))
        yield images[: n - at]


def balanced_labels(classes: list[int], count: int) -> Int[np.ndarray, "n"]:
    """Returns `count` labels that cycle through `classes`."""
    return np.resize(np.asarray(classes, np.int32), count)


def generate_subset(
    sample: SampleFn,
    request: Request,
    indices: Sequence[int],
    batch_size: int,
) -> UInt8[np.ndarray, "m h w c"]:
    """Returns some of the images of `generate`, bit for bit the same.

    Args:
      sample: as in `generate`.
      request: of all images.
      indices: of the images to generate, at least one.
      batch_size: images at a time.
    """
    batches = []
    for start in range(0, len(indices), batch_size):
        part = np.asarray(indices[start : start + batch_size], np.int32)
        index = np.resize(part, batch_size)  # padded by repetition
        batches.append(jax.device_get(sample(index, request.at(index)))[: len(part)])
    return np.concatenate(batches)
