"""Puts batches on the devices ahead of the step that needs them.

A thread takes batches from the pipeline and copies them to the devices while the
previous step is computed. The feed measures how long the training loop still waits.
"""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from simple_diffusion.core.types import Batch

# The sharding of the arrays of a batch: one for all, or by their rank.
Placement = jax.sharding.Sharding | Callable[[int], jax.sharding.Sharding]


class Feed:
    """An iterator over batches of jax.Arrays, sharded over all devices of the run.

    Use it as a context manager, or call `close`; both stop the thread.

    Args:
      batches: this process's part of each batch, as numpy arrays; closed with the feed.
      sharding: over all devices of all processes; its first axis is that of the batch.
      depth: number of batches that wait on the devices, at least 1.
    """

    def __init__(self, batches: Iterator[Batch], sharding: Placement, depth: int = 2):
        self._ready: queue.Queue[Any] = queue.Queue(depth)
        self._seconds_waited = 0.0
        self._end: BaseException | None = None
        stop = threading.Event()
        # The thread must not keep the feed alive: a forgotten feed closes itself.
        thread = threading.Thread(
            target=_put_batches,
            args=(batches, sharding, self._ready, stop),
            name="feed",
            daemon=True,
        )
        self._close = weakref.finalize(self, _close, thread, stop, batches)
        thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        if self._end is not None:
            raise self._end
        start = time.perf_counter()
        item = self._ready.get()
        self._seconds_waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            self._end = item
            self.close()
            raise item
        return item

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def seconds_waited(self) -> float:
        """Seconds that `next` has waited for batches since the feed was created."""
        return self._seconds_waited

    def close(self) -> None:
        """Stops the thread and closes the batches; harmless when repeated."""
        self._end = self._end or StopIteration()
        self._close()
        with contextlib.suppress(queue.Full):  # then nobody waits for a batch
            self._ready.put_nowait(self._end)


def _put_batches(
    batches: Iterator[Batch],
    sharding: Placement,
    ready: queue.Queue,
    stop: threading.Event,
) -> None:
    """Moves batches to the devices until there are no more, or `stop` is set."""

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    try:
        for batch in batches:
            put(put_on_devices(batch, sharding))
            if stop.is_set():
                return
        put(StopIteration())
    except BaseException as error:
        put(error)


def put_on_devices(batch: Batch, sharding: Placement) -> Batch:
    """Returns the batch of all processes, each giving its part, on the devices.

    Processes whose devices hold the same examples give the same part.
    """

    def put(v: np.ndarray) -> jax.Array:
        placement = sharding(v.ndim) if callable(sharding) else sharding
        # Stated, not inferred: JAX would take split rows of an image for a part of
        # more rows, but every process has all of them.
        shape = (len(v) * _count_parts(placement, v.ndim), *v.shape[1:])
        return jax.make_array_from_process_local_data(placement, v, shape)

    return jax.tree.map(put, batch)


def _count_parts(sharding: jax.sharding.Sharding, rank: int) -> int:
    """Returns how many different parts, held by the processes, make a batch."""
    shape = (sharding.num_devices,) * rank  # divisible, however it is split
    everywhere = sharding.devices_indices_map(shape)
    here = sharding.addressable_devices_indices_map(shape)
    starts, own_starts = (
        {index[0].start for index in indices.values() if index}
        for indices in (everywhere, here)
    )
    return len(starts) // len(own_starts)


def _close(
    thread: threading.Thread, stop: threading.Event, batches: Iterator[Batch]
) -> None:
    """Stops the thread, then closes the batches that it was reading."""
    stop.set()
    # A feed that was forgotten is closed by whichever thread collects the garbage.
    if thread is not threading.current_thread():
        thread.join()
    close = getattr(batches, "close", None)
    if close is not None:
        close()
