"""Reads the constants of a frozen TensorFlow graph (.pb) without TensorFlow.

Such a file is a GraphDef in the wire format of protocol buffers: fields one after the
other, each a tag (number of the field, kind of its value) and a value. In a frozen
graph every variable is a node "Const", so only these are read. Field numbers are those
of TensorFlow's graph.proto, node_def.proto, attr_value.proto, tensor.proto and
tensor_shape.proto.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_NODE = 1  # of a graph
_NAME, _OP, _ATTRIBUTE = 1, 2, 5  # of a node
_KEY, _VALUE = 1, 2  # of an attribute
_TENSOR = 8  # of its value
_DTYPE, _SHAPE, _CONTENT = 1, 2, 4  # of a tensor
_DIM = 2  # of a shape
_SIZE = 1  # of a dimension

# DataType: (dtype, field, encoding). A tensor without content has its values one by one
# in this field, with this encoding.
_TYPES = {
    1: ("float32", 5, "<f4"),
    2: ("float64", 6, "<f8"),
    3: ("int32", 7, "varint"),
    4: ("uint8", 7, "varint"),
    5: ("int16", 7, "varint"),
    6: ("int8", 7, "varint"),
    9: ("int64", 10, "varint"),
    10: ("bool", 11, "varint"),
    14: ("bfloat16", 13, "bits"),
    19: ("float16", 13, "bits"),
}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of values


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the numeric constants of a graph by the names of their nodes.

    Args:
      path: a local GraphDef file. String constants are skipped.

    Raises:
      ValueError: for a file of another format, a damaged one, or one without constants.
      OSError: if the file cannot be read.
    """
    data = memoryview(Path(path).expanduser().read_bytes())
    try:
        nodes = [_node(value) for number, value in _fields(data) if number == _NODE]
    # Errors of damaged messages: numbers instead of bytes, missing fields.
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{path} is not a frozen graph of TensorFlow, or is damaged: {error!r}"
        ) from error
    constants = dict(node for node in nodes if node)
    if not constants:
        raise ValueError(f"{path} holds no constants: it is not a frozen graph")
    return constants


def _node(data: memoryview) -> tuple[str, np.ndarray] | None:
    """Returns name and value, None for a node that is no numeric constant."""
    name, constant, tensor = "", False, None
    for number, value in _fields(data):
        if number == _NAME:
            name = bytes(value).decode()
        elif number == _OP:
            constant = value == b"Const"
        elif number == _ATTRIBUTE:
            attribute = dict(_fields(value))
            if attribute[_KEY] == b"value":
                tensor = dict(_fields(attribute[_VALUE]))[_TENSOR]
    if not constant:
        return None
    if tensor is None:
        raise ValueError(f"the constant {name} has no value")
    array = _array(tensor)
    return None if array is None else (name, array)


def _array(data: memoryview) -> np.ndarray | None:
    """Returns the value of a tensor, None for strings."""
    fields = [*_fields(data)]
    single = dict(fields)
    if single.get(_DTYPE) not in _TYPES:
        return None
    name, field, code = _TYPES[single[_DTYPE]]
    dtype = jnp.dtype(name)
    dims = _fields(single.get(_SHAPE, b""))
    shape = [dict(_fields(dim)).get(_SIZE, 0) for number, dim in dims if number == _DIM]
    if _CONTENT in single:
        return np.frombuffer(single[_CONTENT], dtype).reshape(shape)
    values = [
        v for number, part in fields if number == field for v in _list(part, code)
    ]
    array = np.zeros(math.prod(shape), np.uint16 if code == "bits" else dtype)
    if values:
        array[: len(values)] = values
        array[len(values) :] = values[-1]  # the last value is repeated
    return array.view(dtype).reshape(shape)


def _list(part: Any, code: str) -> list[Any]:
    """Returns the values of a repeated field: one number, or packed bytes."""
    if isinstance(part, int):
        return [_signed(part)]
    if code not in ("varint", "bits"):
        return np.frombuffer(part, code).tolist()
    values, at = [], 0
    while at < len(part):
        value, at = _varint(part, at)
        values.append(_signed(value))
    return values


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yields number and value, an int or bytes, of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a value of kind {kind}")
        if size > len(data) - at:
            raise ValueError(f"it ends within a field of {size} bytes")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Returns a base-128 varint, lowest bits first, and the position after it."""
    value = 0
    for k in range(10):
        byte = data[at + k]
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return value, at + k + 1
    raise ValueError("a varint without an end")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
