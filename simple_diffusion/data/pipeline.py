"""Batches of examples, as a pure function of (seed, step).

Each step of a stream has a plan: the positions of its examples, and which example of
the source stands at each (data/order.py). tf.data carries the plans out, several at a
time and ahead of need, without changing their order. So resuming costs nothing, and the
processes of one run share each batch between them without talking to each other.
"""

import dataclasses
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from simple_diffusion.core.types import Batch
from simple_diffusion.data import order, tf_runtime, transforms
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.patches import Law
from simple_diffusion.data.reader import PADDING, Reader
from simple_diffusion.data.skipping import Checked
from simple_diffusion.data.sources.protocols import Source
from simple_diffusion.data.views import Patches, View, Wholes

_END = 2**62  # steps of an endless stream
# Ready batches: enough to bridge one slow image, few enough to fit beside the others.
_PREFETCH = 2
# Examples that one call reads: entering Python from TensorFlow costs a tenth of what it
# costs to decode a small image.
_CALL = 8


class Plan(NamedTuple):
    """What one batch holds: positions in the stream and indices into the source."""

    position: Int64[np.ndarray, "b"]
    index: Int64[np.ndarray, "b"]


class Batches:
    """An iterator over batches; `close` stops the threads that work ahead of it."""

    def __init__(self, elements: Iterator[Any], reader: Reader):
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
        parts = next(self._elements[0])  # each [parts of a batch, examples, ...]
        image, box, label, mask, failure = (v.reshape(-1, *v.shape[2:]) for v in parts)
        if failure.any():
            self.close()
            raise self._reader.failures[failure.max() - 1]
        return Batch(image=image, label=label, box=box, mask=mask)

    @property
    def bad_count(self) -> int:
        """Number of different images that could not be read so far."""
        return self._reader.checked.bad_count

    @property
    def cut_count(self) -> int:
        """Number of different images so far that were smaller than is wanted."""
        return self._reader.view.small.count

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
    crop: transforms.Place = "center",
    flip: bool = False,
    resize: transforms.Resize = "area",
    patches: Law | None = None,
) -> Batches:
    """Returns this process's part of every batch from `start_step` on, without end.

    Each epoch visits every example once, in an order of its own. A bad image is
    replaced by the next good one of the source.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      resolution: side of the square images, in pixels.
      seed: decides the order, the crops and the flips, and the patches.
      start_step: the step that the first batch is for.
      process_index: which part of each batch; the parts, one after the other, are the
        batch of a single process.
      process_count: number of equal parts.
      crop: where the square lies, as `transforms.fitted`.
      flip: as `transforms.fitted`.
      resize: as `transforms.fitted`.
      patches: the law of patches, for which images are cut up; it then says what
        `resolution`, `crop`, `flip` and `resize` say for whole images.

    Raises:
      DataError: if the source is empty or the parts cannot be equal, or the source does
        not allow such patches; while iterating, if all images are bad or a label is
        out of range.
    """
    part = _part(batch_size, process_index, process_count)

    def plan(step: int) -> Plan:
        position = step * batch_size + part
        return Plan(position, order.shuffled(position, len(source), seed))

    if patches is not None:
        view: View = Patches(source, patches, seed)
    else:
        size = resolution, resolution
        options: dict[str, Any] = dict(place=crop, flip=flip, resize=resize)
        view = Wholes(source, size, seed, **options)
    checked = Checked(source)
    reader = Reader(view, checked, checked.read_or_next)
    return _batches(plan, reader, start_step, _END, len(part))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    size: tuple[int, int] | None = None,
    count: int | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    resize: transforms.Resize = "area",
    patches: Law | None = None,
) -> Batches:
    """Returns this process's part of each batch of one pass over the source.

    The order is shuffled, but always the same, so that the first `count` examples of a
    source sorted by class are a fair sample. The last batch is padded; padding and bad
    images have a False mask and are black. Crops are central, nothing is flipped.
    Patches lie anywhere, but always at the same place.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      size: height and width in pixels of whole images; images of another shape are cut,
        those made at any size are made at this one. None if there are `patches`.
      count: how many examples; all of them by default.
      start: examples at the beginning of the pass that are left out.
      process_index: which part of each batch, as in `train_batches`.
      process_count: number of equal parts; each process gets as many batches.
      resize: of whole images, as `transforms.fitted`.
      patches: the law of patches, in place of whole images.

    Raises:
      DataError: as `train_batches`.
    """
    part = _part(batch_size, process_index, process_count)
    count = len(source) if count is None else min(count, len(source))

    def plan(step: int) -> Plan:
        position = start + step * batch_size + part
        index = order.shuffled(position, len(source), seed=0)
        return Plan(position, np.where(position < count, index, PADDING))

    if patches is not None:
        law = dataclasses.replace(patches, crop="center", flip=False)
        view: View = Patches(source, law, seed=0)
    else:
        assert size is not None
        view = Wholes(source, size, seed=0, resize=resize)
    checked = Checked(source)
    reader = Reader(view, checked, checked.read_or_none)
    return _batches(plan, reader, 0, -(-max(0, count - start) // batch_size), len(part))


def eval_examples(
    source: Source,
    places: Sequence[int],
    *,
    size: tuple[int, int],
    resize: transforms.Resize = "area",
) -> Batch:
    """Returns single examples of the pass of `eval_batches` as one batch.

    Args:
      source: the examples.
      places: which ones, counted from the beginning of the pass.
      size: as `eval_batches`, like `resize`.
      resize: see there.

    Raises:
      DataError: a label is out of range.
    """
    position = np.asarray(places, np.int64)
    index = order.shuffled(position, len(source), seed=0)
    checked = Checked(source)
    view = Wholes(source, size, seed=0, resize=resize)
    reader = Reader(view, checked, checked.read_or_none)
    read = reader.together if checked.is_batched else reader.one_by_one
    image, box, label, mask, failure = read(position, index)
    if failure.any():
        raise reader.failures[failure.max() - 1]
    return Batch(image=image, label=label, box=box, mask=mask)


def _part(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Returns the places in the batch that belong to one process."""
    size, rest = divmod(batch_size, process_count)
    if rest or not size:
        raise DataError(
            f"train.batch_size={batch_size} must be a multiple of the "
            f"{process_count} processes that share the data"
        )
    return np.arange(process_index * size, (process_index + 1) * size)


def _batches(
    plan: Callable[[int], Plan], reader: Reader, start: int, stop: int, size: int
) -> Batches:
    """Returns the batches of the steps from start to stop - 1, `size` examples each."""
    tf = tf_runtime.tensorflow()
    workers = _cpu_count()
    types = (tf.uint8, tf.float32, tf.int32, tf.bool, tf.int32)

    read, call = reader.one_by_one, max(k for k in range(1, _CALL + 1) if size % k == 0)
    if reader.checked.is_batched:
        read, call = reader.together, size

    def plan_at(step):
        position, index = plan(int(step))
        return position.reshape(-1, call), index.reshape(-1, call)

    def planned(step):
        plans = tf.numpy_function(plan_at, [step], (tf.int64, tf.int64))
        return [tf.ensure_shape(v, [size // call, call]) for v in plans]

    def carry_out(*plan):
        return tf.numpy_function(read, plan, types)

    data = tf.data.Dataset.range(start, stop).map(planned).unbatch()
    data = data.map(carry_out, num_parallel_calls=workers).batch(size // call)
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
