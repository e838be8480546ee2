"""Files that a reader finds whole or not at all, whoever writes them."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import IO

from etils import epath

PARTIAL = ".partial"  # ends the name of a file that is being written


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of another one when it is complete.

    Several processes may write the same at once; the last one to end wins.

    Args:
      path: of the file, in a folder that is there.

    Raises:
      OSError: if it cannot be written; then nothing of it is left.
    """
    path = epath.Path(path).expanduser()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
