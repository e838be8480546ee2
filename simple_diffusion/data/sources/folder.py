"""Any folder of images: nested or flat, mixed sizes and formats, with classes or not.

Where every image lies in some subfolder, the subfolder directly below the folder is its
class, however deep the image lies. Where any image lies directly in the folder, there
are no classes.

Further fields come from a metadata file in the folder (see metadata.py), or captions
from a .txt file beside each image.
"""

import contextlib
import copy
import dataclasses
import hashlib
import io
import logging
import os
from collections.abc import Iterator, Set
from pathlib import Path

from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, format_path
from simple_diffusion.data.stored import (
    examples,
    field_names,
    folder_content,
    image_paths,
    metadata,
)
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)


class FolderSource:
    """The images of a folder, or the part of them that is held out.

    Args:
      root: the folder.
      split: "train", "holdout", or "all" for both.
      holdout_fraction: share held out, in [0, 1). The split of an image depends on its
        path relative to the root alone, so adding images moves none.
      crop_box: the part to use of every image, see `decode.decode`.
      channels: of the images, see `decode.decode`.
      flag: the config key or flag that names the source, for messages.

    Raises:
      DataError: if there is no such folder, or it holds no image, or its metadata
        cannot be read.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
        channels: int = 3,
        flag: str = "data.source=",
    ):
        self.channels = channels
        self._root = root
        self._crop_box = crop_box
        content = folder_content.read_content(root, f"{flag}folder:{root}")
        self._content = content
        self.class_names = content.class_names
        self.category_names = content.category_names
        self.fields = field_names.to_source_fields(content.fields)
        self.map_classes = {k: () for k in field_names.list_maps(content.fields)}
        self._wanted = content.fields
        self._label_of = {name: k for k, name in enumerate(self.class_names)}
        self._paths = image_paths.select_split(content.paths, split, holdout_fraction)
        log.info(
            "data.source=folder:%s: %d images, %d of them for %s; %s",
            root,
            len(content.paths),
            len(self._paths),
            split,
            f"classes: {', '.join(self.class_names)}"
            if self.class_names
            else "no classes",
        )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example; see `protocols.Source`."""
        with self._open(index) as example:
            return examples.read(example, resolution, self._crop_box, self.channels)

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns a part of an example; see `protocols.CropSource`."""
        with self._open(index) as example:
            return examples.read_crop(example, choose, self._crop_box, self.channels)

    def read_stored(self, index: int) -> examples.StoredExample:
        """Returns an example as it is stored, all of its bytes read."""
        with self._open(index) as example:
            image = io.BytesIO(example.image.read())
            return dataclasses.replace(example, image=image)

    def select_fields(self, wanted: Set[str]) -> "FolderSource":
        """Returns the same source without some fields; see `SelectiveSource`."""
        other = copy.copy(self)
        other._wanted = field_names.select_wanted(self._content.fields, wanted)
        return other

    def relative_path(self, index: int) -> str:
        """Returns the path of an image relative to the folder."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """Returns the path of an image as text."""
        return format_path(self._root / self._paths[index])

    def fingerprint(self) -> str:
        """Returns a digest of names and sizes; see `protocols.StoredSource`."""
        digest = hashlib.sha256()
        for path in self._paths:
            caption = self._content.captions.get(path)
            for file in (path, caption) if caption else (path,):
                try:
                    size = (self._root / file).stat().st_size
                except OSError:  # it is skipped when it is read
                    size = -1
                digest.update(os.fsencode(file) + f" {size}\n".encode())
        if self._content.metadata is not None:
            digest.update((self._root / self._content.metadata.file).read_bytes())
        return digest.hexdigest()[:12]

    @contextlib.contextmanager
    def _open(self, index: int) -> Iterator[examples.StoredExample]:
        """Yields the example while its image is open."""
        path = self._root / self._paths[index]
        try:
            with open(path, "rb") as file:
                yield self._describe(file, self._paths[index])
        except OSError as error:
            raise BadImage(path, error.strerror or type(error).__name__) from error

    def _describe(self, file: io.BufferedReader, path: str) -> examples.StoredExample:
        """Returns an example, of an open image, with the fields that are wanted."""
        name = self._root / path
        found, wanted = self._content.metadata, self._wanted
        row = found.rows[path] if found else None
        caption = boxes = None
        if "caption" in wanted:
            caption = examples.check_caption(self._read_caption(path, row), name)
        if "objects" in wanted:
            assert found is not None and row is not None
            try:
                boxes = found.boxes(row)
            except ValueError as error:
                raise BadImage(name, f"objects ({row.place}): {error}") from None
        maps = {k: self._read_map(name, k, row) for k in field_names.list_maps(wanted)}
        label = self._label(path, row, name)
        return examples.StoredExample(file, name, label, caption, boxes, maps)

    def _read_caption(self, path: str, row: metadata.Row | None) -> str | bytes | None:
        file = self._content.captions.get(path)
        if file is not None:
            return self._read_file(self._root / path, "caption", file)
        return row.caption if row else None

    def _read_map(self, name: Path, key: str, row: metadata.Row | None) -> bytes:
        assert row is not None
        if key not in row.maps:
            raise BadImage(name, f"map {key}: missing in {row.place}")
        return self._read_file(name, f"map {key}", row.maps[key])

    def _read_file(self, name: Path, field: str, file: str) -> bytes:
        try:
            return (self._root / file).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadImage(name, f"{field}: {file}: {reason}") from error

    def _label(self, path: str, row: metadata.Row | None, name: Path) -> int:
        if row is None or not self._content.has_label_column:
            return self._label_of.get(path.split("/")[0], 0)
        if row.label in self._label_of:
            return self._label_of[row.label]
        if "label" not in self._wanted:
            return 0
        problem = "missing" if row.label is None else f"unknown class {row.label}"
        raise BadImage(name, f"label: {problem} in {row.place}")
