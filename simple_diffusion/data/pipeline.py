"""Batches of examples, as a pure function of (seed, step).

Each step of a stream has a plan: the positions of its examples, and which example of
the source stands at each (data/order.py). tf.data carries the plans out, several at a
time and ahead of need, without changing their order. So resuming costs nothing, and the
processes of one run share each batch between them without talking to each other.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from simple_diffusion.core.types import Batch
from simple_diffusion.data import order, tf_runtime, transforms
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.skip import Checked
from simple_diffusion.data.sources import Source

_END = 2**62  # steps of an endless stream
_PADDING = -1  # as an index: nothing stands at this position
# Ready batches: enough to bridge one slow image, few enough to fit beside the others.
_PREFETCH = 2


class Plan(NamedTuple):
    """What one batch holds: positions in the stream and indices into the source."""

    position: Int64[np.ndarray, "b"]
    index: Int64[np.ndarray, "b"]


class Batches:
    """An iterator over batches; `close` stops the threads that work ahead of it."""

    def __init__(self, elements: Iterator[Any], reader: "_Reader"):
        self._elements = [elements]
        self._reader = reader
        # The threads call Python, and would wait for ever for an interpreter that has
        # shut down, and it for them. A finalizer runs before it does.
        self._close = weakref.finalize(self, self._elements.clear)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if not self._elements:
            raise StopIteration
        image, label, mask, failure = next(self._elements[0])
        if failure.any():
            self.close()
            raise self._reader.failures[failure.max() - 1]
        box = np.tile(np.array([0, 0, 1, 1], np.float32), (len(image), 1))
        return Batch(image=image, label=label, box=box, mask=mask)

    @property
    def bad_count(self) -> int:
        """Number of different images that could not be read so far."""
        return self._reader.checked.bad_count

    def close(self) -> None:
        """Stops working ahead; there are no more batches."""
        self._close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    resolution: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crop: transforms.Crop = "center",
    flip: bool = False,
    resize: transforms.Resize = "area",
) -> Batches:
    """Returns this process's part of every batch from `start_step` on, without end.

    Each epoch visits every example once, in an order of its own. A bad image is
    replaced by the next good one of the source.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      resolution: side of the square images, in pixels.
      seed: decides the order, the crops and the flips.
      start_step: the step that the first batch is for.
      process_index: which part of each batch; the parts, one after the other, are the
        batch of a single process.
      process_count: number of equal parts.
      crop: as `transforms.square`.
      flip: as `transforms.square`.
      resize: as `transforms.square`.

    Raises:
      DataError: if the source is empty or the parts cannot be equal; while iterating,
        if all images are bad or a label is out of range.
    """
    part = _part(batch_size, process_index, process_count)

    def plan(step: int) -> Plan:
        position = step * batch_size + part
        return Plan(position, order.shuffled(position, len(source), seed))

    def transform(image: UInt8[np.ndarray, "h w 3"], position: int):
        rng = order.generator(seed, position)
        return transforms.square(
            image, rng, resolution=resolution, crop=crop, flip=flip, resize=resize
        )

    checked = Checked(source)
    reader = _Reader(checked, checked.read_or_next, transform, resolution)
    return _batches(plan, reader, start_step, _END, len(part))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    resolution: int,
    count: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    resize: transforms.Resize = "area",
) -> Batches:
    """Returns this process's part of each batch of one pass over the source.

    The order is shuffled, but always the same, so that the first `count` examples of a
    source sorted by class are a fair sample. The last batch is padded; padding and bad
    images have a False mask and are black. Crops are central, nothing is flipped.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      resolution: side of the square images, in pixels.
      count: how many examples; all of them by default.
      process_index: which part of each batch, as in `train_batches`.
      process_count: number of equal parts; each process gets as many batches.
      resize: as `transforms.square`.

    Raises:
      DataError: as `train_batches`.
    """
    part = _part(batch_size, process_index, process_count)
    count = len(source) if count is None else min(count, len(source))

    def plan(step: int) -> Plan:
        position = step * batch_size + part
        index = order.shuffled(position, len(source), seed=0)
        return Plan(position, np.where(position < count, index, _PADDING))

    def transform(image: UInt8[np.ndarray, "h w 3"], position: int):
        rng = order.generator(0, position)
        return transforms.square(image, rng, resolution=resolution, resize=resize)

    checked = Checked(source)
    reader = _Reader(checked, checked.read_or_none, transform, resolution)
    return _batches(plan, reader, 0, -(-count // batch_size), len(part))


def _part(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Returns the places in the batch that belong to one process."""
    size, rest = divmod(batch_size, process_count)
    if rest or not size:
        raise DataError(
            f"train.batch_size={batch_size} must be a multiple of the "
            f"{process_count} processes that share the data"
        )
    return np.arange(process_index * size, (process_index + 1) * size)


