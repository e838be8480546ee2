"""The table of data sources: `data.source` by name.

A new source is a file with a class that has the members of `protocols.Source`, and a
branch in `open_source`.
"""

from collections.abc import Iterable, Set
from pathlib import Path

from etils import epath

from simple_diffusion.data import decode
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import records_source, shards
from simple_diffusion.data.scenes import scenes_source
from simple_diffusion.data.sources import (
    digits,
    folder,
    protocols,
    tar_source,
    tfds_source,
)
from simple_diffusion.data.sources.protocols import Source, Split
from simple_diffusion.data.stored import field_names, shard_paths

# Scenes whose training split lacks some combinations of class, colour, count and place.
SCENES_HELD_OUT = "scenes:held_out_combinations"
_SPECS = (
    "scenes, digits, folder:PATH, tar:PATH, records:PATH, tfds:NAME or "
    f"{SCENES_HELD_OUT}"
)
# There are always more scenes; but a pass over the held-out ones has to end.
_SCENE_COUNTS = {"train": 2**40, "holdout": 10_000}

# Field -> the sources that can have it, and where, for messages.
_STORED_MAPS = (
    "folder:PATH (columns NAME_file_name of metadata.jsonl or metadata.csv), tar:PATH "
    "(files KEY.NAME.png), tfds:NAME (data.tfds_fields); records: of these"
)
SOURCES_WITH = {
    "label": "scenes, digits, folder:PATH (subfolders, or the column label of its "
    "metadata), tar:PATH (files KEY.cls), tfds:NAME; records: of these",
    "caption": "scenes, folder:PATH (the column text of metadata.jsonl or "
    "metadata.csv, or a .txt beside each image), tar:PATH (files KEY.txt or KEY.json), "
    "tfds:NAME (data.tfds_fields); records: of these",
    "objects": "scenes, folder:PATH (the column objects of metadata.jsonl), tar:PATH "
    "(objects in KEY.json), tfds:NAME (data.tfds_fields); records: of these",
    "maps": f"scenes (map:semantic, map:instance and map:depth), {_STORED_MAPS}",
    "vectors": "records:PATH (vector:text_features: by --text_encoder)",
}


def describe_sources(field: str) -> str:
    """Returns which sources can have a field, and how; empty if none can.

    Args:
      field: "caption", "objects", "map:NAME", ...
    """
    return SOURCES_WITH.get(field_names.to_source_field(field), "")


def open_source(
    spec: str,
    data_dir: str | None = None,
    split: Split = "train",
    *,
    seed: int = 0,
    holdout_fraction: float = 0.05,
    crop_box: tuple[int, ...] | None = None,
    wanted: Set[str] | None = None,
    tfds_fields: str | None = None,
    channels: int = 3,
) -> Source:
    """Returns the source that `data.source` names.

    Args:
      spec: "scenes", "digits", "folder:PATH", "tar:PATH", "records:PATH",
        "tfds:NAME" or "scenes:held_out_combinations".
      data_dir: the folder of prepared TFDS datasets; None for the default of TFDS.
      split: the examples to train on, or the held-out ones.
      seed: of the series of scenes.
      holdout_fraction: share of a folder, or of its records, that is held out.
      crop_box: (y0, x0, y1, x1) in pixels: the part that is cut out of every stored
        image before anything else; None for all of it.
      wanted: the fields to read of stored examples: "caption", "objects", "map:NAME",
        "vector:NAME", ...; None for all. See `protocols.select_fields`.
      tfds_fields: which features of a TFDS dataset are which fields, see
        tfds_fields.py; None for none.
      channels: of the images: 1 is grey, 3 RGB, 4 RGB with transparency.

    Raises:
      DataError: if the source is unknown, missing or empty, or the box is invalid.
    """
    box = decode.check_box(crop_box)
    if tfds_fields and not spec.startswith("tfds:"):
        raise DataError(
            f"data.tfds_fields={tfds_fields!r} names features of TFDS, and "
            f"data.source={spec} is no tfds:NAME; use data.tfds_fields=None"
        )
    if spec.startswith("tfds:") and (name := spec.removeprefix("tfds:")):
        source = tfds_source.TfdsSource(
            name, data_dir, split, box, channels, tfds_fields
        )
    else:
        source = _open_source(spec, split, seed, holdout_fraction, box, channels)
    return protocols.select_fields(source, wanted)


def _open_source(
    spec: str,
    split: Split,
    seed: int,
    holdout_fraction: float,
    box: decode.Box | None,
    channels: int,
) -> Source:
    kind, _, name = spec.partition(":")
    if box is not None and spec in ("scenes", SCENES_HELD_OUT, "digits"):
        raise DataError(
            f"data.crop_box={box} is cut out of stored images, and data.source={spec} "
            "has none; use data.crop_box=None"
        )
    if spec in ("scenes", SCENES_HELD_OUT):
        return scenes_source.ScenesSource(
            seed,
            _SCENE_COUNTS[split],
            split,
            channels,
            holds_out_combinations=spec == SCENES_HELD_OUT,
        )
    if spec == "digits":
        return digits.DigitsSource(split, channels)
    if kind == "folder" and name:
        path = Path(name).expanduser()
        return folder.FolderSource(path, split, holdout_fraction, box, channels)
    if kind == "tar" and name:
        return tar_source.TarSource(name, split, holdout_fraction, box, channels)
    if kind == "records" and name:
        root = epath.Path(name).expanduser()
        return records_source.RecordsSource(
            root, split, holdout_fraction, box, channels
        )
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


def check_fields(source: Source, spec: str, fields: Iterable[str], user: str) -> None:
    """Checks that a source has the fields that a config needs.

    Args:
      source: what `open_source` returned for `spec`.
      spec: `data.source`.
      fields: as `protocols.check_fields`.
      user: the config key, with its value, that needs them.

    Raises:
      DataError: if the source lacks one; the message names the field, the source, and
        the sources that have it.
    """
    fields = frozenset(fields)
    elsewhere = {field: describe_sources(field) for field in fields}
    protocols.check_fields(source, fields, user, spec, elsewhere)
