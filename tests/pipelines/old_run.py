"""A small run of version 0.1.0, whose files must stay usable."""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run_0.1.0.tar.gz"


def extract(folder: Path) -> Path:
    """Returns the workdir, unpacked into a folder.

    It was trained for 8 steps by tests/faults/tiny.py at 16x16, with
    ema.power=(0.05,) and snapshots; samples/samples.npz and restored/inpaint are what
    that version drew from it.
    """
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"
