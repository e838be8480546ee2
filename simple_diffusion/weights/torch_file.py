"""Reads files of PyTorch's `torch.save` without PyTorch, as NumPy arrays.

Such a file holds a pickle and the bytes of the storages. In the pickle each tensor is a
call of `torch._utils` with a storage, an offset, sizes and strides. Two formats exist
and are both read: a zip archive (since PyTorch 1.6), and a stream of pickles followed
by the bytes, which many published weights still have.

A pickle can call any function. Here it can call only those listed below; any other is
an error that names it.
"""

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
_PROTOCOL = 1001  # the second

_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    # For newer dtypes: the tensors carry their own dtype.
    "torch.storage.UntypedStorage": "uint8",
}
_NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
_DTYPES = {
    **_STORAGES,
    **{f"torch.{name}": name for name in _NEW_DTYPES},
}

# (key, number of bytes) -> the bytes of a storage.
_Find = Callable[[str, int], memoryview]


class TorchFileError(ValueError):
    """A file is not of torch.save, is damaged, or holds other objects than arrays."""


class _Storage(NamedTuple):
    dtype: np.dtype
    data: memoryview


class _Parameter:
    """A parameter as PyTorch 0.1 wrote it: an empty object, then its state."""

    data: Any = None

    def __setstate__(self, state: tuple) -> None:
        self.data, *_ = state


def read(path: str | Path) -> Any:
    """Returns the saved object: dicts, lists, plain values, and arrays for tensors.

    Arrays are read-only views: tensors that shared memory still do, and strides are
    those of the tensors. bfloat16 and float8 are JAX's dtypes. Devices and
    requires_grad are dropped.

    Args:
      path: a local file.

    Raises:
      TorchFileError: for a file of another format, a damaged one, or one that holds
        objects other than tensors, containers and plain values, naming the first.
      OSError: if the file cannot be opened.
    """
    with Path(path).expanduser().open("rb") as file:
        try:
            is_zip = file.peek(len(_ZIP)).startswith(_ZIP)
            return _to_plain(_read_zip(file) if is_zip else _read_stream(file))
        except TorchFileError as error:
            raise TorchFileError(f"{path} {error}") from None
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can fail in any way
            raise TorchFileError(f"{path} is damaged: {error!r}") from error


def _read_zip(file: io.BufferedReader) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise TorchFileError("is a zip archive, but not one of torch.save")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_byte_order(archive.read(f"{root}byteorder") == b"little")
        storages = {}

        def find(key: str, _: int) -> memoryview:
            if key not in storages:
                storages[key] = memoryview(archive.read(f"{root}data/{key}"))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), find).load()


def _read_stream(file: io.BufferedReader) -> Any:
    storages = {}
    length = os.fstat(file.fileno()).st_size

    def find(key: str, size: int) -> memoryview:
        if size > length:
            raise ValueError(f"storage {key} is larger than the file")
        if key not in storages:
            storages[key] = memoryview(bytearray(size))  # filled below
        return storages[key]

    def load() -> Any:
        return _Unpickler(file, find).load()

    try:
        is_torch = load() == _MAGIC
    except Exception:
        is_torch = False
    if not is_torch:
        raise TorchFileError("is not a file of torch.save")
    if load() != _PROTOCOL:
        raise TorchFileError("is of an unknown version of torch.save")
    _check_byte_order(load()["little_endian"])
    tree = load()
    keys = load()
    if storages.keys() - set(keys):
        raise EOFError(f"storages {storages.keys() - set(keys)} are missing")
    for key in keys:
        # The number of elements, known from the pickle already, precedes the bytes.
        if len(file.read(8)) < 8 or file.readinto(storages[key]) != len(storages[key]):
            raise EOFError(f"storage {key} ends early")
    return tree


def _check_byte_order(little: bool) -> None:
    if not little:
        raise TorchFileError("was saved on a big-endian machine, which is not read")


class _Unpickler(pickle.Unpickler):
    """Allows tensors and their storages by name, and nothing else.

    It uses bound methods, because a pickle could change the defaults of a function.
    """

    def __init__(self, file: io.BufferedIOBase, find: _Find):
        super().__init__(file, encoding="utf-8")
        self._find = find
        self._allowed = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_dtype,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.nn.parameter.Parameter": _Parameter,
            **_DTYPES,
        }

    def find_class(self, module: str, name: str) -> Any:
        where = f"{module}.{name}"
        if where not in self._allowed:
            raise TorchFileError(
                f"holds {where}; only tensors, containers and plain values are read"
            )
        return self._allowed[where]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, count, *view = pid
        if kind != "storage":
            raise ValueError(f"{kind!r} is no storage")
        dtype = _dtype(name)
        data = self._find(key, count * dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(data)} bytes, not {count} {name}")
        if view and view[0] is not None:  # a part of a storage, before PyTorch 0.4
            _, start, count = view[0]
            data = data[start * dtype.itemsize :][: count * dtype.itemsize]
        return _Storage(dtype, data)

    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        needs_gradient: bool = False,
        hooks: Any = None,
        flags: Any = None,
    ) -> np.ndarray:
        if flags:  # the values would have to be negated or conjugated
            raise TorchFileError(f"holds a lazy tensor ({flags}), which is not read")
        dtype, data = storage
        strides = tuple(s * dtype.itemsize for s in stride)
        # NumPy raises if this reaches beyond the storage.
        array = np.ndarray(size, dtype, data, offset * dtype.itemsize, strides)
        array.flags.writeable = False
        return array

    def _tensor_of_dtype(self, storage: _Storage, *layout: Any) -> np.ndarray:
        dtype = _dtype(
            layout[5]
        )  # follows `hooks`, the last argument of the older function
        return self._tensor(storage._replace(dtype=dtype), *layout[:5], *layout[6:])

    def _parameter(self, tensor: np.ndarray, *_: Any) -> np.ndarray:
        return tensor


def _dtype(name: str) -> np.dtype:
    if name not in _DTYPES.values():
        raise ValueError(f"{name!r} is no dtype of tensors")
    return jnp.dtype(name)


def _to_plain(tree: Any) -> Any:
    """Returns the tree with plain dicts, and arrays instead of old parameters."""
    if isinstance(tree, _Parameter):
        return tree.data
    if isinstance(tree, dict):
        return {key: _to_plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(_to_plain, tree))
    return tree
