"""Reads the examples of a plan, inside TensorFlow."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from simple_diffusion.core.examples import Example
from simple_diffusion.data.conditioning.encoders import Encoder, EncoderSet
from simple_diffusion.data.errors import BadImage, UnsuitableImage
from simple_diffusion.data.skipping import SkippingReader
from simple_diffusion.data.views import BoxedExample, View

PADDING = -1  # as an index: there is no example at this position


class _Encoded(NamedTuple):
    """An example with the arrays that the encoders made of it."""

    boxed: BoxedExample
    arrays: tuple[np.ndarray, ...]

    @property
    def label(self) -> int:
        """The class number of the example."""
        return self.boxed.label


class PlanReader:
    """Reads the examples of plans through a view, called by TensorFlow.

    TensorFlow would turn an exception that passes through it into text inside one of
    its own. So nothing is raised here: the exception is kept, and its number (from 1; 0
    is success) travels with the example, to be raised when the batch is taken.

    Args:
      view: makes the examples.
      skipping: knows the bad images.
      read_good: a method of `skipping`: (index, read) -> example, or None.
      encoders: of the other fields.
      seed: of the encoders' random numbers.
    """

    def __init__(
        self,
        view: View,
        skipping: SkippingReader,
        read_good: Callable,
        encoders: Sequence[Encoder] = (),
        seed: int = 0,
    ):
        self.view = view
        self.skipping = skipping
        self.encoders = EncoderSet(encoders, view.size)
        self._seed = seed
        self.failures: list[Exception] = []
        self._read_good = read_good
        self._lock = threading.Lock()

    def read_singly(
        self, position: Int64[np.ndarray, "n"], index: Int64[np.ndarray, "n"]
    ) -> tuple:
        """Returns images, boxes, labels, masks, failures and fields, each [n, ...]."""
        pairs = zip(position.tolist(), index.tolist(), strict=True)
        return _stack([self._read(*pair) for pair in pairs])

    def read_together(
        self, position: Int64[np.ndarray, "n"], index: Int64[np.ndarray, "n"]
    ) -> tuple:
        """Returns the same, read in one call of the source."""
        try:
            mask = index != PADDING
            index = np.where(mask, index, 0)
            image, box, label, examples = self.view.read_batch(index, position)
            self.skipping.check_labels(index, label)
            fields = self._encode_rows(examples, index, position, mask)
            image = image * mask[:, None, None, None]
            label = np.where(mask, label, 0).astype(np.int32)
            return image, box, label, mask, np.zeros(len(mask), np.int32), *fields
        except Exception as error:
            return _stack([self._make_blank(self._keep(error))] * len(index))

    def _read(self, position: int, index: int) -> tuple:
        def read(index: int) -> _Encoded:
            boxed = self.view.read(index, position)
            return _Encoded(boxed, self._encode(boxed.example, index, position))

        try:
            found = None if index == PADDING else self._read_good(index, read)
            if found is None:
                return self._make_blank()
            (example, box), fields = found
            label = np.int32(example.label)
            return example.image, box, label, np.True_, np.int32(0), *fields
        except Exception as error:
            return self._make_blank(self._keep(error))

    def _make_blank(self, failure: int = 0) -> tuple:
        """Returns a black image that the mask excludes, and the number of a failure."""
        black = np.zeros((*self.view.size, self.skipping.channels), np.uint8)
        full_box = np.array([0, 0, 1, 1], np.float32)
        blank = self.encoders.blank()
        return black, full_box, np.int32(0), np.False_, np.int32(failure), *blank

    def _encode(self, example: Example, index: int, position: int) -> tuple:
        """Returns the arrays of the encoders; errors name the example."""
        try:
            return self.encoders.encode(example, self._seed, position)
        except UnsuitableImage as error:
            raise BadImage(self.view.name(index), str(error)) from None

    def _encode_rows(
        self,
        examples: Sequence[Example],
        index: Int64[np.ndarray, "n"],
        position: Int64[np.ndarray, "n"],
        mask: Bool[np.ndarray, "n"],
    ) -> tuple:
        """Returns the arrays of all examples; blank where the mask is False."""
        if not self.encoders.specs:
            return ()
        rows = zip(examples, index.tolist(), position.tolist(), mask, strict=True)
        blank = self.encoders.blank()
        return _stack(
            [self._encode(v, k, place) if ok else blank for v, k, place, ok in rows]
        )

    def _keep(self, error: Exception) -> int:
        with self._lock:
            self.failures.append(error)
            return len(self.failures)


def _stack(examples: list[tuple]) -> tuple:
    return tuple(np.stack(field) for field in zip(*examples, strict=True))
