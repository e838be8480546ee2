"""Messages and progress bars for the person who started the run.

Does not import jax, because reading data must not need it.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS = 15.0  # between two lines of progress, where there is no terminal

_bars: list[Any] = []  # the open bars; lines must be printed above them
_printed: set[str] = set()
_lock = threading.Lock()


def is_first_process() -> bool:
    """Returns whether this is the process that prints and writes files.

    In a single process it does not ask JAX: that would start the devices, which a
    training on the same machine may hold.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return True
    return jax.process_index() == 0


def has_bar() -> bool:
    """Returns whether a progress bar is on the screen."""
    return bool(_bars)


def print_line(line: str) -> None:
    """Prints a line, in the first process only."""
    if is_first_process():
        print_everywhere(line)


def print_everywhere(line: str) -> None:
    """Prints a line in every process, above the progress bars."""
    if _bars:
        _bars[-1].write(line, file=sys.stdout)
        sys.stdout.flush()
    else:
        print(line, flush=True)


def print_once(line: str) -> None:
    """Prints a line in every process, unless this process has printed it before."""
    with _lock:
        if line in _printed:
            return
        _printed.add(line)
    print_everywhere(line)


def format_duration(seconds: float) -> str:
    """Formats 75 as "1:15" and 3675 as "1:01:15"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@contextlib.contextmanager
def show_progress(
    label: str, total: int, unit: str, *, start: int = 0, prints_lines: bool = True
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of long work, and yields the function that sets it.

    A progress bar if stderr is a terminal, otherwise a line now and then. Only the
    first process shows it.

    Args:
      label: what is done, such as "sampling".
      total: number of all units.
      unit: what is counted, such as "images".
      start: number that is done already.
      prints_lines: False shows nothing without a terminal.
    """
    if not is_first_process():
        yield lambda done: None
    elif not sys.stderr.isatty():
        yield _print_lines(label, total, unit) if prints_lines else lambda done: None
    else:
        with _open_bar(label, total, unit, start) as bar:

            def update(done: int) -> None:
                bar.update(done - bar.n)

            yield update


@contextlib.contextmanager
def _open_bar(label: str, total: int, unit: str, start: int) -> Iterator[Any]:
    import tqdm  # only where a bar is shown

    bar = tqdm.tqdm(
        desc=label,
        total=total,
        initial=start,
        unit=f" {unit}",
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
    )
    _bars.append(bar)
    try:
        yield bar
    finally:
        _bars.remove(bar)
        bar.close()


def _print_lines(label: str, total: int, unit: str) -> Callable[[int], None]:
    """Returns a function that prints the progress from time to time."""
    last = time.monotonic()
    # Of the first call, because what comes before includes the compilation.
    first: tuple[int, float] | None = None

    def update(done: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        if now - last >= _SECONDS and done < total:
            last = now
            line = f"  {label}: {done:,} of {total:,} {unit}"
            if first is not None and done > first[0]:
                rate = (done - first[0]) / (now - first[1])
                left = format_duration((total - done) / rate)
                line += f"  {rate:.3g} {unit}/s  {left} left"
            print_line(line)
        first = first or (done, now)

    return update
