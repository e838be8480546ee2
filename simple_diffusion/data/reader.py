"""Reads the examples of a plan, inside TensorFlow."""

import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from simple_diffusion.data.skipping import Checked
from simple_diffusion.data.views import Picture, View

PADDING = -1  # as an index: nothing stands at this position


class Reader:
    """Carries out plans inside TensorFlow: reads examples through a view.

    An exception that passed through TensorFlow would come out as text in one of its
    own. So nothing is raised here: the exception is kept, and its number (from 1; 0 is
    success) goes along with the example, to be raised where the batch comes out.

    Args:
      view: makes the examples.
      checked: knows the bad ones.
      get: what reads them, a method of `checked`.
    """

    def __init__(self, view: View, checked: Checked, get: Callable):
        self.view = view
        self.checked = checked
        self.failures: list[Exception] = []
        self._get = get
        self._lock = threading.Lock()

    def one_by_one(
        self, position: Int64[np.ndarray, "n"], index: Int64[np.ndarray, "n"]
    ) -> tuple:
        """Returns images, boxes, labels, masks and failures, each [n, ...]."""
        pairs = zip(position.tolist(), index.tolist(), strict=True)
        return _stacked([self._example(*pair) for pair in pairs])

    def together(
        self, position: Int64[np.ndarray, "n"], index: Int64[np.ndarray, "n"]
    ) -> tuple:
        """Returns the same, read in one call of the source."""
        try:
            mask = index != PADDING
            index = np.where(mask, index, 0)
            image, box, label = self.view.read_batch(index, position)
            self.checked.check_labels(index, label)
            image = image * mask[:, None, None, None]
            label = np.where(mask, label, 0).astype(np.int32)
            return image, box, label, mask, np.zeros(len(mask), np.int32)
        except Exception as error:
            return _stacked([self._nothing(self._keep(error))] * len(index))

    def _example(self, position: int, index: int) -> tuple:
        def read(index: int) -> tuple[int, Picture]:
            return self.view.read(index, position)

        try:
            found = None if index == PADDING else self._get(index, read)
            if found is None:
                return self._nothing()
            label, (image, box) = found
            return image, box, np.int32(label), np.True_, np.int32(0)
        except Exception as error:
            return self._nothing(self._keep(error))

    def _nothing(self, failure: int = 0) -> tuple:
        black = np.zeros((*self.view.size, 3), np.uint8)
        whole = np.array([0, 0, 1, 1], np.float32)
        return black, whole, np.int32(0), np.False_, np.int32(failure)

    def _keep(self, error: Exception) -> int:
        with self._lock:
            self.failures.append(error)
            return len(self.failures)


def _stacked(examples: list[tuple]) -> tuple:
    return tuple(np.stack(field) for field in zip(*examples, strict=True))
