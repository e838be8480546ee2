"""Sets of images to evaluate from files: a folder or an .npz file."""

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from simple_diffusion.core import images as pixels
from simple_diffusion.data import skipping
from simple_diffusion.data.stored import image_paths
from simple_diffusion.evaluation.feature_bank import ImageBatch
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet, Size
from simple_diffusion.pipelines.restoration import photos

_IMAGES, _LABELS = "arr_0", "arr_1"

# (first, last + 1) -> these images
_Read = Callable[[int, int], UInt8[np.ndarray, "b h w c"]]


def open_files(
    spec: str,
    key: str,
    size: Size | None,
    batch_size: int,
    classes: tuple[str, ...] = (),
) -> ImageSet:
    """Returns the images of a folder or an .npz file.

    A folder is read in the order of the file names; the first level of subfolders, if
    there is one, gives the classes. An .npz file holds uint8 images [n, h, w, c] as
    `arr_0` and optionally their classes as `arr_1`, as written by mode `sample`.

    Args:
      spec: "folder:PATH" or "npz:PATH".
      key: config key of `spec`, for messages.
      size: to which images are cropped and resized; None leaves them as they are.
      batch_size: number of images per batch.
      classes: class names of the labels. If a subfolder has another name, the set has
        no classes; the numbers in an .npz file are used unchanged.

    Raises:
      ValueError: `spec` is neither, does not exist, or has no images. While reading: a
        file is no image, or its size differs from that of the first.
    """
    kind, _, name = spec.partition(":")
    path = Path(name).expanduser()
    if kind not in ("folder", "npz") or not name:
        raise ValueError(f"{key}={spec} must be folder:PATH or npz:PATH")
    if not path.exists():
        raise ValueError(f"{key}={spec}: {path} does not exist")
    open_kind = _open_folder if kind == "folder" else _open_npz
    return open_kind(path, f"{key}={spec}", size, batch_size, classes)


def array_names(path: Path, where: str) -> list[str]:
    """Returns the names of the arrays in an .npz file.

    Raises:
      ValueError: it is not an .npz file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, IsADirectoryError) as error:
        raise ValueError(f"{where} is not an .npz file: {error}") from error


def checksum(path: Path) -> str:
    """Returns the first 12 digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _open_folder(
    root: Path, where: str, size: Size | None, batch: int, classes: tuple[str, ...]
) -> ImageSet:
    paths = sorted(image_paths.list_image_paths(root, "")) if root.is_dir() else []
    if not paths:
        raise ValueError(
            f"{where}: no image in this folder or its subfolders; image files "
            f"have one of these suffixes: {' '.join(sorted(image_paths.SUFFIXES))}"
        )
    numbers = {name: k for k, name in enumerate(classes)}
    labels = np.array([numbers.get(p.split("/")[0], -1) for p in paths], np.int32)
    if (labels < 0).any():
        labels, classes = np.zeros(len(paths), np.int32), ()
    target = size or photos.read(root / paths[0]).stored

    small = skipping.SmallImageCounter()

    def read_one(index: int) -> np.ndarray:
        path = paths[index]
        photo = photos.read(root / path)
        if size is None and photo.stored != target:
            (h, w), (y, x) = target, photo.stored
            raise ValueError(
                f"{where} holds images of different sizes: {paths[0]} has {h}x{w} "
                f"pixels, {path} has {y}x{x}; evaluate.size=HxW crops and resizes all"
            )
        _note_enlarged(small, index, f"{where}: {path}", photo.pixels.shape, target)
        return _fit(photo.pixels, target)

    def read(start: int, stop: int) -> np.ndarray:
        return np.stack([read_one(k) for k in range(start, min(stop, len(paths)))])

    # Do not hash the content of the files: it would have to be read twice.
    content = "\n".join([str(root.resolve()), *(_file_state(root, p) for p in paths)])
    return _image_set("folder", content.encode(), labels, target, classes, read, batch)


