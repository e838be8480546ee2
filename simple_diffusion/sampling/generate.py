"""Any number of images, in batches of one shape, one compiled program."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

SampleFn = Callable[[Int[np.ndarray, "b"], Int[np.ndarray, "b"]], Array]


def generate(
    sample: SampleFn,
    labels: Int[np.ndarray, "n"],
    batch_size: int,
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yields images 0 .. n-1 in order, in arrays of at most `batch_size`.

    Args:
      sample: (index [b], label [b]) -> uint8 images [b, h, w, c]. An image must depend
        on its own index and label alone; then it does not depend on `batch_size`.
      labels: the class of each image.
      batch_size: images at a time; the last batch is filled up and cut again, so that
        nothing is compiled twice.
    """
    n = len(labels)
    for start in range(0, n, batch_size):
        # Modulo n: what fills up the last batch are images that exist anyway.
        index = np.arange(start, start + batch_size, dtype=np.int32) % n
        images = jax.device_get(sample(index, labels[index]))
        yield images[: n - start]


def balanced_labels(classes: list[int], count: int) -> Int[np.ndarray, "n"]:
    """Returns `count` labels that go through `classes` again and again."""
    return np.resize(np.asarray(classes, np.int32), count)
