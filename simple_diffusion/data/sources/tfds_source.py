"""Any image set of TensorFlow Datasets that has been prepared on disk.

Random access needs the array_record format. Nothing is downloaded here: the error about
a missing dataset says how to prepare it.
"""

import copy
import difflib
import io
from collections.abc import Set
from typing import Any

from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode, tf_runtime
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import tfds_fields
from simple_diffusion.data.stored import examples, field_names
from simple_diffusion.data.transforms import Crop

_FORMAT = "array_record"
# The held-out split, in order of preference. Without any of these, the end of the
# training split is held out.
_HOLDOUT_SPLITS = ("validation", "test")
_HOLDOUT_PERCENT = 5


class TfdsSource:
    """The images of one split of a prepared TFDS dataset.

    Args:
      name: as TFDS spells it: "NAME", "NAME/CONFIG", "NAME:VERSION".
      data_dir: the folder of prepared datasets; None for the default of TFDS, in the
        home folder.
      split: "train", or "holdout": the dataset's "validation" or "test" split, or if
        it has neither, the last 5 % of "train".
      crop_box: the part to use of every image, see `decode.decode`.
      channels: of the images, see `decode.decode`.
      fields: which features are which fields, see tfds_fields.py; None for none.

    Raises:
      DataError: if the dataset is unknown, not prepared, not in array_record format or
        has no images; the message says what to do.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None,
        split: str,
        crop_box: decode.Box | None = None,
        channels: int = 3,
        fields: str | None = None,
    ):
        self.channels = channels
        self._crop_box = crop_box
        self._tf = tf_runtime.tensorflow()  # before TFDS imports it by itself
        import tensorflow_datasets as tfds

        builder = _open_builder(tfds, name, data_dir)
        self._image, self._label = _find_features(tfds, name, builder.info.features)
        names = builder.info.features[self._label].names if self._label else []
        self.class_names = tuple(names)
        mapped = tfds_fields.parse(tfds, fields, builder.info.features, name)
        self._features = self._wanted_features = mapped.features
        self.category_names = mapped.category_names
        labels = {"label"} if self._label else set()
        listed = frozenset({"image", *labels, *mapped.features})
        self.fields = field_names.to_source_fields(listed)
        self.map_classes = {k: () for k in field_names.list_maps(listed)}
        part = _choose_split(name, list(builder.info.splits), split)
        self._title = f"tfds:{builder.info.full_name} {part}"
        # As bytes, so that our own decoder handles damaged and unusual images.
        self._records = builder.as_data_source(
            part,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            file_format=_FORMAT,
        )

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, resolution: int) -> Example:
        """Returns one example; see `protocols.Source`."""
        return examples.read(
            self.read_stored(index), resolution, self._crop_box, self.channels
        )

    def read_crop(self, index: int, choose: decode.ChooseCrop) -> tuple[Example, Crop]:
        """Returns a part of an example; see `protocols.CropSource`."""
        return examples.read_crop(
            self.read_stored(index), choose, self._crop_box, self.channels
        )

    def select_fields(self, wanted: Set[str]) -> "TfdsSource":
        """Returns the same source without some fields; see `SelectiveSource`."""
        other = copy.copy(self)
        kept = field_names.select_wanted(self._features.keys(), wanted)
        other._wanted_features = {k: self._features[k] for k in sorted(kept)}
        return other

    def name(self, index: int) -> str:
        """Returns the dataset, the split and the index of an image."""
        return f"{self._title}[{index}]"

    def fingerprint(self) -> str:
        """Returns name, version and split; see `protocols.StoredSource`.

        A prepared version of a dataset is assumed not to change.
        """
        return self._title

    def read_stored(self, index: int) -> examples.StoredExample:
        """Returns an example as it is stored, with the fields that are wanted."""
        name = self.name(index)
        try:
            record = self._tf.train.Example.FromString(self._records[index])
            feature = record.features.feature
            encoded = feature[self._image].bytes_list.value[0]
            label = feature[self._label].int64_list.value[0] if self._label else 0
        except Exception as error:  # of many types, from three libraries
            raise BadImage(name, f"damaged record ({error})") from error
        fields = tfds_fields.read(self._wanted_features, feature, name)
        return examples.StoredExample(io.BytesIO(encoded), name, label, **fields)


def _open_builder(tfds: Any, name: str, data_dir: str | None) -> Any:
    """Returns the builder of a dataset found on disk; its code is not needed."""
    root = tfds.core.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    here = f"data.data_dir={root}" if data_dir else f"{root} (data.data_dir is not set)"
    if data_dir and not root.is_dir():
        problem = f"{here} does not exist"
        raise DataError(f"{problem}. {_describe_preparation(tfds, name, root)}")
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        problem = f"data.source=tfds:{name}: no such dataset in {here}"
        advice = _describe_preparation(tfds, name, root)
        raise DataError(f"{problem}. {advice}") from error
    formats = {
        file_format.value for file_format in builder.info.available_file_formats()
    }
    if _FORMAT not in formats:
        raise DataError(
            f"data.source=tfds:{name}: prepared at {builder.data_path} as "
            f"{', '.join(sorted(formats))}, which cannot be read in any order as "
            f"{_FORMAT} can. Prepare it again, in another folder:\n"
            f"{_format_commands(name, str(root) + '_' + _FORMAT)}"
        )
    return builder


def _describe_preparation(tfds: Any, name: str, root: Any) -> str:
    """Returns how to prepare a dataset that is not on disk."""
    base = name.split(":")[0].split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        near = difflib.get_close_matches(base, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"TFDS has none of this name either{hint}"
    how = "Nothing is downloaded here."
    prepare = f"prepare it once, in {_FORMAT} format, for random access:"
    manual = tfds.builder_cls(base).MANUAL_DOWNLOAD_INSTRUCTIONS
    if manual:
        text = "\n".join("   " + line.strip() for line in manual.strip().splitlines())
        how += (
            f" Get the files by hand (manual_dir is {root}/downloads/manual):\n{text}"
        )
        how += f"\nThen {prepare}"
    else:
        how += f" To have it, {prepare}"
    return f"{how}\n{_format_commands(name, root)}"


def _format_commands(name: str, root: Any) -> str:
    """Returns the commands that prepare a dataset so that it can be read here."""
    call = f"tfds.builder('{name}', data_dir='{root}', file_format='{_FORMAT}')"
    return (
        f'  python -c "import tensorflow_datasets as tfds; {call}'
        '.download_and_prepare()"\n'
        "or with the tfds command, where apache-beam is installed, which it needs:\n"
        f"  tfds build {name} --data_dir={root} --file_format={_FORMAT}\n"
        f"and train with --config.data.data_dir={root}"
    )


def _find_features(tfds: Any, name: str, features: Any) -> tuple[str, str | None]:
    """Returns the names of the image feature and of the class label, if any."""
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not images:
        raise DataError(
            f"data.source=tfds:{name}: has no images, only {', '.join(features)}"
        )
    # The usual names first; a set with several images or labels has one of them.
    image = "image" if "image" in images else images[0]
    label = "label" if "label" in labels else next(iter(labels), None)
    return image, label


def _choose_split(name: str, splits: list[str], split: str) -> str:
    """Returns the TFDS split, perhaps a slice of one, that serves as ours."""
    if "train" not in splits:
        raise DataError(
            f"data.source=tfds:{name}: has no split named train, only "
            f"{', '.join(splits)}"
        )
    for held_out in _HOLDOUT_SPLITS:
        if held_out in splits:
            return held_out if split == "holdout" else "train"
    edge = f"{100 - _HOLDOUT_PERCENT}%"
    return f"train[{edge}:]" if split == "holdout" else f"train[:{edge}]"