class _Reader:
    """Carries out plans: reads examples and transforms them, inside TensorFlow.

    An exception that passed through TensorFlow would come out as text in one of its
    own. So nothing is raised here: the exception is kept, and its number (from 1; 0 is
    success) goes along with the example, to be raised where the batch comes out.
    """

    def __init__(
        self, checked: Checked, read: Callable, transform: Callable, resolution: int
    ):
        self.checked = checked
        self.failures: list[Exception] = []
        self._read = read
        self._transform = transform
        self._resolution = resolution
        self._lock = threading.Lock()

    def example(self, position: np.int64, index: np.int64) -> tuple:
        """Returns image, label, mask and failure of one example."""
        try:
            example = None
            if index != _PADDING:
                example = self._read(int(index), self._resolution)
            if example is None:
                return self._nothing()
            image, label = example
            image = self._transform(image, int(position))
            return image, np.int32(label), np.True_, np.int32(0)
        except Exception as error:
            return self._nothing(self._keep(error))

    def batch(
        self, position: Int64[np.ndarray, "b"], index: Int64[np.ndarray, "b"]
    ) -> tuple:
        """Returns images, labels, masks and failures of a batch, read in one call."""
        try:
            mask = index != _PADDING
            images, labels = self.checked.read_batch(
                np.where(mask, index, 0), self._resolution
            )
            transformed = map(self._transform, images, position.tolist())
            images = np.stack(list(transformed)) * mask[:, None, None, None]
            labels = np.where(mask, labels, 0).astype(np.int32)
            return images, labels, mask, np.zeros(len(mask), np.int32)
        except Exception as error:
            nothing = self._nothing(self._keep(error))
            return tuple(np.stack([v] * len(index)) for v in nothing)

    def _nothing(self, failure: int = 0) -> tuple:
        black = np.zeros((self._resolution, self._resolution, 3), np.uint8)
        return black, np.int32(0), np.False_, np.int32(failure)

    def _keep(self, error: Exception) -> int:
        with self._lock:
            self.failures.append(error)
            return len(self.failures)


def _batches(
    plan: Callable[[int], Plan], reader: _Reader, start: int, stop: int, size: int
) -> Batches:
    """Returns the batches of the steps from start to stop - 1, `size` examples each."""
    tf = tf_runtime.tensorflow()
    workers = _cpu_count()
    types = (tf.uint8, tf.int32, tf.bool, tf.int32)

    def plan_at(step):
        return plan(int(step))

    def planned(step):
        position, index = tf.numpy_function(plan_at, [step], (tf.int64, tf.int64))
        return tf.ensure_shape(position, [size]), tf.ensure_shape(index, [size])

    def run(function):
        return lambda *plan: tf.numpy_function(function, plan, types)

    data = tf.data.Dataset.range(start, stop).map(planned)
    if reader.checked.is_batched:
        data = data.map(run(reader.batch), num_parallel_calls=workers)
    else:
        data = data.unbatch().map(run(reader.example), num_parallel_calls=workers)
        data = data.batch(size)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = workers
    # Fixed parallelism: tuning it costs a thread, and memory that nobody asked for.
    options.autotune.enabled = False
    data = data.prefetch(_PREFETCH).with_options(options)
    return Batches(data.as_numpy_iterator(), reader)


def _cpu_count() -> int:
    """Returns how many CPUs this process may use, which a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
