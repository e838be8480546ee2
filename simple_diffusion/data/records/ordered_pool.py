"""Work on many items at a time whose results come in order, and how it gets on."""

import collections
import logging
import time
from collections.abc import Callable
from concurrent import futures
from datetime import timedelta
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_PER_WORKER = 4  # results under way or waiting: enough to bridge one slow item
_EVERY = 10.0  # seconds between two lines


class Ahead(Generic[Result]):
    """The results of a function of 0, 1, 2, ..., from threads and ahead of need.

    Use it as a context manager.

    Args:
      make: the function; safe to call from threads.
      position: the first number.
      total: the number after the last.
      workers: threads.
    """

    def __init__(
        self, make: Callable[[int], Result], position: int, total: int, workers: int
    ):
        self.position = position
        self.total = total
        self._make = make
        self._depth = _PER_WORKER * workers
        self._waiting: collections.deque[futures.Future[Result]] = collections.deque()
        self._pool = futures.ThreadPoolExecutor(workers)

    def __enter__(self) -> "Ahead[Result]":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def peek(self) -> Result:
        """Returns the result for `position`, which has to be below `total`."""
        stop = min(self.position + self._depth, self.total)
        for number in range(self.position + len(self._waiting), stop):
            self._waiting.append(self._pool.submit(self._make, number))
        return self._waiting[0].result()

    def advance(self) -> None:
        """Goes on to the next position, once `peek` has been called for this one."""
        self._waiting.popleft()
        self.position += 1


class Progress:
    """Lines about how many images are done, how fast, and how long it will take.

    Args:
      first: images that were done before.
      total: of all images.
      skipped: of those done before.
      say: what is called with each line.
    """

    def __init__(
        self, first: int, total: int, skipped: int, say: Callable[[str], None]
    ):
        self._first = first
        self._total = total
        self._skipped = skipped
        self._say = say
        self._start = self._said = time.monotonic()

    def skip(self, name: str, why: str) -> None:
        """Counts an image that cannot be read, and names it."""
        self._skipped += 1
        log.warning("skipped bad image (%d so far): %s: %s", self._skipped, name, why)

    def note(self, done: int) -> None:
        """Takes note of the images done; says so now and then, and when all are."""
        now = time.monotonic()
        if now - self._said < _EVERY and done < self._total:
            return
        self._said = now
        rate = (done - self._first) / max(now - self._start, 1e-6)
        left = timedelta(seconds=round((self._total - done) / rate))
        self._say(
            f"{done:,} of {self._total:,} images ({done / self._total:.1%}), "
            f"{rate:.0f} images/s, {self._skipped} skipped, ETA {left}"
        )
