"""Images that `simple_diffusion.modes.prepare` has packed into a few large files.

Reading one takes one access to one file, wherever it stands. Opening the set looks at
the size of every shard and reads the list of names, whatever the size of the images.
"""

import functools
import hashlib
import io
import logging

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from simple_diffusion.data import decode
from simple_diffusion.data.errors import BadImage, DataError, printable
from simple_diffusion.data.records import shards
from simple_diffusion.data.sources import folder
from simple_diffusion.data.transforms import Crop

log = logging.getLogger(__name__)

# Shards that are open at a time. A system allows 1024 files as a rule, and two sources
# may be open; opening a shard costs ten times what reading a record does.
_OPEN = 256


class RecordsSource:
    """The images of a prepared data set, or the part of them that is held out.

    Args:
      root: the folder, which may be in a bucket (gs://).
      split: "train" or "holdout".
      holdout_fraction: share held out, in [0, 1), chosen by the names of the images as
        `folder.FolderSource` does, so that both hold out the same. What was prepared
        from a TFDS data set has the splits of that set.
      crop_box: the part of every image that counts, see `decode.decode`.

    Raises:
      DataError: if nothing was prepared there, or it is not finished, or a file is
        missing or not as it was; the message says what to do.
    """

    def __init__(
        self,
        root: epath.PathLike,
        split: str,
        holdout_fraction: float = 0.05,
        crop_box: decode.Box | None = None,
    ):
        self._root = epath.Path(root)
        self._crop_box = crop_box
        self._manifest = manifest = _manifest(self._root)
        names = _names(self._root, manifest)
        self.class_names = tuple(manifest.classes)
        self._numbers = _split(names, manifest, split, holdout_fraction)
        self._ends = np.cumsum([shard.count for shard in manifest.shards])
        paths = [self._root / shard.file for shard in manifest.shards]
        # Whoever still reads from a shard that is put away keeps it open.
        self._opened = functools.lru_cache(_OPEN)(lambda k: shards.open_shard(paths[k]))
        size = manifest.settings.get("size")
        self._stored_size = size if isinstance(size, int) else None
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

    def read(
        self, index: int, resolution: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """Returns image and class; see `sources.Source`."""
        if self._stored_size is not None and resolution > self._stored_size:
            self._note_enlarging(self._stored_size, resolution)
        file, name, label = self._record(index)
        return decode.decode(file, name, resolution, self._crop_box), label

    def read_crop(
        self, index: int, choose: decode.Choose
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Crop, int]:
        """Returns a part, which it is, and class; see `sources.CropSource`."""
        file, name, label = self._record(index)
        image, crop = decode.decode_crop(file, name, choose, self._crop_box)
        return image, crop, label

    def name(self, index: int) -> str:
        """Returns the folder and the name that the image had before."""
        try:
            _, name, _ = self._record(index)
            return name
        except BadImage:
            return self._title(self._names_of_all()[self._numbers[index]])

    def fingerprint(self) -> str:
        """Returns a digest of all shards; see `sources.StoredSource`.

        Of their checksums, which the manifest has.
        """
        text = f"{self._manifest.shards} {self._manifest.classes}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _record(self, index: int) -> tuple[io.BytesIO, str, int]:
        """Returns the encoded image, what a complaint calls it, and the class."""
        number = self._numbers[index]
        k = int(np.searchsorted(self._ends, number, side="right"))
        shard = self._manifest.shards[k]
        place = int(number - self._ends[k] + shard.count)
        try:
            (record,) = self._opened(k).read([place])
            label, name, encoded = shards.unpack(record)
        except Exception as error:  # RuntimeError, and of a shard that is none: others
            name = self._title(self._names_of_all()[number])
            why = f"damaged record, number {place} of {shard.file} ({error})"
            raise BadImage(name, why) from error
        return io.BytesIO(encoded), self._title(name), label

    def _title(self, name: str) -> str:
        return printable(f"{self._root}: {name}")

    def _names_of_all(self) -> list[str]:
        return shards.load_names(self._root, self._manifest)

    def _note_enlarging(self, stored: int, resolution: int) -> None:
        self._stored_size = None  # once is enough
        log.warning(
            "data.source=records:%s was prepared with --size %d, and images of %d "
            "pixels are asked for: most are enlarged. Prepare them again, with --size "
            "%d or native, or use data.resolution=%d",
            self._root,
            stored,
            resolution,
            resolution,
            stored,
        )


def _manifest(root: epath.Path) -> shards.Manifest:
    """Returns the manifest of a folder, all files of which are as it says."""
    place = f"data.source=records:{root}"
    manifest = shards.load(root)
    if manifest is None:
        what = "is not finished" if root.is_dir() else "does not exist"
        raise DataError(
            f"{place}: {root} {what}, there is no {shards.MANIFEST} in it. To prepare "
            "images, or to go on with that:\n"
            "  python -m simple_diffusion.modes.prepare "
            f"--input folder:PATH --output {root}"
        )
    files = (manifest.names, *manifest.shards)
    damaged = shards.damage(root, files)
    if damaged:
        complaint = shards.complaint(root, manifest, damaged)
        raise DataError(f"data.source=records:{complaint}")
    return manifest


def _names(root: epath.Path, manifest: shards.Manifest) -> list[str]:
    """Returns the names of all records."""
    names = shards.load_names(root, manifest)
    if len(names) != manifest.count:
        raise DataError(
            f"data.source=records:{root}: {len(names)} names for {manifest.count} "
            f"images. {shards.how_to_mend(root, manifest)}"
        )
    return names


def _split(
    names: list[str], manifest: shards.Manifest, split: str, fraction: float
) -> Int64[np.ndarray, "n"]:
    """Returns the numbers of the records of one split, in order."""
    numbers = np.arange(len(names))
    if manifest.holdout_from is not None:
        cut = manifest.holdout_from
        return numbers[cut:] if split == "holdout" else numbers[:cut]
    chosen = set(folder.paths_of(names, split, fraction))
    return numbers[np.fromiter((name in chosen for name in names), bool, len(names))]
