"""Batches onto the devices, ahead of the step that needs them.

A thread takes batches from the pipeline and copies them to the devices while the step
before is being computed. How long the training loop then still had to wait is measured.
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

# Where an array of a batch lies, the same for all or by their rank.
Placement = jax.sharding.Sharding | Callable[[int], jax.sharding.Sharding]


class Feed:
    """An iterator over batches of jax.Arrays, sharded over all devices of the run.

    Use it as a context manager, or call `close`; both stop the thread.

    Args:
      batches: this process's part of each batch, as numpy arrays; closed with the feed.
      sharding: over all devices of all processes; its first axis is that of the batch.
      depth: batches that wait on the devices, at least 1.
    """

    def __init__(self, batches: Iterator[Batch], sharding: Placement, depth: int = 2):
        self._ready: queue.Queue[Any] = queue.Queue(depth)
        self._seconds_waited = 0.0
        self._over: BaseException | None = None
        stop = threading.Event()
        # The thread must not keep the feed alive: a forgotten feed closes itself.
        thread = threading.Thread(
            target=_work,
            args=(batches, sharding, self._ready, stop),
            name="feed",
            daemon=True,
        )
        self._close = weakref.finalize(self, _close, thread, stop, batches)
        thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        if self._over is not None:
            raise self._over
        start = time.perf_counter()
        item = self._ready.get()
        self._seconds_waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            self._over = item
            self.close()
            raise item
        return item

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def seconds_waited(self) -> float:
        """Seconds that `next` has waited for a batch since the feed was made."""
        return self._seconds_waited

    def close(self) -> None:
        """Stops the thread and closes the batches; harmless when repeated."""
        self._over = self._over or StopIteration()
        self._close()
        with contextlib.suppress(queue.Full):  # then nobody waits for a batch
            self._ready.put_nowait(self._over)


def _work(
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
            put(on_devices(batch, sharding))
            if stop.is_set():
                return
        put(StopIteration())
    except BaseException as error:
        put(error)


def on_devices(batch: Batch, sharding: Placement) -> Batch:
    """Returns the batch of all processes, each giving its part, on the devices.

    Processes whose devices hold the same examples give the same part.
    """

    def put(v: np.ndarray) -> jax.Array:
        where = sharding(v.ndim) if callable(sharding) else sharding
        # Said, not inferred: split rows of an image are no more rows in all, since
        # every process has them whole.
        shape = (len(v) * _parts(where, v.ndim), *v.shape[1:])
        return jax.make_array_from_process_local_data(where, v, shape)

    return jax.tree.map(put, batch)


def _parts(sharding: jax.sharding.Sharding, rank: int) -> int:
    """Returns how many parts, one per process or several alike, make a batch."""
    ways = (sharding.num_devices,) * rank  # divides, however it is split
    every = sharding.devices_indices_map(ways)
    here = sharding.addressable_devices_indices_map(ways)
    starts, own = ({at[0].start for at in m.values() if at} for m in (every, here))
    return len(starts) // len(own)


def _close(
    thread: threading.Thread, stop: threading.Event, batches: Iterator[Batch]
) -> None:
    """Stops the thread, then what it was reading from."""
    stop.set()
    # A feed that was forgotten is closed by whichever thread collects the garbage.
    if thread is not threading.current_thread():
        thread.join()
    close = getattr(batches, "close", None)
    if close is not None:
        close()
