"""Files as torch.save writes them, put together by hand: PyTorch is not there.

A pickle is a program for a small stack machine. Each function here returns a piece of
one that leaves one value on the stack.
"""

import pickle
import zipfile

import numpy as np

STORAGES = {
    "float32": "torch.FloatStorage",
    "float64": "torch.DoubleStorage",
    "float16": "torch.HalfStorage",
    "bfloat16": "torch.BFloat16Storage",
    "uint8": "torch.ByteStorage",
    "int8": "torch.CharStorage",
    "int16": "torch.ShortStorage",
    "int32": "torch.IntStorage",
    "int64": "torch.LongStorage",
    "bool": "torch.BoolStorage",
}
TENSOR = "torch._utils._rebuild_tensor_v2"


def push(value):
    """A plain value: its own pickle without the header and the full stop."""
    return pickle.dumps(value, 2)[2:-1]


def name(dotted):
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(function, *pieces):
    return name(function) + b"(" + b"".join(pieces) + b"tR"


def storage(kind, key, count):
    words = push("storage"), name(kind), push(key), push("cpu"), push(count)
    return b"(" + b"".join(words) + b"tQ"


def tensor(where, offset, size, stride):
    layout = push(offset) + push(size) + push(stride)
    return call(TENSOR, where, layout, push(False), call("collections.OrderedDict"))


def mapping(pieces):
    items = b"".join(push(key) + piece for key, piece in pieces.items())
    return call("collections.OrderedDict") + b"(" + items + b"u"


def program(piece):
    return b"\x80\x02" + piece + b"."


def write_zip(path, piece, storages=(), order=b"little"):
    """storages: bytes by key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", program(piece))
        archive.writestr("any/version", "3\n")
        archive.writestr("any/byteorder", order)
        for key, data in dict(storages).items():
            archive.writestr(f"any/data/{key}", data)
    return path


def write_stream(path, piece, storages=(), little=True):
    """storages: (number of elements, bytes) by key, in the older layout."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little}]
    with path.open("wb") as file:
        for value in head:
            pickle.dump(value, file, 2)
        file.write(program(piece))
        pickle.dump([*dict(storages)], file, 2)
        for count, data in dict(storages).values():
            file.write(count.to_bytes(8, "little") + data)
    return path


def save(path, arrays):
    """Writes a zip file with a storage for each array, in the order of C."""
    pieces, storages = {}, {}
    for key, array in arrays.items():
        strides = tuple(
            s // array.itemsize for s in np.ascontiguousarray(array).strides
        )
        where = storage(STORAGES[array.dtype.name], key, array.size)
        pieces[key] = tensor(where, 0, array.shape, strides)
        storages[key] = array.tobytes()
    return write_zip(path, mapping(pieces), storages)
