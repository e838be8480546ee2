"""The file metadata.jsonl or metadata.csv of a folder: captions, maps, boxes, classes.

The columns are those of "imagefolder" of Hugging Face Datasets:

  file_name          the image, relative to the folder
  text or caption    the caption
  NAME_file_name     a further image file, which becomes the map NAME
  objects            {"bbox": [[x, y, w, h], ...] in pixels, "categories": [...]}
  label              the class, as a text or as a number from 0

Other columns are ignored. In a .csv, `objects` is written as JSON.
"""

import csv
import dataclasses
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.stored.examples import MAX_CATEGORIES, Boxes

JSON_LINES, CSV = "metadata.jsonl", "metadata.csv"
_CAPTIONS = ("text", "caption")
_CATEGORIES = ("categories", "category")
_MAP_SUFFIX = "_file_name"


@dataclasses.dataclass(frozen=True)
class Row:
    """What a metadata file says about one image.

    place: file and line, for messages.
    caption: None if there is none.
    maps: files relative to the folder, by the name of the map.
    objects: as in the file.
    label: class, as a text.
    """

    place: str
    caption: str | None
    maps: Mapping[str, str]
    objects: Any
    label: str | None


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The content of a metadata file.

    file: its name.
    rows: by path of the image relative to the folder.
    duplicates: paths of further rows about the same image, which are ignored.
    fields: the fields that any row has, named as in field_names.py.
    class_names: of the labels, in order; empty if there are none.
    category_names: of the objects, in the order of their numbers.
    """

    file: str
    rows: dict[str, Row]
    duplicates: list[str]
    fields: frozenset[str]
    class_names: tuple[str, ...]
    category_names: tuple[str, ...]

    def boxes(self, row: Row) -> Boxes:
        """Returns the boxes of a row, not checked.

        Raises:
          ValueError: if they are missing or have another form.
        """
        return to_boxes(row.objects, self.category_names)


def load(root: Path, key: str) -> Metadata | None:
    """Returns the metadata of a folder, or None if it has no such file.

    Args:
      root: the folder.
      key: the config key or flag, with its value, that names the folder.

    Raises:
      DataError: if a line cannot be read, or there are two metadata files.
    """
    found = [name for name in (JSON_LINES, CSV) if (root / name).is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(f"{key}: holds {' and '.join(found)}; remove one of them")
    read = _read_json_lines if found[0] == JSON_LINES else _read_csv
    rows: dict[str, Row] = {}
    duplicates = []
    for line, columns in read(root / found[0], key):
        path, row = _parse_row(columns, f"{found[0]} line {line}", key)
        if path in rows:
            duplicates.append(path)
        else:
            rows[path] = row
    if not rows:
        raise DataError(f"{key}: {found[0]} has no rows")
    return Metadata(
        file=found[0],
        rows=rows,
        duplicates=duplicates,
        fields=_find_fields(rows.values()),
        class_names=name_classes(row.label for row in rows.values()),
        category_names=name_classes(
            category
            for row in rows.values()
            for category in list_categories(row.objects)
        ),
    )


def to_boxes(objects: Any, category_names: Sequence[str]) -> Boxes:
    """Returns boxes in pixels from the form of Hugging Face, not checked.

    Args:
      objects: {"bbox": [[x, y, w, h], ...], "categories": [...]}; a class is a number
        or one of the names.
      category_names: of the classes.

    Raises:
      ValueError: if it has another form.
    """
    if objects is None:
        raise ValueError("missing")
    if not isinstance(objects, dict) or not isinstance(objects.get("bbox"), list):
        raise ValueError('must be {"bbox": [[x, y, w, h], ...], "categories": [...]}')
    number_of = {name: k for k, name in enumerate(category_names)}
    try:
        box = [[y, x, y + h, x + w] for x, y, w, h in objects["bbox"]]
        category = [number_of[str(c)] for c in list_categories(objects)]
    except (TypeError, ValueError):
        raise ValueError("each box must be four numbers, [x, y, w, h]") from None
    except KeyError as error:
        raise ValueError(f"unknown class {error}") from None
    return Boxes(box, category, is_in_pixels=True)


def _read_json_lines(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Bytes that are no UTF-8 become half surrogate pairs: they spoil one caption, and
    # not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                columns = json.loads(text)
            except ValueError as error:
                raise DataError(f"{key}: {path.name} line {line}: {error}") from None
            if not isinstance(columns, dict):
                raise DataError(
                    f"{key}: {path.name} line {line}: must be an object such as "
                    '{"file_name": "1.jpg", "text": "..."}'
                )
            yield line, columns


def _read_csv(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for columns in reader:
                if None in columns or None in columns.values():
                    raise DataError(
                        f"{key}: {path.name} line {reader.line_num}: must have "
                        f"{len(reader.fieldnames or ())} columns, as the first line"
                    )
                columns = {k: v for k, v in columns.items() if v != ""}
                if "objects" in columns:
                    columns["objects"] = json.loads(columns["objects"])
                yield reader.line_num, columns
        except (csv.Error, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{key}: {path.name} line {reader.reader.line_num}: {error}"
            ) from None


def _parse_row(columns: dict[str, Any], place: str, key: str) -> tuple[str, Row]:
    """Returns the path of the image, and the row."""
    path = columns.get("file_name")
    if not isinstance(path, str) or not path:
        raise DataError(
            f"{key}: {place}: has no file_name, only {', '.join(columns) or 'nothing'}"
        )
    maps = {
        name.removesuffix(_MAP_SUFFIX): value
        for name, value in columns.items()
        if name.endswith(_MAP_SUFFIX) and value is not None
    }
    captions = [columns[k] for k in _CAPTIONS if columns.get(k) is not None]
    caption, label = next(iter(captions), None), columns.get("label")
    for name, value in {"text": caption, **maps}.items():
        if not isinstance(value, str | None):
            raise DataError(f"{key}: {place}: {name}={value!r} must be a text")
    if not isinstance(label, str | int | None):
        raise DataError(f"{key}: {place}: label={label!r} must be a text or a number")
    row = Row(
        place=place,
        caption=caption,
        maps=maps,
        objects=columns.get("objects"),
        label=None if label is None else str(label),
    )
    return posixpath.normpath(path), row


def _find_fields(rows: Iterable[Row]) -> frozenset[str]:
    found = {"image"}
    for row in rows:
        found.update(f"map:{name}" for name in row.maps)
        if row.caption is not None:
            found.add("caption")
        if row.objects is not None:
            found.add("objects")
        if row.label is not None:
            found.add("label")
    return frozenset(found)


def list_categories(objects: Any) -> list[Any]:
    """Returns the classes of the objects of a row; none if they have another form."""
    if isinstance(objects, dict):
        for name in _CATEGORIES:
            if isinstance(objects.get(name), list):
                return objects[name]
    return []


def name_classes(values: Iterable[Any]) -> tuple[str, ...]:
    """Returns the name of each class: of numbers, all from 0 to the largest one."""
    found = {str(v) for v in values if isinstance(v, str | int)}
    try:
        numbers = {int(v) for v in found}
    except ValueError:
        return tuple(sorted(found))
    largest = max((n for n in numbers if n < MAX_CATEGORIES), default=-1)
    return tuple(str(k) for k in range(largest + 1))
