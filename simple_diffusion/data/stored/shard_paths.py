"""Which tar files a text names: a file, a folder, or a pattern."""

import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from simple_diffusion.data.errors import DataError, format_path

SUFFIX = ".tar"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # names in one pattern; more are a mistake


def find_shards(pattern: str, key: str) -> list[Path]:
    """Returns the tar files that a text names, in order.

    Args:
      pattern: a file; a folder, for all tar files in it or below; or a pattern such as
        `train-{00000..00131}.tar`, `{a,b}.tar` or `train-*.tar`.
      key: the config key or flag, with its value, for messages.

    Raises:
      DataError: if there is no such file, or a file of a range is missing.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(v for v in path.rglob(f"*{SUFFIX}") if v.is_file())
        if not found:
            raise DataError(f"{key}: no {SUFFIX} file in {path} or below")
        return found
    if path.is_file():
        return [path]
    names = expand_braces(os.path.expanduser(pattern), key)
    found, missing = [], []
    for name in names:
        matches = sorted(glob.glob(name, recursive=True))
        found += [Path(v) for v in matches]
        missing += [] if matches else [name]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{key}: no file {format_path(missing[0])}{more}; PATH is a tar file, a "
            "folder of tar files, or a pattern such as train-{00000..00131}.tar"
        )
    return list(dict.fromkeys(found))


def expand_braces(pattern: str, key: str) -> list[str]:
    """Returns the names that a pattern with {a,b} or {000..131} stands for, in order.

    Raises:
      DataError: if there are too many.
    """
    names = list(itertools.islice(_expand(pattern), _MOST + 1))
    if len(names) > _MOST:
        raise DataError(f"{key}: stands for more than {_MOST:,} files")
    return list(dict.fromkeys(names))


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    choices: Iterable[str] = match[1].split(",")
    if span := _RANGE.fullmatch(match[1]):
        first, last = int(span[1]), int(span[2])
        width = len(span[1]) if span[1].startswith("0") else 0
        step = 1 if first <= last else -1
        choices = (f"{k:0{width}d}" for k in range(first, last + step, step))
    for choice in choices:
        yield from _expand(pattern[: match.start()] + choice + pattern[match.end() :])
