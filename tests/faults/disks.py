"""Disks that are small or cannot be written, as far as a machine lets us make them."""

import contextlib
import os
import subprocess


@contextlib.contextmanager
def small(folder, megabytes):
    """Yields (folder, "disk") of a small file system, or (folder, "limit").

    Mounting needs rights that not every machine gives; without them the caller has to
    limit the size of files.
    """
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if not _works(mount):
        yield disk, "limit"
        return
    try:
        yield disk, "disk"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextlib.contextmanager
def read_only(folder):
    """Yields a place below which nothing can be written."""
    closed = folder / "closed"
    closed.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(closed)]
    if os.geteuid() == 0 and _works(mount):
        try:
            yield closed
        finally:
            subprocess.run(["umount", "--lazy", str(closed)], check=True)
        return
    if (
        os.geteuid() == 0
    ):  # nothing is closed to root, but a file is no folder to anybody
        plain = folder / "file"
        plain.write_text("")
        yield plain
        return
    closed.chmod(0o500)
    yield closed
    closed.chmod(0o700)


def _works(command):
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