def _open_npz(
    path: Path, where: str, size: Size | None, batch: int, classes: tuple[str, ...]
) -> ImageSet:
    names = array_names(path, where)
    if _IMAGES not in names:
        raise ValueError(f"{where} holds {', '.join(names)}, but no images ({_IMAGES})")
    rows = _Rows(path)
    shape, dtype = rows.shape, rows.dtype
    if (
        len(shape) != 4
        or dtype != np.uint8
        or shape[-1] not in (1, 3, 4)
        or not shape[0]
    ):
        raise ValueError(
            f"{where}: {_IMAGES} must be uint8 images [n, h, w, 1, 3 or 4], got "
            f"{dtype} {list(shape)}"
        )
    labels = np.zeros(shape[0], np.int32)
    if _LABELS in names:
        with np.load(path) as file:
            labels = np.asarray(file[_LABELS], np.int32)
    else:
        classes = ()
    if labels.shape != shape[:1]:
        raise ValueError(
            f"{where}: {_LABELS} must be one class per image, {shape[0]} of them, got "
            f"{list(labels.shape)}"
        )
    target = size or (shape[1], shape[2])
    small = skipping.SmallImageCounter()

    def read(start: int, stop: int) -> np.ndarray:
        images = rows.read(start, stop)
        for k in range(start, start + len(images)):
            _note_enlarged(small, k, f"{where}: image {k}", shape[1:], target)
        return np.stack([_fit(image, target) for image in images])

    with zipfile.ZipFile(path) as archive:  # has the checksum of each array
        crc = archive.getinfo(f"{_IMAGES}.npy").CRC
    content = f"{crc} {list(shape)} {labels.tobytes().hex()}".encode()
    return _image_set("npz", content, labels, target, classes, read, batch)


def _file_state(root: Path, path: str) -> str:
    """Returns a string that changes if a file changes."""
    status = (root / path).stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _note_enlarged(
    small: skipping.SmallImageCounter,
    index: int,
    name: str,
    shape: tuple[int, ...],
    size: Size,
) -> None:
    """Warns about an enlarged image: enlarging adds no detail."""
    (h, w, *_), (rows, columns) = shape, size
    if h < rows or w < columns:
        small.record(
            index, f"{name} of {h}x{w} pixels is enlarged to {rows}x{columns}, blurred"
        )


def _fit(image: UInt8[np.ndarray, "h w c"], size: Size) -> np.ndarray:
    return photos.fit(pixels.to_rgb(image), size)


def _image_set(
    kind: str,
    content: bytes,
    labels: np.ndarray,
    size: Size,
    classes: tuple[str, ...],
    read: _Read,
    batch: int,
) -> ImageSet:
    count = len(labels)

    def parts(start: int) -> Iterator[ImageBatch]:
        for first in range(start, count, batch):
            images = read(first, min(first + batch, count))
            yield ImageBatch(
                images, labels[first : first + batch], np.ones(len(images), bool)
            )

    def at(indices: list[int]) -> np.ndarray:
        return np.concatenate([read(k, k + 1) for k in indices])

    identity = {
        "source": kind,
        "examples": count,
        "size": list(size),
        "checksum": hashlib.sha256(content).hexdigest()[:12],
    }
    return ImageSet(identity, count, size, classes, parts, at)


class _Rows:
    """The images of an .npz file, read in parts, because they may not fit in memory."""

    def __init__(self, path: Path):
        self._path = path
        self._file = zipfile.ZipFile(path).open(f"{_IMAGES}.npy")
        npy = np.lib.format
        is_version_1 = npy.read_magic(self._file) == (1, 0)
        read = npy.read_array_header_1_0 if is_version_1 else npy.read_array_header_2_0
        self.shape, self._fortran, self.dtype = read(self._file)
        self._begin = self._file.tell()
        self._array: np.ndarray | None = None

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "b h w c"]:
        """Returns the images from start to stop - 1."""
        if self._fortran:  # an image is not contiguous in the file
            array = self._array
            if array is None:
                with np.load(self._path) as file:
                    self._array = array = np.asarray(file[_IMAGES])
            return array[start:stop]
        row = math.prod(self.shape[1:])
        self._file.seek(self._begin + start * row)
        data = self._file.read((stop - start) * row)
        return np.frombuffer(data, np.uint8).reshape(-1, *self.shape[1:])
