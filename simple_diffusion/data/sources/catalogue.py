"""The table of data sources: `data.source` by name.

A new source is a file with a class that has the members of `protocols.Source`, and a
branch in `open_source`.
"""

from collections.abc import Set
from pathlib import Path

from etils import epath

from simple_diffusion.data import decode
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import records_source, shards
from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.sources import digits, folder, tar_source, tfds_source
from simple_diffusion.data.sources.protocols import Source, Split
from simple_diffusion.data.stored import shard_paths

_SPECS = "scenes, digits, folder:PATH, tar:PATH, records:PATH or tfds:NAME"
# There are always more scenes; but a pass over the held-out ones has to end.
_SCENE_COUNTS = {"train": 2**40, "holdout": 10_000}


# Where an example can have which field; named as in `protocols.check_fields`.
_FOLDER_MAPS = (
    "folder:PATH (columns NAME_file_name of metadata.jsonl or metadata.csv), tar:PATH "
    "(files KEY.NAME.png), tfds:NAME (data.tfds_fields), records:PATH of these"
)
SOURCES_WITH_FIELD = {
    "label": "scenes, digits, folder:PATH (subfolders, or a column label), tar:PATH "
    "(files KEY.cls), tfds:NAME, records:PATH of these",
    "caption": "scenes, folder:PATH (metadata.jsonl or metadata.csv, or a .txt beside "
    "each image), tar:PATH (files KEY.txt or KEY.json), tfds:NAME (data.tfds_fields), "
    "records:PATH of these",
    "objects": "scenes, folder:PATH (column objects of metadata.jsonl), tar:PATH "
    "(objects of KEY.json), tfds:NAME (data.tfds_fields), records:PATH of these",
    "maps": f"scenes, {_FOLDER_MAPS}",
    "map:semantic": f"scenes, {_FOLDER_MAPS}",
    "map:instance": f"scenes, {_FOLDER_MAPS}",
    "map:depth": f"scenes, {_FOLDER_MAPS}",
    "vectors": "records:PATH",
}


def describe_sources(field: str) -> str:
    """Returns which sources can have a field, and how; empty if none can.

    Args:
      field: "caption", "objects", "map:NAME", ...
    """
    if field in SOURCES_WITH_FIELD:
        return SOURCES_WITH_FIELD[field]
    kind = field.partition(":")[0]
    return {"map": _FOLDER_MAPS, "vector": SOURCES_WITH_FIELD["vectors"]}.get(kind, "")


def open_source(
    spec: str,
    data_dir: str | None = None,
    split: Split = "train",
    *,
    seed: int = 0,
    holdout_fraction: float = 0.05,
    crop_box: tuple[int, ...] | None = None,
    wanted: Set[str] | None = None,
) -> Source:
    """Returns the source that `data.source` names.

    Args:
      spec: "scenes", "digits", "folder:PATH", "tar:PATH", "records:PATH" or
        "tfds:NAME".
      data_dir: the folder of prepared TFDS datasets; None for the default of TFDS.
      split: the examples to train on, or the held-out ones.
      seed: of the series of scenes.
      holdout_fraction: share of a folder, or of its records, that is held out.
      crop_box: (y0, x0, y1, x1) in pixels: the part that is cut out of every stored
        image before anything else; None for all of it.
      wanted: the fields to read of stored examples: "caption", "objects", "map:NAME",
        "vector:NAME", ...; None for all. A field that nobody wants costs nothing, and
        no image is bad because of it.

    Raises:
      DataError: if the source is unknown, missing or empty, or the box is invalid.
    """
    box = decode.check_box(crop_box)
    kind, _, name = spec.partition(":")
    if box is not None and spec in ("scenes", "digits"):
        raise DataError(
            f"data.crop_box={box} is cut out of stored images, and data.source={spec} "
            "has none; use data.crop_box=None"
        )
    if spec == "scenes":
        return scenes.ScenesSource(seed, _SCENE_COUNTS[split], split)
    if spec == "digits":
        return digits.DigitsSource(split)
    if kind == "folder" and name:
        path = Path(name).expanduser()
        return folder.FolderSource(path, split, holdout_fraction, box, wanted)
    if kind == "tar" and name:
        return tar_source.TarSource(name, split, holdout_fraction, box, wanted)
    if kind == "records" and name:
        root = epath.Path(name).expanduser()
        return records_source.RecordsSource(root, split, holdout_fraction, box)
    if kind == "tfds" and name:
        return tfds_source.TfdsSource(name, data_dir, split, box)
    raise DataError(f"data.source={spec} must be {_SPECS}{_suggest(spec)}")


def _suggest(spec: str) -> str:
    """Returns how to write a path that was given without its kind."""
    path = Path(spec)
    if path.is_dir():
        kind = "folder"
        if (path / shards.MANIFEST).exists():
            kind = "records"
        elif any(path.glob(f"*{shard_paths.SUFFIX}")):
            kind = "tar"
        return f"; for this folder write {kind}:{spec}"
    if path.is_file() and path.suffix == shard_paths.SUFFIX:
        return f"; for this file write tar:{spec}"
    return ""
