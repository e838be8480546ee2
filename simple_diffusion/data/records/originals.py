"""The images that records are prepared from: of a folder, or of a TFDS dataset."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from simple_diffusion.core import console
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import tfds_source
from simple_diffusion.data.stored import image_paths

_SPLIT_NAMES = frozenset("train training val valid validation test testing".split())


@dataclasses.dataclass(frozen=True)
class Originals:
    """The images of a folder, or of a TFDS dataset, all splits together.

    names: of all images, in order, all different.
    class_names: the classes; empty if there are none.
    holdout_from: the images from this one on are held out; None if the names decide.
    read: index -> encoded image and class; raises BadImage.
    """

    names: Sequence[str]
    class_names: tuple[str, ...]
    holdout_from: int | None
    read: Callable[[int], tuple[bytes, int]]

    def fingerprint(self) -> str:
        """Returns a text that changes if images or classes are added or removed."""
        parts = [*self.class_names, "", *self.names, str(self.holdout_from)]
        return hashlib.sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()


def open_originals(spec: str, data_dir: str | None) -> Originals:
    """Returns the images that `--input` names.

    Raises:
      DataError: if it is unknown, missing or empty.
    """
    kind, _, name = spec.partition(":")
    if kind == "folder" and name:
        return _open_folder(Path(name).expanduser())
    if kind == "tfds" and name:
        return _open_tfds(name, data_dir)
    hint = f"; for this folder write folder:{spec}" if Path(spec).is_dir() else ""
    raise DataError(f"--input {spec} must be folder:PATH or tfds:NAME{hint}")


def _open_folder(root: Path) -> Originals:
    """Returns the images of a folder, by path."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"--input folder:{root}: {root} {problem}")
    paths = sorted(image_paths.list_image_paths(root, ""))
    if not paths:
        raise DataError(
            f"--input folder:{root}: no image in {root} or below; files count as "
            f"images by their suffix: {' '.join(sorted(image_paths.SUFFIXES))}"
        )
    class_names = image_paths.find_class_names(paths)
    if class_names and _SPLIT_NAMES.issuperset(class_names):
        console.print_once(
            f"the subfolders of {root} are taken for classes, and are called "
            f"{', '.join(class_names)}; if they are splits, give the folder of one of "
            f"them, such as folder:{root / class_names[0]}"
        )
    label_of = {name: k for k, name in enumerate(class_names)}

    def read(index: int) -> tuple[bytes, int]:
        path = paths[index]
        try:
            encoded = (root / path).read_bytes()
        except OSError as error:
            raise BadImage(path, error.strerror or type(error).__name__) from error
        return encoded, label_of.get(path.split("/")[0], 0)

    return Originals(paths, class_names, None, read)


def _open_tfds(name: str, data_dir: str | None) -> Originals:
    """Returns the images of a prepared dataset: first for training, then held out."""
    train, holdout = (
        tfds_source.TfdsSource(name, data_dir, split) for split in ("train", "holdout")
    )
    names = [part.name(k) for part in (train, holdout) for k in range(len(part))]
    cut = len(train)

    def read(index: int) -> tuple[bytes, int]:
        part, place = (train, index) if index < cut else (holdout, index - cut)
        file, label = part.read_encoded(place)
        return file.getvalue(), label

    return Originals(names, train.class_names, cut, read)
