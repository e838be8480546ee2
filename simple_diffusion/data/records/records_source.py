"""Images that `simple_diffusion.modes.prepare` has packed into a few large files.

Reading an image takes one access to one file. Opening the dataset checks the size of
every shard and reads the list of names, but no image.
"""

import copy
import functools
import hashlib
import io
import logging
from collections.abc import Set

import numpy as np
from etils import epath
from jaxtyping import Int64

from simple_diffusion.core import console
from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, DataError, format_path
from simple_diffusion.data.records import record_fields, shards, text_features
from simple_diffusion.data.stored import examples, field_names, image_paths
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)

# Shards that are open at a time. Systems usually allow 1024 open files, and two sources
# may be open; opening a shard costs ten times what reading a record does.
_MAX_OPEN_SHARDS = 256


class RecordsSource:
    """The images of a prepared dataset, or the part of them that is held out.

    Args:
      root: the folder, which may be in a bucket (gs://).
      split: "train" or "holdout".
      holdout_fraction: share held out, in [0, 1), chosen by the names of the images as
        `folder.FolderSource` does, so that both hold out the same. Records of a TFDS
        dataset keep its splits.
      crop_box: the part to use of every image, see `decode.decode`.
      channels: of the images, see `decode.decode`.

    Attribute `text_encoding`: see `protocols.TextFeatureSource`.

    Raises:
      DataError: if there is no prepared dataset, or it is not finished, or a file is
        missing or has changed; the message says what to do.
    """

    def __init__(
        self,
        root: epath.PathLike,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
        channels: int = 3,
    ):
        self.channels = channels
        self._root = epath.Path(root)
        self._crop_box = crop_box
        self._manifest = manifest = _load_manifest(self._root)
        shards.load_array_record()  # raises its error now, and not at the first batch
        names = _load_all_names(self._root, manifest)
        self.class_names = tuple(manifest.classes)
        self.category_names = manifest.category_names
        labels = {"label"} if self.class_names else set()
        self._features = text_features.open_features(self._root, manifest)
        self.text_encoding = self._features and self._features.encoding
        vectors = {text_features.FIELD} if self._features else set()
        self._listed = frozenset({"image", *labels, *vectors, *manifest.fields})
        self._wanted = self._listed
        self.fields = field_names.to_source_fields(self._listed)
        self.map_classes = {k: () for k in field_names.list_maps(self._listed)}
        self._numbers = _select_split(names, manifest, split, holdout_fraction)
        self._ends = np.cumsum([shard.count for shard in manifest.shards])
        paths = [self._root / shard.file for shard in manifest.shards]
        # A thread that still reads from an evicted shard keeps it open.
        self._open_shard = functools.lru_cache(_MAX_OPEN_SHARDS)(
            lambda k: shards.open_shard(paths[k])
        )
        size = manifest.settings.get("size")
        self._stored_size = size if isinstance(size, int) else None
        if channels == 4 and self._stored_size is not None:
            raise DataError(
                f"data.source=records:{root} was prepared with --size {size}, which "
                "puts transparent images on white; for data.channels=4 prepare them "
                "without --size"
            )
        log.info(
            "data.source=records:%s: %d images in %d shards, %d of them for %s; %d "
            "classes",
            root,
            len(names),
            len(paths),
            len(self),
            split,
            len(self.class_names),
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example; see `protocols.Source`."""
        if self._stored_size is not None and resolution > self._stored_size:
            self._warn_enlarging(self._stored_size, resolution)
        return examples.read(
            self.read_stored(index), resolution, self._crop_box, self.channels
        )

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns a part of an example; see `protocols.CropSource`."""
        return examples.read_crop(
            self.read_stored(index), choose, self._crop_box, self.channels
        )

    def select_fields(self, wanted: Set[str]) -> "RecordsSource":
        """Returns the same source without some fields; see `SelectiveSource`."""
        other = copy.copy(self)
        other._wanted = field_names.select_wanted(self._listed, wanted)
        return other

    def read_stored(self, index: int) -> examples.StoredExample:
        """Returns an example as it is stored, with the fields that are wanted."""
        file, name, label = self._read_record(index)
        if not self._manifest.fields:
            return examples.StoredExample(file, name, label)
        wanted = self._wanted - {text_features.FIELD}
        try:
            fields, encoded = record_fields.split(file.getvalue(), wanted)
        except Exception as error:  # bytes that others wrote
            raise BadImage(name, f"damaged fields ({error})") from error
        if text_features.FIELD in self._wanted:
            tokens = self._read_features(index, name)
            fields["vectors"] = {**fields["vectors"], text_features.VECTOR: tokens}
        return examples.StoredExample(io.BytesIO(encoded), name, label, **fields)

    def _read_features(self, index: int, name: str) -> np.ndarray:
        assert self._features is not None
        try:
            return self._features.read(*self._locate(index))
        except Exception as error:  # RuntimeError; others if the file is no shard
            raise BadImage(name, f"damaged text features ({error})") from error

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns the shard of a record, and its number in the shard."""
        number = self._numbers[index]
        k = int(np.searchsorted(self._ends, number, side="right"))
        return k, int(number - self._ends[k] + self._manifest.shards[k].count)

    def name(self, index: int) -> str:
        """Returns the folder, and the original name of the image."""
        try:
            return self._read_record(index)[1]
        except BadImage:
            return self._full_name(self._load_names()[self._numbers[index]])

    def fingerprint(self) -> str:
        """Returns a digest of the shards' checksums; see `protocols.StoredSource`."""
        text = f"{self._manifest.shards} {self._manifest.classes}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _read_record(self, index: int) -> tuple[io.BytesIO, str, int]:
        """Returns the bytes of fields and image, the name in messages, and class."""
        k, offset = self._locate(index)
        try:
            (record,) = self._open_shard(k).read([offset])
            label, name, encoded = shards.unpack(record)
        except Exception as error:  # RuntimeError; others if the shard is no shard
            name = self._full_name(self._load_names()[self._numbers[index]])
            shard = self._manifest.shards[k].file
            reason = f"damaged record, number {offset} of {shard} ({error})"
            raise BadImage(name, reason) from error
        return io.BytesIO(encoded), self._full_name(name), label

    def _full_name(self, name: str) -> str:
        return format_path(f"{self._root}: {name}")

    def _load_names(self) -> list[str]:
        return shards.load_names(self._root, self._manifest)

    def _warn_enlarging(self, stored: int, resolution: int) -> None:
        self._stored_size = None  # warn only once
        console.print_once(
            f"data.source=records:{self._root} was prepared with --size {stored}, but "
            f"images of {resolution} pixels are needed: most are enlarged. Prepare "
            f"them again, with --size {resolution} or native, or use "
            f"data.resolution={stored}"
        )


def _load_manifest(root: epath.Path) -> shards.Manifest:
    """Returns the manifest of a folder, after a check of all files against it."""
    key = f"data.source=records:{root}"
    manifest = shards.load(root)
    if manifest is None:
        problem = "is not finished" if root.is_dir() else "does not exist"
        raise DataError(
            f"{key}: {root} {problem}, there is no {shards.MANIFEST} in it. To prepare "
            "images, or to continue:\n"
            "  python -m simple_diffusion.modes.prepare "
            f"--input folder:PATH --output {root}"
        )
    files = (manifest.names, *manifest.shards)
    damaged = shards.find_damage(root, files)
    if damaged:
        problem = shards.describe_damage(root, manifest, damaged)
        raise DataError(f"data.source=records:{problem}")
    return manifest


def _load_all_names(root: epath.Path, manifest: shards.Manifest) -> list[str]:
    """Returns the names of all records."""
    names = shards.load_names(root, manifest)
    if len(names) != manifest.count:
        raise DataError(
            f"data.source=records:{root}: {len(names)} names for {manifest.count} "
            f"images. {shards.describe_repair(root, manifest)}"
        )
    return names


def _select_split(
    names: list[str], manifest: shards.Manifest, split: str, fraction: float
) -> Int64[np.ndarray, "n"]:
    """Returns the numbers of the records of one split, in order."""
    numbers = np.arange(len(names))
    if manifest.holdout_from is not None:
        start = manifest.holdout_from
        return numbers[start:] if split == "holdout" else numbers[:start]
    chosen = set(image_paths.select_split(names, split, fraction))
    return numbers[np.fromiter((name in chosen for name in names), bool, len(names))]
