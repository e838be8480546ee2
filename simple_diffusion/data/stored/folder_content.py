"""What a folder holds: its images, and where the fields of each are."""

import dataclasses
import os
from pathlib import Path

from simple_diffusion.core import console
from simple_diffusion.data.errors import DataError, format_path
from simple_diffusion.data.stored import image_paths, metadata

_CAPTION_SUFFIX = ".txt"


@dataclasses.dataclass(frozen=True)
class Content:
    """The files of a folder.

    paths: of the images, relative to the folder, in order.
    metadata: None if the folder has no metadata file.
    captions: the text file of an image, if captions come from such files.
    fields: the fields that the folder has, named as in field_names.py.
    """

    paths: list[str]
    metadata: metadata.Metadata | None
    captions: dict[str, str]
    class_names: tuple[str, ...]
    fields: frozenset[str]

    @property
    def has_label_column(self) -> bool:
        """Whether classes come from the metadata, and not from subfolders."""
        return self.metadata is not None and "label" in self.metadata.fields

    @property
    def category_names(self) -> tuple[str, ...]:
        """The classes of objects; empty if there are no objects."""
        return self.metadata.category_names if self.metadata else ()


def read_content(root: Path, key: str) -> Content:
    """Returns what a folder holds: images, and how their fields are stored.

    Args:
      root: the folder.
      key: the config key or flag, with its value, that names the folder.

    Raises:
      DataError: if there is no such folder, or it holds no image, or its metadata
        cannot be read.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{key}: {root} {problem}")
    suffixes = image_paths.SUFFIXES | {_CAPTION_SUFFIX}
    files = sorted(image_paths.list_image_paths(root, "", suffixes=suffixes))
    texts = {
        stem: path
        for path in files
        for stem, suffix in [os.path.splitext(path)]
        if suffix.lower() == _CAPTION_SUFFIX
    }
    paths = [path for path in files if not path.lower().endswith(_CAPTION_SUFFIX)]
    if not paths:
        raise DataError(
            f"{key}: no image in {root} or below; files count as images by their "
            f"suffix: {' '.join(sorted(image_paths.SUFFIXES))}"
        )
    found = metadata.load(root, key)
    if found is not None:
        paths = _match_rows(found, paths, key)
    has_captions = found is not None and "caption" in found.fields
    stems = {} if has_captions else {path: os.path.splitext(path)[0] for path in paths}
    captions = {path: texts[stem] for path, stem in stems.items() if stem in texts}
    fields = {"image"} if found is None else set(found.fields)
    class_names = image_paths.find_class_names(paths)
    if found is not None and "label" in found.fields:
        class_names = found.class_names
    elif found is not None and len(class_names) == 1:
        class_names = ()  # a subfolder for the images, beside others for their maps
    if class_names:
        fields.add("label")
    if captions:
        fields.add("caption")
    return Content(paths, found, captions, class_names, frozenset(fields))


def _match_rows(found: metadata.Metadata, paths: list[str], key: str) -> list[str]:
    """Returns the images that the metadata describe; warns about all others."""
    present = set(paths)
    maps = {file for row in found.rows.values() for file in row.maps.values()}
    maps = {os.path.normpath(file) for file in maps}
    for problem, which in (
        ("images have no row", sorted(present - found.rows.keys() - maps)),
        ("rows have no image", sorted(found.rows.keys() - present)),
        ("rows name an image that had a row before", found.duplicates),
    ):
        if which:
            console.print_once(
                f"{key}: {len(which)} {problem} in {found.file} (field file_name) and "
                f"are left out, such as {format_path(which[0])}"
            )
    paths = [path for path in paths if path in found.rows]
    if not paths:
        first = format_path(next(iter(found.rows)))
        raise DataError(
            f"{key}: none of the images that {found.file} names is there, such as "
            f"{first}; file_name is relative to the folder"
        )
    return paths
