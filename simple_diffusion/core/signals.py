"""Ctrl-C and SIGTERM: a stopped command prints one line and has its own exit code.

`install` is the first call of every command, before anything is imported that takes
time. Three phases follow each other:

- While modules are imported and flags are read, nothing is written. A signal ends the
  process at once: an exception could be lost inside an import.
- Inside `unwind`, a signal raises `Stopped`, so that files in work are removed. If that
  takes too long, because the main thread is in compiled code or the exception was lost,
  a thread ends the process.
- Inside `catch_first`, training turns the first signal into an event and saves.

A second signal always ends the process at once. This file imports no other module of
the library and nothing outside the standard library.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# Schedulers and shells may pass on one request twice; that is not a second one.
_SAME_REQUEST_SECONDS = 0.5
_UNWIND_SECONDS = 10.0
_REPEAT_SECONDS = 0.02


class Stopped(KeyboardInterrupt):
    """A signal stopped the command.

    code: the exit code, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {_NAMES[signal.Signals(number)]}")
        self.number = number
        self.code = 128 + number


class _State:
    """What has happened so far; one for the process, because signals are."""

    def __init__(self):
        self.is_unwinding = False  # a signal raises Stopped
        self.is_caught = False  # a signal sets the event of `catch_first`
        self.first: float | None = None  # time of the first signal
        self.raised: int | None = None  # number of the signal that raised Stopped
        self.is_lost = False  # Stopped was raised where exceptions are ignored
        self.is_reported = threading.Lock()  # taken by whoever prints the line


_state = _State()


def install() -> None:
    """Handles SIGINT and SIGTERM from now on; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _NUMBERS:
        signal.signal(number, _handle)
    # The interpreter writes the number of a signal here even while the main thread is
    # in compiled code, where `_handle` has to wait.
    import socket  # only now that signals are handled: every import takes time

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    sys.unraisablehook = _raise_again
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset)


@contextlib.contextmanager
def unwind() -> Iterator[None]:
    """Within it a signal raises `Stopped`; without `install` it does nothing."""
    _state.is_unwinding = True
    try:
        yield
    except Exception:
        # Compiled code may have replaced the exception by one of its own.
        if _state.raised is None:
            raise
        exit_now(_state.raised)
    finally:
        _state.is_unwinding = False


@contextlib.contextmanager
def catch_first() -> Iterator[threading.Event]:
    """Turns the first SIGTERM or SIGINT into an event; the second acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python allows signal handlers in the main thread only
        return
    # None: a handler that was not installed from Python.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _NUMBERS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        _state.first = time.monotonic()
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    _state.is_caught = True
    try:
        yield stop
    finally:
        _state.is_caught = False
        restore()


def exit_now(number: int, note: str = "") -> NoReturn:
    """Ends the process with the line and the exit code of a signal.

    Args:
      number: of the signal.
      note: to add to the line.

    Skips Python's own shutdown, which could wait for threads and other processes.
    """
    stopped = Stopped(number)
    # Never released: another thread that comes here, too, waits for the end.
    if _state.is_reported.acquire(timeout=1.0):
        # Not `print`: the main thread may be in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, f"{stopped}{note}\n".encode())
    os._exit(stopped.code)


def _handle(number: int, frame: Any) -> None:
    if _state.is_lost:
        _state.is_lost = False
        raise Stopped(number)
    now = time.monotonic()
    if _state.first is not None and now - _state.first < _SAME_REQUEST_SECONDS:
        return
    if _state.is_unwinding and _state.first is None:
        _state.first, _state.raised = now, number
        raise Stopped(number)
    exit_now(number)


def _raise_again(unraisable: Any) -> None:
    """Repeats the signal if its exception was lost in a destructor or a callback.

    Such as jax's callback of the garbage collection, where Python ignores exceptions.
    """
    error = unraisable.exc_value
    while error is not None and not isinstance(error, Stopped):
        # An import, for one, replaces it by a SystemError.
        error = error.__cause__ or error.__context__
    if error is not None:
        _state.is_lost = True
        # Later: here it would be lost once more.
        number = signal.Signals(error.number)
        timer = threading.Timer(_REPEAT_SECONDS, _thread.interrupt_main, [number])
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


def _watch(reader: Any) -> None:
    """Ends the process at a second signal, or if unwinding takes too long."""
    first: float | None = None
    while True:
        for number in reader.recv(64):
            if number not in _NUMBERS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
                if _state.is_unwinding and not _state.is_caught:
                    timer = threading.Timer(_UNWIND_SECONDS, exit_now, [number])
                    timer.daemon = True
                    timer.start()
                elif not _state.is_caught:
                    exit_now(number)
            elif now - first >= _SAME_REQUEST_SECONDS:
                exit_now(number)


def _reset() -> None:
    """Gives a forked process the default handlers: its signals are not ours."""
    signal.set_wakeup_fd(-1)
    for number in _NUMBERS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)
