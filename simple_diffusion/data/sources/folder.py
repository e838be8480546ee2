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

from simple_diffusion.core import console
from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, DataError, format_path
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)

# Formats that Pillow cannot read everywhere (HEIC, raw) are here too: a warning then
# names the photograph that is skipped.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm "
    ".pnm .tga .ico .jp2 .j2k .avif .heic .heif .dng .cr2 .nef .arw".split()
)


class FolderSource:
    """The images of a folder, or the part of them that is held out.

    Args:
      root: the folder.
      split: "train" or "holdout".
      holdout_fraction: share held out, in [0, 1). The split of an image depends on its
        path relative to the root alone, so adding images moves none.
      crop_box: the part to use of every image, see `decode.decode`.
      channels: of the images, see `decode.decode`.

    Raises:
      DataError: if there is no such folder, or it holds no image.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
        channels: int = 3,
    ):
        self.channels = channels
        self._root = root
        self._crop_box = crop_box
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise DataError(f"data.source=folder:{root}: {root} {problem}")
        paths = sorted(list_image_paths(root, ""))
        if not paths:
            raise DataError(
                f"data.source=folder:{root}: no image in {root} or below; "
                f"files count as images by their suffix: {' '.join(sorted(SUFFIXES))}"
            )
        self.class_names = find_class_names(paths)
        self.fields = frozenset({"image", "label"} if self.class_names else {"image"})
        self._label_of = {name: k for k, name in enumerate(self.class_names)}
        self._paths = select_split(paths, split, holdout_fraction)
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

    def read(self, index: int, resolution: int) -> Example:
        """Returns image and class; see `protocols.Source`."""
        with self._open(index) as (file, path):
            image = decode.decode(file, path, resolution, self._crop_box, self.channels)
        return Example(image, self._label(index))

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns a part of an image with its class; see `protocols.CropSource`."""
        with self._open(index) as (file, path):
            image, crop = decode.decode_crop(
                file, path, choose, self._crop_box, self.channels
            )
        return Example(image, self._label(index)), crop

    def name(self, index: int) -> str:
        """Returns the path of an image as text."""
        return format_path(self._root / self._paths[index])

    def fingerprint(self) -> str:
        """Returns a digest of names and sizes; see `protocols.StoredSource`."""
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                size = (self._root / path).stat().st_size
            except OSError:  # it is skipped when it is read
                size = -1
            digest.update(os.fsencode(path) + f" {size}\n".encode())
        return digest.hexdigest()[:12]

    @contextlib.contextmanager
    def _open(self, index: int) -> Iterator[tuple[decode.File, Path]]:
        path = self._root / self._paths[index]
        try:
            with open(path, "rb") as file:
                yield file, path
        except OSError as error:
            raise BadImage(path, error.strerror or type(error).__name__) from error

    def _label(self, index: int) -> int:
        first = self._paths[index].split("/")[0]
        return self._label_of.get(first, 0)


def list_image_paths(
    folder: Path, prefix: str, above: frozenset = frozenset()
) -> Iterator[str]:
    """Yields the images below a folder as paths relative to it, "/" between parts.

    Skips hidden files and folders; follows links, but not in circles.
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
            yield from list_image_paths(Path(entry.path), relative + "/", below)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            # A broken link counts too: reading it fails, and is reported.
            if entry.is_file() or entry.is_symlink():
                yield relative


def find_class_names(paths: list[str]) -> tuple[str, ...]:
    """Returns the first-level subfolders, or nothing if any image lies above them."""
    if any("/" not in path for path in paths):
        return ()
    return tuple(sorted({path.split("/")[0] for path in paths}))


def select_split(paths: list[str], split: str, fraction: float) -> list[str]:
    """Returns the paths of one split; neither is ever empty.

    A path is held out if its hash, as a number in [0, 1), is below the fraction. If one
    split of a small folder would be empty, it gets the image whose hash is nearest to
    the fraction. A single image is in both.
    """
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
