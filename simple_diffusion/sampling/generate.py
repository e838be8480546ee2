"""Any number of images, in batches of one shape, one compiled program."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

SampleFn = Callable[[Int[np.ndarray, "b"], Int[np.ndarray, "b"]], Array]


def generate(
    sample: SampleFn,
    labels: Int[np.ndarray, "n"],
    batch_size: int,
    start: int = 0,
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yields images start .. n-1 in order, in arrays of at most `batch_size`.

    Args:
      sample: (index [b], label [b]) -> uint8 images [b, h, w, c]. An image must depend
        on its own index and label alone; then it does not depend on `batch_size`.
      labels: the class of each image.
      batch_size: images at a time; the last batch is filled up and cut again, so that
        nothing is compiled twice.
      start: images at the beginning that are left out.
    """
    n = len(labels)
    for at in range(start, n, batch_size):
        # Modulo n: what fills up the last batch are images that exist anyway.
        index = np.arange(at, at + batch_size, dtype=np.int32) % n
        images = jax.device_get(sample(index, labels[index]))
        yield images[: n - at]


def balanced_labels(classes: list[int], count: int) -> Int[np.ndarray, "n"]:
    """Returns `count` labels that go through `classes` again and again."""
    return np.resize(np.asarray(classes, np.int32), count)


def chosen(
    sample: SampleFn,
    labels: Int[np.ndarray, "n"],
    places: Sequence[int],
    batch_size: int,
) -> UInt8[np.ndarray, "m h w c"]:
    """Returns some of the images of `generate`, the same ones to the bit.

    Args:
      sample: as there, like the others.
      labels: of all images.
      places: which are wanted, at least one.
      batch_size: images at a time.
    """
    found = []
    for start in range(0, len(places), batch_size):
        part = np.asarray(places[start : start + batch_size], np.int32)
        index = np.resize(part, batch_size)  # filled up with the same again
        found.append(jax.device_get(sample(index, labels[index]))[: len(part)])
    return np.concatenate(found)
