"""Skips bad images and names each of them once; counts images that are too small."""

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int

from simple_diffusion.core import console
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources.protocols import BatchSource, Source

# Of a source with more examples, nobody waits for the end of the first epoch.
_MOST_COUNTED = 10_000_000


@runtime_checkable
class Labelled(Protocol):
    """An example, in whatever form, that has a class number."""

    @property
    def label(self) -> int:
        """The class number, from 0."""
        ...


Item = TypeVar("Item", bound=Labelled)


class SkippingReader:
    """Reads a source without its bad images, and checks its labels.

    Prints the name of each bad image once, however often it is read again, by this
    reader or another one; and their number, once all images have been read.

    Which image replaces a bad one depends on the source alone, so that a resumed run,
    and every process, sees the same images. Safe to use from threads.

    Args:
      source: at least one example.

    Raises:
      DataError: if it is empty.
    """

    def __init__(self, source: Source):
        if len(source) < 1:
            raise DataError("data.source: holds no examples")
        self._source = source
        self._num_classes = max(len(source.class_names), 1)
        # Index to reason; not to the error itself, which keeps its frames alive.
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()
        is_counted = len(source) <= _MOST_COUNTED
        self._is_read = bytearray(len(source)) if is_counted else None
        self._unread = len(source)

    @property
    def bad_count(self) -> int:
        """Number of different images found bad so far."""
        return len(self._bad)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self._source.channels

    @property
    def is_batched(self) -> bool:
        """Whether the source can be read by `read_batch`."""
        return isinstance(self._source, BatchSource)

    def read_or_none(self, index: int, read: Callable[[int], Item]) -> Item | None:
        """Returns an example, or None for a bad image.

        Args:
          index: of the image.
          read: reads one image.

        Raises:
          DataError: if all images are bad, or a label is out of range.
        """
        if index not in self._bad:
            try:
                example = read(index)
            except BadImage as error:
                self._record(index, error)
            else:
                self._check_label(index, example.label)
                self._count(index)
                return example
            self._count(index)
        if len(self._bad) == len(self._source):
            raise DataError(
                f"data.source: none of the {len(self._bad)} images can be read, such "
                f"as {self._bad[index]}"
            )
        return None

    def read_or_next(self, index: int, read: Callable[[int], Item]) -> Item:
        """Returns an example: that of the next good image if this one is bad.

        Raises:
          DataError: as `read_or_none`.
        """
        # Ends: once every index has been found bad, reading raises.
        while (example := self.read_or_none(index, read)) is None:
            index = (index + 1) % len(self._source)
        return example

    def check_labels(
        self, indices: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]
    ) -> None:
        """Raises DataError if a label is out of range."""
        for index, label in zip(indices.tolist(), labels.tolist(), strict=True):
            self._check_label(index, label)

    def _check_label(self, index: int, label: int) -> None:
        if not 0 <= label < self._num_classes:
            raise DataError(
                f"data.source: example {index} has label {label}, but the classes are "
                f"0 to {self._num_classes - 1}"
            )

    def _record(self, index: int, error: BadImage) -> None:
        with self._lock:
            if index in self._bad:
                return
            self._bad[index] = str(error)
        console.print_once(f"data.source: skipped an image: {error}")

    def _count(self, index: int) -> None:
        """Counts an image; after the last one, prints how many were skipped."""
        if self._is_read is None or self._is_read[index]:
            return
        with self._lock:
            if self._is_read[index]:
                return
            self._is_read[index] = 1
            self._unread -= 1
            is_last = not self._unread
        total, bad = len(self._source), len(self._bad)
        if is_last and 0 < bad < total:
            console.print_once(
                f"data.source: {bad} of {total} images skipped, {total - bad} are used"
            )


class SmallImageCounter:
    """Counts images that are too small for the settings; safe to use from threads."""

    def __init__(self):
        self._indices: set[int] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of different images."""
        return len(self._indices)

    def record(self, index: int, message: str) -> None:
        """Counts an image, and reports the first one, the tenth, the hundredth, ...

        Args:
          index: of the image in the source.
          message: the report about this image.
        """
        with self._lock:
            if index in self._indices:
                return
            self._indices.add(index)
            count = len(self._indices)
        if str(count).strip("0") == "1":
            console.print_once(f"{message} (images so far: {count})")
