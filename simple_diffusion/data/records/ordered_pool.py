"""Computes many items in parallel, returns them in order and reports progress."""

import collections
import time
from collections.abc import Callable
from concurrent import futures
from datetime import timedelta
from typing import Generic, TypeVar

from simple_diffusion.core import console

Result = TypeVar("Result")

_PER_WORKER = 4  # results in progress or ready: enough to bridge one slow item
_SECONDS_BETWEEN_REPORTS = 10.0


class OrderedPool(Generic[Result]):
    """The results of a function of 0, 1, 2, ..., computed by threads ahead of need.

    Use it as a context manager.

    Args:
      compute: the function; safe to call from threads.
      position: the first number.
      total: the number after the last.
      workers: threads.
    """

    def __init__(
        self, compute: Callable[[int], Result], position: int, total: int, workers: int
    ):
        self.position = position
        self.total = total
        self._compute = compute
        self._depth = _PER_WORKER * workers
        self._pending: collections.deque[futures.Future[Result]] = collections.deque()
        self._pool = futures.ThreadPoolExecutor(workers)

    def __enter__(self) -> "OrderedPool[Result]":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def peek(self) -> Result:
        """Returns the result for `position`, which has to be below `total`."""
        stop = min(self.position + self._depth, self.total)
        for number in range(self.position + len(self._pending), stop):
            self._pending.append(self._pool.submit(self._compute, number))
        return self._pending[0].result()

    def advance(self) -> None:
        """Moves to the next position; `peek` has to be called for this one before."""
        self._pending.popleft()
        self.position += 1


class Progress:
    """Reports how many images are done, how fast, and how long the rest will take.

    Args:
      first: number of images that were done before.
      total: number of all images.
      skipped: how many of those done before were skipped.
      report: called with each line: the last one, and, where no progress bar shows
        it, some before.
      show: called with each number, for a progress bar.
    """

    def __init__(
        self,
        first: int,
        total: int,
        skipped: int,
        report: Callable[[str], None],
        show: Callable[[int], None],
    ):
        self._first = first
        self._total = total
        self._skipped = skipped
        self._report = report
        self._show = show
        self._start = self._last_report = time.monotonic()

    def record_skipped(self, name: str, reason: str) -> None:
        """Counts an image that cannot be read, and logs its name."""
        self._skipped += 1
        console.print_once(
            f"skipped an image ({self._skipped} so far): {name}: {reason}"
        )

    def update(self, done: int) -> None:
        """Sets the number of images done; reports it now and then and at the end."""
        self._show(done)
        now = time.monotonic()
        waits = now - self._last_report < _SECONDS_BETWEEN_REPORTS
        if done < self._total and (waits or console.has_bar()):
            return
        self._last_report = now
        rate = (done - self._first) / max(now - self._start, 1e-6)
        left = timedelta(seconds=round((self._total - done) / rate))
        self._report(
            f"{done:,} of {self._total:,} images ({done / self._total:.1%}), "
            f"{rate:.0f} images/s, {self._skipped} skipped, ETA {left}"
        )
