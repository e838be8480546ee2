"""The lock of a workdir: two trainings in it would mix their files.

The lock is a small file that names host, process and start. While a training runs, a
thread renews a number in it every few seconds. A training that finds a lock takes it
over

- at once, if the process that it names ran on this machine and is gone,
- otherwise, if the number has not changed for `STALE_SECONDS`. It watches the number
  itself and does not trust clocks, which differ between machines.

Where files can be created exclusively, two trainings that start together cannot both
get the lock. Elsewhere, such as in buckets, the one that wrote last has it; the other
notices when it reads the lock again.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from simple_diffusion.core import files

FILE = "training.lock"
RENEW_SECONDS = 15.0
STALE_SECONDS = 90.0
_SETTLE_SECONDS = 1.0  # until others that start together have written, too


class LockedError(ValueError):
    """Another training uses the workdir."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The content of a lock.

    machine: identifies the boot of a machine and the name space of its processes: where
      both are equal, `pid` says whether the process is alive.
    process_start: when the system started the process, in its own unit: a number of a
      process is used again.
    start: seconds since 1970.
    token: random, of this training.
    count: how often the lock was renewed.
    """

    host: str
    machine: str
    pid: int
    process_start: str
    start: float
    token: str
    count: int = 0


@contextlib.contextmanager
def hold(
    folder: epath.Path,
    *,
    log: Callable[[str], None] = print,
    stop: Callable[[str], None],
) -> Iterator[None]:
    """Holds the lock of a workdir; call it in one process of a run.

    Args:
      folder: the workdir; created if it does not exist.
      log: prints a line.
      stop: called from a thread, with the reason, if another training has taken over
        the lock, for example because this process was suspended for long.

    Raises:
      LockedError: another training holds it.
      OSError: the lock cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = _acquire(folder, log)
    released = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(folder, owner, released, stop), name="lock", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        with contextlib.suppress(OSError):
            found = read(folder)
            if found is not None and found.token == owner.token:
                (folder / FILE).unlink()


def read(folder: epath.Path) -> Owner | None:
    """Returns the owner of a workdir; None if nobody holds its lock."""
    try:
        return Owner(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # damaged, or of another version
        return Owner("an unknown host", "", 0, "", 0.0, "")


def _acquire(folder: epath.Path, log: Callable[[str], None]) -> Owner:
    owner = Owner(
        socket.gethostname(),
        _machine(),
        os.getpid(),
        _process_start(os.getpid()),
        time.time(),
        secrets.token_hex(8),
    )
    found = read(folder)
    if found is None and _create(folder, owner):
        return owner
    found = read(folder)
    if found is not None and not _is_gone(found):
        if _runs_here(found):
            raise LockedError(_describe(folder, found))
        _wait_until_stale(folder, found, log)
    if found is not None:
        log(f"taking over the lock of {_name(found)}, which has ended")
    _write(folder, owner)
    time.sleep(_SETTLE_SECONDS)
    found = read(folder)
    if found is None or found.token != owner.token:
        raise LockedError(_describe(folder, found or owner))
    return owner


def _wait_until_stale(
    folder: epath.Path, found: Owner, log: Callable[[str], None]
) -> None:
    log(
        f"{folder / FILE} is held by {_name(found)}; waiting up to "
        f"{STALE_SECONDS:.0f} s for a sign of life from it"
    )
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        now = read(folder)
        if now is None:
            return
        if (now.token, now.count) != (found.token, found.count):
            raise LockedError(_describe(folder, now))


def _renew(
    folder: epath.Path,
    owner: Owner,
    released: threading.Event,
    stop: Callable[[str], None],
) -> None:
    while not released.wait(RENEW_SECONDS):
        # A disk that does not answer for a while is no reason to stop a training.
        with contextlib.suppress(OSError):
            found = read(folder)
            if found is not None and found.token not in (owner.token, ""):
                stop(_describe(folder, found))
                return
            owner = dataclasses.replace(owner, count=owner.count + 1)
            _write(folder, owner)


def _create(folder: epath.Path, owner: Owner) -> bool:
    """Creates the lock if there is none; returns whether it did."""
    if "://" in str(folder):
        return False  # buckets have no exclusive creation
    try:
        with open(folder / FILE, "x") as file:
            json.dump(dataclasses.asdict(owner), file)
    except FileExistsError:
        return False
    return True


def _write(folder: epath.Path, owner: Owner) -> None:
    files.write_json(folder / FILE, dataclasses.asdict(owner))


def _describe(folder: epath.Path, owner: Owner) -> str:
    age = f", started {_format_age(time.time() - owner.start)} ago" * bool(owner.start)
    return (
        f"--workdir={folder}: another training runs in it, {_name(owner)}{age}. Stop "
        f"that one or choose another --workdir; if you are sure that it is gone, "
        f"delete {folder / FILE}"
    )


def _name(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host}"


def _format_age(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _runs_here(owner: Owner) -> bool:
    return bool(owner.machine) and owner.machine == _machine()


def _is_gone(owner: Owner) -> bool:
    """Returns whether the process ran on this machine and has certainly ended."""
    if not _runs_here(owner):
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it exists and belongs to somebody else
        pass
    return _process_start(owner.pid) != owner.process_start


def _machine() -> str:
    """Returns the identity of this boot and name space of processes; "" if unknown.

    Host names are not enough: containers may share one, and have other processes.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    if sys.platform == "darwin":
        return socket.gethostname()
    return ""  # os.kill(pid, 0) would end a process on Windows


def _process_start(pid: int) -> str:
    """Returns the start of a process in ticks of the system; "" if unknown."""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rsplit(")", 1)[1].split()[19]
    return ""
