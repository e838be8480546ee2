"""The image files of a folder: their list, their classes, and which are held out."""

import hashlib
import os
from collections.abc import Iterator, Set
from pathlib import Path

from simple_diffusion.core import console
from simple_diffusion.data.errors import DataError, format_path

# Formats that Pillow cannot read everywhere (HEIC, raw) are here too: a warning then
# names the photograph that is skipped.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm "
    ".pnm .tga .ico .jp2 .j2k .avif .heic .heif .dng .cr2 .nef .arw".split()
)


def list_image_paths(
    folder: Path,
    prefix: str,
    above: frozenset = frozenset(),
    suffixes: Set[str] = SUFFIXES,
) -> Iterator[str]:
    """Yields the images below a folder as paths relative to it, "/" between parts.

    Images are the files with one of the suffixes. Skips hidden files and folders;
    follows links, but not in circles.
    """
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"data.source: {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")):
            continue
        relative = prefix + entry.name
        if entry.is_dir():
            below = above | {identity}
            yield from list_image_paths(
                Path(entry.path), relative + "/", below, suffixes
            )
        elif os.path.splitext(entry.name)[1].lower() in suffixes:
            # A broken link counts too: reading it fails, and is reported.
            if entry.is_file() or entry.is_symlink():
                yield relative


def find_class_names(paths: list[str]) -> tuple[str, ...]:
    """Returns the first-level subfolders, or nothing if any image lies above them."""
    if any("/" not in path for path in paths):
        return ()
    return tuple(sorted({path.split("/")[0] for path in paths}))


def select_split(paths: list[str], split: str, fraction: float) -> list[str]:
    """Returns the paths of one split, or of "all"; neither split is ever empty.

    A path is held out if its hash, as a number in [0, 1), is below the fraction. If one
    split of a small folder would be empty, it gets the image whose hash is nearest to
    the fraction. A single image is in both.
    """
    if split == "all":
        return paths
    hashes = {path: _hash_to_unit(path) for path in paths}
    ordered = sorted(paths, key=hashes.__getitem__)
    count = sum(v < fraction for v in hashes.values())
    count = min(max(count, 1), max(len(paths) - 1, 1))
    if len(paths) == 1:
        name = format_path(paths[0])
        console.print_once(f"data.source: only one image, {name}: it is also held out")
        return paths
    return sorted(ordered[:count] if split == "holdout" else ordered[count:])


def _hash_to_unit(path: str) -> float:
    """Returns a number in [0, 1) that depends on the path alone."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:7], "big") / 256**7
