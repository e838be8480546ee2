"""Batches of examples, as a pure function of (seed, step).

Each step of a stream has a plan: the positions of its examples, and the index into the
source at each (data/order.py). tf.data reads the plans, several at a time and ahead of
need, without changing their order. So resuming costs nothing, and the processes of one
run share each batch without communication.
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
from simple_diffusion.data.conditioning import encoders as host_encoders
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.patches import PatchDistribution
from simple_diffusion.data.reader import PADDING, PlanReader
from simple_diffusion.data.skipping import SkippingReader
from simple_diffusion.data.sources.protocols import Source
from simple_diffusion.data.views import FullImages, Patches, View

_ENDLESS = 2**62  # steps of an endless stream
# Ready batches: enough to bridge one slow image, few enough to save memory.
_PREFETCH = 2
# Examples that one call reads: entering Python from TensorFlow costs a tenth of what it
# costs to decode a small image.
_EXAMPLES_PER_CALL = 8


class Plan(NamedTuple):
    """The content of one batch: positions in the stream, indices into the source."""

    position: Int64[np.ndarray, "b"]
    index: Int64[np.ndarray, "b"]


class Batches:
    """An iterator over batches; `close` stops the threads that work ahead of it."""

    def __init__(self, elements: Iterator[Any], reader: PlanReader):
        self._elements = [elements]
        self._reader = reader
        # The threads call Python. They and an interpreter that shuts down would wait
        # for each other forever; a finalizer runs before that.
        self._close = weakref.finalize(self, self._elements.clear)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if not self._elements:
            raise StopIteration
        parts = next(self._elements[0])  # each [parts of a batch, examples, ...]
        arrays = [v.reshape(-1, *v.shape[2:]) for v in parts]
        try:
            return _make_batch(arrays, self._reader)
        except Exception:
            self.close()
            raise

    @property
    def bad_count(self) -> int:
        """Number of different images that could not be read so far."""
        return self._reader.skipping.bad_count

    @property
    def small_count(self) -> int:
        """Number of different images so far that were too small for the settings."""
        return self._reader.view.small_images.count

    def close(self) -> None:
        """Stops the threads; there are no more batches."""
        self._close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    size: tuple[int, int] | None = None,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crop: transforms.CropMode = "center",
    flip: bool = False,
    resize: transforms.Resize = "area",
    patches: PatchDistribution | None = None,
    encoders: Sequence[Encoder] = (),
    swap_sides: bool = False,
    has_alpha: bool = False,
    turns_portrait: bool = False,
) -> Batches:
    """Returns this process's part of every batch from `start_step` on, without end.

    Each epoch visits every example once, in an order of its own. A bad image is
    replaced by the next good one of the source.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      size: height and width of full images, in pixels. None if there are `patches`.
      seed: determines the order, the crops and the flips, and the patches.
      start_step: the step that the first batch is for.
      process_index: which part of each batch; the parts, one after the other, are the
        batch of a single process.
      process_count: number of equal parts.
      crop: of full images, as `transforms.crop_and_resize`.
      flip: as `transforms.crop_and_resize`.
      resize: as `transforms.crop_and_resize`.
      patches: the distribution of patches, to train on patches and not on full images;
        it replaces `size`, `crop`, `flip` and `resize`.
      encoders: make `Batch.fields` of the other fields of the examples.
      swap_sides: exchange left and right in the captions of mirrored images.
      has_alpha: whether the last of four channels is transparency, see
        `views.FullImages`.
      turns_portrait: whether full images that are higher than wide are turned, see
        `views.FullImages`.

    Raises:
      DataError: if the source is empty or the parts cannot be equal, or the source does
        not allow such patches; while iterating, if all images are bad or a label is
        out of range.
    """
    part = _choose_part(batch_size, process_index, process_count)

    def plan(step: int) -> Plan:
        position = step * batch_size + part
        return Plan(position, order.shuffle(position, len(source), seed))

    fields: dict[str, Any] = dict(
        wanted=host_encoders.list_needs(encoders),
        swap_sides=swap_sides,
        has_alpha=has_alpha,
    )
    if patches is not None:
        view: View = Patches(source, patches, seed, **fields)
    else:
        assert size is not None
        options: dict[str, Any] = dict(crop=crop, flip=flip, resize=resize)
        options["turns_portrait"] = turns_portrait
        view = FullImages(source, size, seed, **options, **fields)
    skipping = SkippingReader(source)
    reader = PlanReader(view, skipping, skipping.read_or_next, encoders, seed)
    return _make_batches(plan, reader, start_step, _ENDLESS, len(part))


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
    patches: PatchDistribution | None = None,
    encoders: Sequence[Encoder] = (),
    has_alpha: bool = False,
    turns_portrait: bool = False,
) -> Batches:
    """Returns this process's part of each batch of one pass over the source.

    The order is shuffled, but always the same, so that the first `count` examples of a
    source sorted by class are a fair sample. The last batch is padded; padding and bad
    images have a False mask and are black. Crops are central, nothing is flipped.
    Patches lie anywhere, but at the same place in every pass.

    Args:
      source: the examples.
      batch_size: examples in the batch of all processes together.
      size: height and width of full images, in pixels; images of another aspect are
        cropped, generated ones have this size. None if there are `patches`.
      count: how many examples; all of them by default.
      start: number of examples to skip at the beginning of the pass.
      process_index: which part of each batch, as in `train_batches`.
      process_count: number of equal parts; each process gets as many batches.
      resize: of full images, as `transforms.crop_and_resize`.
      patches: the distribution of patches, to read patches and not full images.
      encoders: as `train_batches`.
      has_alpha: as `train_batches`.
      turns_portrait: as `train_batches`.

    Raises:
      DataError: as `train_batches`.
    """
    part = _choose_part(batch_size, process_index, process_count)
    count = len(source) if count is None else min(count, len(source))

    def plan(step: int) -> Plan:
        position = start + step * batch_size + part
        index = order_of_pass(len(source), position)
        return Plan(position, np.where(position < count, index, PADDING))

    fields: dict[str, Any] = dict(
        wanted=host_encoders.list_needs(encoders), has_alpha=has_alpha
    )
    if patches is not None:
        fixed = dataclasses.replace(patches, crop="center", flip=False)
        view: View = Patches(source, fixed, seed=0, **fields)
    else:
        assert size is not None
        fields["turns_portrait"] = turns_portrait
        view = FullImages(source, size, seed=0, resize=resize, **fields)
    skipping = SkippingReader(source)
    reader = PlanReader(view, skipping, skipping.read_or_none, encoders)
    return _make_batches(
        plan, reader, 0, -(-max(0, count - start) // batch_size), len(part)
    )


def order_of_pass(
    length: int, positions: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """Returns the indices into a source of some examples of the pass of `eval_batches`.

    Args:
      length: of the source.
      positions: of the examples, counted from the beginning of the pass.
    """
    return order.shuffle(positions, length, seed=0)


def eval_examples(
    source: Source,
    indices: Sequence[int],
    *,
    size: tuple[int, int],
    resize: transforms.Resize = "area",
    encoders: Sequence[Encoder] = (),
    has_alpha: bool = False,
    turns_portrait: bool = False,
) -> Batch:
    """Returns single examples of the pass of `eval_batches` as one batch.

    Args:
      source: the examples.
      indices: of the examples, counted from the beginning of the pass.
      size: as `eval_batches`, like `resize`.
      resize: see there.
      encoders: see there.
      has_alpha: see there.
      turns_portrait: see there.

    Raises:
      DataError: a label is out of range.
    """
    position = np.asarray(indices, np.int64)
    index = order_of_pass(len(source), position)
    skipping = SkippingReader(source)
    view = FullImages(
        source,
        size,
        seed=0,
        resize=resize,
        wanted=host_encoders.list_needs(encoders),
        has_alpha=has_alpha,
        turns_portrait=turns_portrait,
    )
    reader = PlanReader(view, skipping, skipping.read_or_none, encoders)
    read = reader.read_together if skipping.is_batched else reader.read_singly
    return _make_batch(read(position, index), reader)


def _make_batch(arrays: Sequence[np.ndarray], reader: PlanReader) -> Batch:
    """Returns what a reader has read as a batch; raises the errors that it kept."""
    image, box, label, mask, failure, *fields = arrays
    if failure.any():
        raise reader.failures[failure.max() - 1]
    named = dict(zip(reader.encoders.specs, fields, strict=True))
    return Batch(image=image, label=label, box=box, mask=mask, fields=named)


def _choose_part(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Returns the indices in the batch that belong to one process."""
    size, rest = divmod(batch_size, process_count)
    if rest or not size:
        raise DataError(
            f"train.batch_size={batch_size} must be a multiple of the "
            f"{process_count} processes that share the data"
        )
    return np.arange(process_index * size, (process_index + 1) * size)


