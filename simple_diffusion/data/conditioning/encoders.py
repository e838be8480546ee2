"""Host encoders: what the fields of an example become in a batch.

A batch holds arrays of fixed shapes, so lists are padded to a maximum. Captions are
encoded by tokenizers (data/text/).
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from simple_diffusion.core.examples import Example
from simple_diffusion.data import fields, order
from simple_diffusion.data.errors import UnsuitableImage


class Spec(NamedTuple):
    """One array of `Batch.fields`, without the axis of the batch.

    shape, dtype: of the array; no side may be 0.
    blank: the value that fills it in examples that only pad the batch.
    """

    shape: tuple[int, ...]
    dtype: str
    blank: float = 0


@runtime_checkable
class Encoder(Protocol):
    """Makes arrays of fixed shapes of an example.

    Its properties may be plain attributes.
    """

    @property
    def name(self) -> str:
        """What is encoded; encoders of one batch have different names."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """The fields of the example that it reads, as in `fields.select`."""
        ...

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the arrays, by their names in `Batch.fields`.

        Args:
          size: height and width of the image.
        """
        ...

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the arrays of one example; may be called from several threads.

        Args:
          example: as the view made it, with the fields that are needed.
          rng: its random numbers depend on the seed, the position of the example in the
            stream and the name of the encoder.

        Raises:
          UnsuitableImage: the example cannot be used; it is skipped.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ObjectsEncoder:
    """Boxes and classes of up to `maximum` objects; the largest ones if there are more.

    The arrays are "objects.box" [k, 4], "objects.category" [k] and "objects.present"
    [k], which is False for padding.

    classes: number of classes; None: any.
    """

    maximum: int
    classes: int | None = None
    name: str = "objects"
    needs: frozenset[str] = frozenset({"objects"})

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the arrays; see `Encoder`."""
        k = self.maximum
        return {
            f"{self.name}.box": Spec((k, 4), "float32"),
            f"{self.name}.category": Spec((k,), "int32"),
            f"{self.name}.present": Spec((k,), "bool"),
        }

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the arrays; see `Encoder`."""
        assert example.objects is not None
        box, category = example.objects
        _check_classes("objects", category, self.classes, low=0)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        kept = np.sort(np.argsort(-area, kind="stable")[: self.maximum])
        count = len(kept)
        boxes = np.zeros((self.maximum, 4), np.float32)
        categories = np.zeros(self.maximum, np.int32)
        boxes[:count], categories[:count] = box[kept], category[kept]
        return {
            f"{self.name}.box": boxes,
            f"{self.name}.category": categories,
            f"{self.name}.present": np.arange(self.maximum) < count,
        }


@dataclasses.dataclass(frozen=True)
class MapEncoder:
    """One map, as it is.

    map: its name.
    channels: its last axis.
    dtype: int32 for class ids, uint8 or float32.
    classes: number of classes; None: any. -1 is a pixel without one.
    """

    map: str
    channels: int = 1
    dtype: str = "int32"
    classes: int | None = None

    @property
    def name(self) -> str:
        """The name of the field, and of its array."""
        return f"map:{self.map}"

    @property
    def needs(self) -> frozenset[str]:
        """The field itself."""
        return frozenset({self.name})

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the array; see `Encoder`."""
        blank = -1 if self.dtype == "int32" else 0  # no class
        return {self.name: Spec((*size, self.channels), self.dtype, blank)}

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the array; see `Encoder`."""
        values = example.maps[self.map]
        wanted = np.zeros(0, self.dtype)
        kinds = (fields.kind_of(v) for v in (values, wanted))
        is_float = (np.issubdtype(v.dtype, np.floating) for v in (values, wanted))
        if len({*kinds}) > 1 or len({*is_float}) > 1:
            raise UnsuitableImage(
                f"map {self.map}: holds {values.dtype}, where {self.dtype} is expected"
            )
        if values.shape[2] != self.channels:
            raise UnsuitableImage(
                f"map {self.map}: has {values.shape[2]} channels, where "
                f"{self.channels} are expected"
            )
        _check_classes(f"map {self.map}", values, self.classes, low=-1)
        return {self.name: values.astype(self.dtype)}


def _check_classes(
    what: str, values: np.ndarray, classes: int | None, low: int
) -> None:
    if classes is None or not values.size:
        return
    for value in (int(values.min()), int(values.max())):
        if not low <= value < classes:
            raise UnsuitableImage(
                f"{what}: has the class {value}, where 0 to {classes - 1} are expected"
            )


@dataclasses.dataclass(frozen=True)
class VectorEncoder:
    """One vector of `length` numbers, as float32."""

    vector: str
    length: int

    @property
    def name(self) -> str:
        """The name of the field, and of its array."""
        return f"vector:{self.vector}"

    @property
    def needs(self) -> frozenset[str]:
        """The field itself."""
        return frozenset({self.name})

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the array; see `Encoder`."""
        return {self.name: Spec((self.length,), "float32")}

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the array; see `Encoder`."""
        values = example.vectors[self.vector]
        if len(values) != self.length:
            raise UnsuitableImage(
                f"vector {self.vector}: has {len(values)} numbers, where {self.length} "
                "are expected"
            )
        return {self.name: values.astype(np.float32)}


class EncoderSet:
    """All encoders of a batch, in one order of their arrays.

    Args:
      encoders: with different names, also of their arrays.
      size: height and width of the images.

    Raises:
      ValueError: two have the same name.
    """

    def __init__(self, encoders: Sequence[Encoder], size: tuple[int, int]):
        self._encoders = tuple(encoders)
        pairs = [pair for e in encoders for pair in e.specs(size).items()]
        self.specs = dict(pairs)
        if len(self.specs) < len(pairs) or len({e.name for e in encoders}) < len(
            self._encoders
        ):
            names = ", ".join(
                f"{e.name} ({', '.join(e.specs(size))})" for e in encoders
            )
            raise ValueError(f"two encoders, or their arrays, share a name: {names}")

    def encode(
        self, example: Example, seed: int, position: int
    ) -> tuple[np.ndarray, ...]:
        """Returns the arrays of an example, in the order of `specs`.

        Args:
          example: as the view made it.
          seed: of the random numbers.
          position: of the example in the stream.

        Raises:
          ValueError: an encoder does not give what it specifies.
        """
        found: dict[str, np.ndarray] = {}
        for encoder in self._encoders:
            # A use of its own, which no other encoder changes; 0 is that of the crop.
            use = 1 + zlib.crc32(encoder.name.encode())
            rng = order.make_generator(seed, position, use)
            found |= encoder.encode(example, rng)
        for name, spec in self.specs.items():
            array = found.get(name)
            if array is None or (array.shape, str(array.dtype)) != spec[:2]:
                given = array if array is None else (array.shape, str(array.dtype))
                raise ValueError(f"encoder of {name}: must give {spec}, gives {given}")
        return tuple(found[name] for name in self.specs)

    def blank(self) -> tuple[np.ndarray, ...]:
        """Returns the arrays of an example that only pads the batch."""
        return tuple(
            np.full(spec.shape, spec.blank, spec.dtype) for spec in self.specs.values()
        )


def list_needs(encoders: Sequence[Encoder]) -> frozenset[str]:
    """Returns all fields that the encoders need."""
    return frozenset().union(*(encoder.needs for encoder in encoders))
