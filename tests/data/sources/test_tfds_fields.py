"""Captions, maps and boxes from features of TFDS."""

import contextlib
import io

import numpy as np
import pytest

from simple_diffusion.data import tf_runtime
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.records import encoding, preparation
from simple_diffusion.data.sources import catalogue, protocols

MAPPING = "caption=captions.text, semantic=segmentation_mask, objects=objects"
COUNT = 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A dataset in the form of coco_captions, of a segmentation and a detection set."""
    tf_runtime.tensorflow()
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
        "captions": tfds.features.Sequence(
            {"text": tfds.features.Text(), "id": np.int64}
        ),
        "title": tfds.features.Text(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "sun"]),
                "area": np.int64,
            }
        ),
    }

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "toy"
        __module__ = "script"  # TFDS then looks for no files beside the code
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(COUNT), "test": self._empty()}

        def _empty(self):
            yield from self._generate_examples(2)

        def _generate_examples(self, count):
            for k in range(count):
                texts = [f"{word} {k}" for word in ("first", "second", "third")]
                boxes = [tfds.features.BBox(0.0, 0.25, 0.5, 1.0)] * (k % 3)
                yield (
                    k,
                    {
                        "image": np.full((6, 8, 3), k, np.uint8),
                        "label": k % 2,
                        "captions": [
                            {"text": t, "id": 0} for t in texts[: 3 - (k == 5)]
                        ],
                        "title": "" if k == 6 else f"title {k}",
                        "segmentation_mask": np.full((6, 8, 1), 20 + k, np.uint8),
                        "objects": [{"bbox": b, "label": 2, "area": 1} for b in boxes],
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        builder = Builder(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    return str(folder)


def open_source(data_dir, mapping, **options):
    return catalogue.open_source("tfds:toy", data_dir, tfds_fields=mapping, **options)


def read_all(source):
    examples = [source.read(k, 100) for k in range(len(source))]
    return {int(example.image[0, 0, 0]): example for example in examples}


def assert_complete(examples):
    for k, example in examples.items():
        assert (example.caption, example.label) == (f"first {k}", k % 2)
        assert example.maps["semantic"].dtype == np.int32
        assert (example.maps["semantic"] == 20 + k).all()
        assert example.objects.box.tolist() == [[0, 0.25, 0.5, 1]] * (k % 3)
        assert example.objects.category.tolist() == [2] * (k % 3)


def test_features_become_the_fields_of_the_mapping(data_dir):
    source = open_source(data_dir, MAPPING)
    assert isinstance(source, protocols.CropSource)
    assert source.fields == {"image", "label", "caption", "objects", "maps"}
    assert source.category_names == ("cat", "dog", "sun")
    examples = read_all(source)
    assert len(examples) == COUNT
    assert_complete(examples)
    assert open_source(data_dir, None).fields == {"image", "label"}


def test_only_wanted_features_are_read(data_dir):
    for example in read_all(
        open_source(data_dir, MAPPING, wanted={"caption"})
    ).values():
        assert example.caption and example.objects is None and not example.maps


def test_another_caption_is_chosen_by_its_index(data_dir):
    source = open_source(data_dir, "caption=captions.text[2]")
    read, bad = {}, []
    for k in range(len(source)):
        try:
            example = source.read(k, 8)
            read[int(example.image[0, 0, 0])] = example.caption
        except BadImage as error:
            bad.append(str(error))
    assert read == {k: f"third {k}" for k in range(COUNT) if k != 5}
    assert len(bad) == 1 and bad[0].endswith("caption: has only 2")


def test_an_empty_text_makes_its_image_bad(data_dir):
    source = open_source(data_dir, "caption=title")
    with pytest.raises(BadImage, match=r"tfds:toy/1.0.0 train\[\d\]: caption: empty"):
        read_all(source)


def test_prepared_records_keep_the_fields(data_dir, tmp_path):
    settings = encoding.Settings("tfds:toy", data_dir=data_dir, tfds_fields=MAPPING)
    preparation.prepare(settings, tmp_path / "records", report=lambda line: None)
    source = catalogue.open_source(f"records:{tmp_path / 'records'}")
    assert source.category_names == ("cat", "dog", "sun")
    examples = read_all(source)
    assert len(examples) == COUNT
    assert_complete(examples)


@pytest.mark.parametrize(
    "mapping, said",
    [
        (
            "caption=captions.words",
            "has no feature captions.words; it has .*captions.text.*objects.bbox",
        ),
        ("caption", "'caption' must be NAME=FEATURE"),
        ("caption=label", "label is ClassLabel, and must be a text"),
        ("depth=title", "title is Text, and must be an image"),
        ("objects=captions", "captions is no sequence of boxes with classes"),
        ("objects=label", "label is no sequence of boxes"),
    ],
)
def test_a_wrong_mapping_is_an_error_that_names_the_key(data_dir, mapping, said):
    with pytest.raises(DataError, match=f"data.tfds_fields='{mapping}'.*{said}"):
        open_source(data_dir, mapping)


def test_a_mapping_for_another_source_is_an_error():
    with pytest.raises(DataError, match="data.tfds_fields=.*source=digits is no tfds"):
        catalogue.open_source("digits", tfds_fields="caption=text")
