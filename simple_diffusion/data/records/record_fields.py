"""The fields of a record besides image and class, as bytes in front of the image.

  4 bytes   length of what follows, without the image
  4 bytes   length of the head
  head      JSON: the caption, and name and length of each part
  parts     boxes, classes of objects and vectors in the .npy format; maps as files

Only records of datasets that have such fields begin like this (`Manifest.fields`).
"""

import io
import json
import struct
from collections.abc import Set
from typing import Any

import numpy as np

from simple_diffusion.data.stored import field_names
from simple_diffusion.data.stored.examples import Boxes, StoredExample

_LENGTH = struct.Struct("<I")
_BOX, _CATEGORY = "box", "category"


def join(example: StoredExample, encoded: bytes) -> bytes:
    """Returns the fields of an example, followed by its encoded image."""
    parts: dict[str, bytes] = {}
    if example.boxes is not None:
        assert not example.boxes.is_in_pixels
        box = np.asarray(example.boxes.box, np.float32).reshape(-1, 4)
        parts[_BOX] = _to_npy(box)
        parts[_CATEGORY] = _to_npy(np.asarray(example.boxes.category, np.int32))
    parts |= {f"{field_names.MAP}{k}": v for k, v in sorted(example.maps.items())}
    for name, values in sorted(example.vectors.items()):
        parts[f"{field_names.VECTOR}{name}"] = _to_npy(values)
    lengths = [[name, len(part)] for name, part in parts.items()]
    head = json.dumps({"caption": example.caption, "parts": lengths}).encode()
    block = b"".join([_LENGTH.pack(len(head)), head, *parts.values()])
    return _LENGTH.pack(len(block)) + block + encoded


def split(joined: bytes, wanted: Set[str]) -> tuple[dict[str, Any], bytes]:
    """Returns fields of `StoredExample`, those that are wanted, and the encoded image.

    Raises:
      ValueError, struct.error, KeyError: if the bytes were not written by `join`.
    """
    (length,) = _LENGTH.unpack_from(joined)
    (head_length,) = _LENGTH.unpack_from(joined, _LENGTH.size)
    start = 2 * _LENGTH.size
    head = json.loads(joined[start : start + head_length])
    position, parts = start + head_length, {}
    for name, size in head["parts"]:
        parts[name] = joined[position : position + size]
        position += size
    if position != _LENGTH.size + length:
        raise ValueError("its fields have another length")
    boxes = None
    if "objects" in wanted:
        box, category = (_from_npy(parts[name]) for name in (_BOX, _CATEGORY))
        boxes = Boxes(box, category, is_in_pixels=False)
    fields = {
        "caption": head["caption"] if "caption" in wanted else None,
        "boxes": boxes,
        "maps": {
            name: parts[f"{field_names.MAP}{name}"]
            for name in field_names.list_maps(wanted)
        },
        "vectors": {
            name: _from_npy(parts[f"{field_names.VECTOR}{name}"])
            for name in field_names.list_vectors(wanted)
        },
    }
    return fields, joined[position:]


def _to_npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _from_npy(encoded: bytes) -> np.ndarray:
    return np.load(io.BytesIO(encoded), allow_pickle=False)