def _make_batches(
    plan: Callable[[int], Plan], reader: PlanReader, start: int, stop: int, size: int
) -> Batches:
    """Returns the batches of the steps from start to stop - 1, `size` examples each."""
    tf = tf_runtime.tensorflow()
    workers = _cpu_count()
    fields = [tf.as_dtype(spec.dtype) for spec in reader.encoders.specs.values()]
    types = (tf.uint8, tf.float32, tf.int32, tf.bool, tf.int32, *fields)

    read, call = (
        reader.read_singly,
        max(k for k in range(1, _EXAMPLES_PER_CALL + 1) if size % k == 0),
    )
    if reader.skipping.is_batched:
        read, call = reader.read_together, size

    def plan_at(step):
        position, index = plan(int(step))
        return position.reshape(-1, call), index.reshape(-1, call)

    def make_plans(step):
        plans = tf.numpy_function(plan_at, [step], (tf.int64, tf.int64))
        return [tf.ensure_shape(v, [size // call, call]) for v in plans]

    def read_plan(*plan):
        return tf.numpy_function(read, plan, types)

    data = tf.data.Dataset.range(start, stop).map(make_plans).unbatch()
    data = data.map(read_plan, num_parallel_calls=workers).batch(size // call)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = workers
    # Fixed parallelism: tuning it costs a thread, and an unknown amount of memory.
    options.autotune.enabled = False
    data = data.prefetch(_PREFETCH).with_options(options)
    return Batches(data.as_numpy_iterator(), reader)


def _cpu_count() -> int:
    """Returns how many CPUs this process may use, which a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
