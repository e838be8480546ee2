"""Fields of examples from features of TFDS, by a mapping such as

  caption=captions.text, semantic=segmentation_mask, objects=objects

A feature inside another one follows a dot. A caption may be one of several: the first,
or another one by its index, as captions.text[2]. A name that is neither `caption` nor
`objects` is that of a map. The feature of objects is a sequence of boxes and classes.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.stored import examples, field_names

KEY = "data.tfds_fields"
_ENTRY = re.compile(r"([\w-]+)\s*=\s*([\w./-]+?)(?:\[(\d+)\])?")


class Feature(NamedTuple):
    """Where a field is in the records.

    names: of the stored features: of text or image, or of boxes and their classes.
    index: which one of several texts.
    """

    names: tuple[str, ...]
    index: int = 0


class FieldMap(NamedTuple):
    """The fields of a dataset, named as in `field_names`, and the objects' classes."""

    features: dict[str, Feature]
    category_names: tuple[str, ...]


def parse(tfds: Any, mapping: str | None, features: Any, name: str) -> FieldMap:
    """Returns where the fields of a mapping are.

    Args:
      tfds: the module tensorflow_datasets.
      mapping: as above; None or empty for no fields.
      features: of the dataset.
      name: of the dataset, for messages.

    Raises:
      DataError: if the mapping has another form, or a feature does not exist or is of
        another kind.
    """
    found: dict[str, Feature] = {}
    category_names: tuple[str, ...] = ()
    key = f"{KEY}={mapping!r}"
    entries = [entry.strip() for entry in (mapping or "").split(",")]
    for entry in filter(None, entries):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise DataError(
                f"{key}: {entry!r} must be NAME=FEATURE, such as caption=captions.text"
            )
        field, path, index = match[1], match[2].replace("/", "."), int(match[3] or 0)
        feature = _find(tfds, features, path)
        if feature is None:
            raise DataError(
                f"{key}: tfds:{name} has no feature {path}; it has "
                f"{', '.join(sorted(_list(tfds, features)))}"
            )
        stored = path.replace(".", "/")
        if field == "objects":
            parts = _find_objects(tfds, feature)
            if parts is None:
                raise DataError(f"{key}: {path} is no sequence of boxes with classes")
            box, label, category_names = parts
            found[field] = Feature((f"{stored}/{box}", f"{stored}/{label}"))
            continue
        kind = tfds.features.Text if field == "caption" else tfds.features.Image
        if not isinstance(feature, kind):
            wanted = "a text" if field == "caption" else "an image"
            raise DataError(
                f"{key}: {path} is {type(feature).__name__}, and must be {wanted}"
            )
        full = field if field == "caption" else f"{field_names.MAP}{field}"
        found[full] = Feature((stored,), index)
    return FieldMap(found, category_names)


def read(
    features: Mapping[str, Feature], record: Any, name: str | Path
) -> dict[str, Any]:
    """Returns fields of `StoredExample`.

    Args:
      features: the fields to read.
      record: the features of a tf.train.Example, by name.
      name: of the image, in messages.

    Raises:
      BadImage: if a field is missing or bad.
    """
    found: dict[str, Any] = {"maps": {}}
    for field, (names, index) in features.items():
        values = [record[v] for v in names]
        if field == "objects":
            box, category = values[0].float_list.value, values[1].int64_list.value
            if len(box) != 4 * len(category):
                reason = f"objects: {len(box)} corners for {len(category)} classes"
                raise BadImage(name, reason)
            corners = [list(box[k : k + 4]) for k in range(0, len(box), 4)]
            found["boxes"] = examples.Boxes(corners, list(category), False)
            continue
        choices = values[0].bytes_list.value
        if len(choices) <= index:
            problem = f"has only {len(choices)}" if choices else "missing"
            raise BadImage(name, f"{field.replace(':', ' ')}: {problem}")
        if field == "caption":
            found["caption"] = examples.check_caption(choices[index], name)
        else:
            found["maps"][field.removeprefix(field_names.MAP)] = choices[index]
    return found


def _find(tfds: Any, features: Any, path: str) -> Any:
    """Returns a feature by its path; None if there is none."""
    for part in path.split("."):
        features = _open_sequence(tfds, features)
        if not isinstance(features, tfds.features.FeaturesDict) or part not in features:
            return None
        features = features[part]
    inner = _open_sequence(tfds, features)
    # A sequence of texts counts as a text; a sequence of boxes stays what it is.
    return features if isinstance(inner, tfds.features.FeaturesDict) else inner


def _open_sequence(tfds: Any, feature: Any) -> Any:
    return feature.feature if isinstance(feature, tfds.features.Sequence) else feature


def _find_objects(tfds: Any, feature: Any) -> tuple[str, str, tuple[str, ...]] | None:
    """Returns the names of boxes and classes in a sequence, and the classes."""
    inner = _open_sequence(tfds, feature)
    if inner is feature or not isinstance(inner, tfds.features.FeaturesDict):
        return None
    boxes = [k for k, v in inner.items() if isinstance(v, tfds.features.BBoxFeature)]
    labels = [k for k, v in inner.items() if isinstance(v, tfds.features.ClassLabel)]
    if not boxes or not labels:
        return None
    label = "label" if "label" in labels else labels[0]
    return boxes[0], label, tuple(inner[label].names)


def _list(tfds: Any, features: Any, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all features."""
    inner = _open_sequence(tfds, features)
    if not isinstance(inner, tfds.features.FeaturesDict):
        yield prefix.removesuffix(".")
        return
    for name, feature in inner.items():
        yield from _list(tfds, feature, f"{prefix}{name}.")
