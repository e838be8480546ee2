"""What a data source is: it returns an example for any index.

To add a source, see `catalogue.open_source`.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.data import decode
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records.text_features import TextEncoding
from simple_diffusion.data.stored import field_names
from simple_diffusion.data.stored.examples import StoredExample
from simple_diffusion.data.transforms import Crop

Split = Literal["train", "holdout"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The fields of b examples; see `Example`. None, or {}, for those not read."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int[np.ndarray, "b"]
    caption: Sequence[str] | None = None
    objects: Sequence[Objects] | None = None
    maps: Mapping[str, Shaped[np.ndarray, "b h w _"]] = dataclasses.field(
        default_factory=dict
    )
    vectors: Mapping[str, Shaped[np.ndarray, "b _"]] = dataclasses.field(
        default_factory=dict
    )

    def at(self, k: int) -> Example:
        """Returns one of the examples."""
        return Example(
            image=self.image[k],
            label=int(self.label[k]),
            caption=None if self.caption is None else self.caption[k],
            objects=None if self.objects is None else self.objects[k],
            maps={name: values[k] for name, values in self.maps.items()},
            vectors={name: values[k] for name, values in self.vectors.items()},
        )


@runtime_checkable
class Source(Protocol):
    """A finite set of examples, read in any order and from several threads at a time.

    class_names: the classes; empty if the images have none.
    fields: names of the fields of `Example` that this source fills.
    channels: number of channels of its images.
    """

    class_names: tuple[str, ...]
    fields: frozenset[str]
    channels: int

    def __len__(self) -> int:
        """Returns the number of examples, readable or not."""
        ...

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example.

        Args:
          index: in range(len(self)).
          resolution: the shorter side that is needed later, in pixels. The image may be
            larger or, if the source has no more pixels, smaller; a source that can
            render or decode at a size of its choice uses this one.

        Raises:
          BadImage: if this image cannot be read.
        """
        ...


@runtime_checkable
class MapSource(Source, Protocol):
    """A source that knows the names of its maps, and of their classes.

    map_classes: the maps by name; for one of class ids, the names of its classes, if
      they are known; () for the others.
    """

    map_classes: Mapping[str, tuple[str, ...]]


@runtime_checkable
class ObjectSource(Source, Protocol):
    """A source of objects whose classes have names.

    category_names: the names, in the order of `Objects.category`.
    """

    category_names: tuple[str, ...]


@runtime_checkable
class CropSource(Source, Protocol):
    """A source of stored images that can decode and resample a part of one."""

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns an example whose image is a part of the stored one, and which part.

        `fields.crop_fields` crops its other fields alike.

        Args:
          index: in range(len(self)).
          choose: height and width of the image -> the part.

        Raises:
          BadImage: if this image cannot be read, or `choose` raises `UnsuitableImage`.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name of an image in reports: its file, or its index."""
        ...


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose images may change on disk."""

    def fingerprint(self) -> str:
        """Returns a text that changes if images are added, removed or changed.

        It does not depend on the folder; it sees only names and sizes of the images.
        """
        ...


@runtime_checkable
class TextFeatureSource(Source, Protocol):
    """A source that may have features of its captions by a frozen text encoder.

    text_encoding: the encoder that made them; None without features.
    """

    text_encoding: TextEncoding | None


@runtime_checkable
class SelectiveSource(Source, Protocol):
    """A source that can leave out fields when it reads."""

    def select_fields(self, wanted: Set[str]) -> "Source":
        """Returns the same source, which reads no fields but these.

        Args:
          wanted: names as in `list_fields`; "maps" are all maps.
        """
        ...


@runtime_checkable
class EncodedSource(Source, Protocol):
    """A source of stored examples that can leave them encoded."""

    def read_stored(self, index: int) -> StoredExample:
        """Returns an example as it is stored, with the fields that are wanted.

        Raises:
          BadImage: if a file or a field cannot be read.
        """
        ...


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source that generates its images: at any size, and faster many at once."""

    def read_batch(
        self,
        indices: Int[np.ndarray, "b"],
        size: tuple[int, int],
        window: Float[np.ndarray, "b 4"] | None = None,
        fields: Collection[str] = (),
    ) -> Examples:
        """Returns many examples, as `read` would one by one.

        Args:
          indices: in range(len(self)).
          size: height and width of the images.
          window: the part of each full image to generate, (y0, x0, y1, x1) in units of
            the full image; the full image has as many pixels as give the part this
            size. None for the full image.
          fields: those to read besides image and label, of those that `list_fields`
            lists; not passed if there are none.
        """
        ...


def list_fields(source: Source) -> frozenset[str]:
    """Returns the fields of a source, each map as "map:NAME".

    Instead of them it lists "maps", or "vectors", where the source does not know the
    names.
    """
    if not isinstance(source, MapSource):
        return frozenset(source.fields)
    maps = {f"map:{name}" for name in source.map_classes}
    return frozenset(source.fields) - {"maps"} | maps


def check_fields(
    source: Source,
    fields: Iterable[str],
    user: str,
    spec: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Checks that a source has the fields that a config needs.

    Args:
      source: the source.
      fields: names of fields of `Example`; a single map or vector is "map:NAME" or
        "vector:NAME".
      user: the config key, with its value, that needs them.
      spec: what `data.source` is.
      elsewhere: field -> which other sources have it, for the message.

    Raises:
      DataError: if the source lacks one; the message names it.
    """
    listed = list_fields(source)
    missing = sorted(
        field
        for field in set(fields) - listed
        if field_names.to_source_field(field) not in listed
    )
    if missing:
        having = [
            f"{field}: {where}"
            for field in missing
            if (where := (elsewhere or {}).get(field))
        ]
        raise DataError(
            f"{user} needs {', '.join(missing)}, which "
            f"this data.source{f', {spec},' if spec else ''} does not have; "
            f"it has {', '.join(sorted(listed))}"
            + (f". Sources that have it: {'; '.join(having)}" if having else "")
        )


def select_fields(source: Source, wanted: Set[str] | None) -> Source:
    """Returns a source that reads only some of its fields, if it can choose.

    A field that nobody wants then costs nothing, and no image is bad because of it.
    What the source declares does not change.

    Args:
      source: the source.
      wanted: names as in `list_fields`; None for all.
    """
    if wanted is None or not isinstance(source, SelectiveSource):
        return source
    return source.select_fields(wanted)
