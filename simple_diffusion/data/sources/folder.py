"""Any folder of images: nested or flat, mixed sizes and formats, with classes or not.

Where every image lies in some subfolder, the subfolder directly below the folder is its
class, however deep the image lies. Where any image lies directly in the folder, there
are no classes.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, DataError, printable
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)

# Formats that Pillow cannot read everywhere (HEIC, raw) are here too: a photograph left
# out is then named in a warning and not just missing.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm "
    ".pnm .tga .ico .jp2 .j2k .avif .heic .heif .dng .cr2 .nef .arw".split()
)


class FolderSource:
    """The images of a folder, or the part of them that is held out.

    Args:
      root: the folder.
      split: "train" or "holdout".
      holdout_fraction: share held out, in [0, 1). An image belongs to the one or the
        other by its path relative to the root alone, so adding images moves none.
      crop_box: the part of every image that counts, see `decode.decode`.

    Raises:
      DataError: if there is no such folder, or it holds no image.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
    ):
        self._root = root
        self._crop_box = crop_box
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise DataError(f"data.source=folder:{root}: {root} {what}")
        paths = sorted(image_paths(root, ""))
        if not paths:
            raise DataError(
                f"data.source=folder:{root}: no image in {root} or below; "
                f"files count as images by their suffix: {' '.join(sorted(SUFFIXES))}"
            )
        self.class_names = class_names_of(paths)
        self._label_of = {name: k for k, name in enumerate(self.class_names)}
        self._paths = paths_of(paths, split, holdout_fraction)
        log.info(
            "data.source=folder:%s: %d images, %d of them for %s; %s",
            root,
            len(paths),
            len(self._paths),
            split,
            f"classes: {', '.join(self.class_names)}"
            if self.class_names
            else "no classes",
        )

    def __len__(self) -> int:
        return len(self._paths)

    def read(
        self, index: int, resolution: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """Returns image and class; see `sources.Source`."""
        with self._opened(index) as (file, path):
            image = decode.decode(file, path, resolution, self._crop_box)
        return image, self._label(index)

    def read_crop(
        self, index: int, choose: decode.Choose
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Crop, int]:
        """Returns a part, which it is, and class; see `sources.CropSource`."""
        with self._opened(index) as (file, path):
            image, crop = decode.decode_crop(file, path, choose, self._crop_box)
        return image, crop, self._label(index)

    def name(self, index: int) -> str:
        """Returns the path of an image as text."""
        return printable(self._root / self._paths[index])

    def fingerprint(self) -> str:
        """Returns a digest of names and sizes; see `sources.StoredSource`."""
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                size = (self._root / path).stat().st_size
            except OSError:  # it is skipped when it is read
                size = -1
            digest.update(os.fsencode(path) + f" {size}\n".encode())
        return digest.hexdigest()[:12]

    @contextlib.contextmanager
    def _opened(self, index: int) -> Iterator[tuple[decode.File, Path]]:
        path = self._root / self._paths[index]
        try:
            with open(path, "rb") as file:
                yield file, path
        except OSError as error:
            raise BadImage(path, error.strerror or type(error).__name__) from error

    def _label(self, index: int) -> int:
        first = self._paths[index].split("/")[0]
        return self._label_of.get(first, 0)


def image_paths(folder: Path, prefix: str, above: frozenset = frozenset()):
    """Yields the images below a folder as paths relative to it, "/" between parts.

    Hidden files and folders are passed over; links are followed, but not in circles.
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
            yield from image_paths(Path(entry.path), relative + "/", below)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            # A broken link counts too: reading it fails, and is reported.
            if entry.is_file() or entry.is_symlink():
                yield relative


def class_names_of(paths: list[str]) -> tuple[str, ...]:
    """Returns the first-level subfolders, or nothing if any image lies above them."""
    if any("/" not in path for path in paths):
        return ()
    return tuple(sorted({path.split("/")[0] for path in paths}))


def paths_of(paths: list[str], split: str, fraction: float) -> list[str]:
    """Returns the paths of one split; neither is ever empty.

    A path is held out if its hash, as a number in [0, 1), is below the fraction. Of a
    folder so small that one split would be empty, that gets the image nearest to it; a
    single image serves as both.
    """
    place = {path: _unit_hash(path) for path in paths}
    ordered = sorted(paths, key=place.__getitem__)
    held_out = sum(v < fraction for v in place.values())
    held_out = min(max(held_out, 1), max(len(paths) - 1, 1))
    if len(paths) == 1:
        name = printable(paths[0])
        log.warning("data.source: only one image, %s: it is also held out", name)
        return paths
    return sorted(ordered[:held_out] if split == "holdout" else ordered[held_out:])


def _unit_hash(path: str) -> float:
    """Returns a number in [0, 1) that depends on the path alone."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:7], "big") / 256**7
