"""Memory of the devices: what a program needs, and errors that say what to change."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from simple_diffusion.core import console

_EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


class OutOfMemory(ValueError):
    """A program needs more memory than there is.

    has_advice: whether the message says which keys to change.
    """

    has_advice = False


@contextlib.contextmanager
def explain(advice: str) -> Iterator[None]:
    """Turns errors of missing memory into one line that says what to change.

    Args:
      advice: names the config keys that bound the memory, as the end of a sentence.

    Raises:
      OutOfMemory: memory is missing, in our own estimate, in XLA or on the host.
    """
    try:
        yield
    except (OutOfMemory, MemoryError, jax.errors.JaxRuntimeError) as error:
        is_known = isinstance(error, OutOfMemory)
        if isinstance(error, jax.errors.JaxRuntimeError) and not any(
            word in str(error) for word in _EXHAUSTED
        ):
            raise
        if isinstance(error, OutOfMemory) and error.has_advice:
            raise
        first = next(iter(str(error).splitlines()), "")
        what = first if is_known else f"out of memory: {first[:200] or 'on the host'}"
        explained = OutOfMemory(f"{what}. To need less, {advice}")
        explained.has_advice = True
        raise explained from error


def check(compiled: Any, devices: Sequence[Any]) -> None:
    """Raises OutOfMemory if a compiled program needs more memory than there is.

    The estimate is that of the compiler. If less is free at the moment, prints a note.

    Args:
      compiled: a `jax.stages.Compiled`.
      devices: that it runs on, in this process.
    """
    needed = estimate(compiled, devices)
    total, free = _measure_memory(devices[0])
    if needed is None or total is None:
        return
    if needed > total:
        raise OutOfMemory(
            f"out of memory: this needs about {format_bytes(needed)}, and there are "
            f"{format_bytes(total)}"
        )
    if free is not None and needed > free:
        console.print_line(
            f"note: this needs about {format_bytes(needed)} of memory, and "
            f"{format_bytes(free)} are free now"
        )


def estimate(compiled: Any, devices: Sequence[Any]) -> int | None:
    """Returns the bytes that a compiled program needs where `check` counts them.

    That is one accelerator, or the memory of the host, which all devices of a CPU
    share. None if the compiler does not say.
    """
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None  # not every backend has statistics; without them nothing is checked
    if stats is None:
        return None
    each = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return each * (len(devices) if devices[0].platform == "cpu" else 1)


def format_bytes(count: int | float) -> str:
    """Formats 2.3e11 as "230 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _measure_memory(device: Any) -> tuple[int | None, int | None]:
    """Returns the total and the free memory of a device; None where it is unknown."""
    if device.platform == "cpu":
        return _measure_host()
    stats = device.memory_stats() or {}
    total = stats.get("bytes_limit")
    # What is in use includes the arguments of the program, so the rest says too little.
    return total, None


def _measure_host() -> tuple[int | None, int | None]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system has these names
        return None, None
    with contextlib.suppress(OSError, ValueError):  # "max" without a limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return total, int(line.split()[1]) * 1024
    return total, None
