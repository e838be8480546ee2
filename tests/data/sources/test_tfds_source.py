import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data import pipeline, tf_runtime
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import catalogue


def prepare(data_dir, called, splits, file_format="array_record", labels=("a", "b")):
    """Writes a set of pictures that show their own number, in TFDS format."""
    tf_runtime.tensorflow()
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "serial": tfds.features.Scalar(np.int64),
    }
    if labels:
        features["label"] = tfds.features.ClassLabel(names=labels)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = called
        __module__ = "script"  # TFDS then looks for no files beside the code
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {k: self._generate_examples(v) for k, v in splits.items()}

        def _generate_examples(self, images):
            for serial, (image, label) in enumerate(images):
                example = {"image": image, "serial": serial}
                yield serial, example | ({"label": label} if labels else {})

    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        builder = Builder(data_dir=data_dir, file_format=file_format)
        builder.download_and_prepare()


def picture(number):
    return np.full((6 + number % 5, 9, 3), number, np.uint8)


def numbered(*numbers):
    return [(picture(n), n % 2) for n in numbers]


def contents(source):
    examples = (source.read(k, 4) for k in range(len(source)))
    return sorted((int(example.image[0, 0, 0]), example.label) for example in examples)


def test_train_and_validation_are_read_in_any_order(tmp_path):
    splits = {"train": numbered(*range(20)), "validation": numbered(50, 51)}
    prepare(tmp_path, "toy", splits | {"test": numbered(90)})
    train = catalogue.open_source("tfds:toy", str(tmp_path))
    assert train.class_names == ("a", "b")
    assert contents(train) == [(n, n % 2) for n in range(20)]
    first, again = train.read(7, 4).image, train.read(7, 4).image
    assert (first == again).all()
    holdout = catalogue.open_source("tfds:toy", str(tmp_path), "holdout")
    assert contents(holdout) == [(50, 0), (51, 1)]


def test_without_another_split_the_end_of_train_is_held_out(tmp_path):
    prepare(tmp_path, "toy", {"train": numbered(*range(40))})
    parts = [
        contents(catalogue.open_source("tfds:toy", str(tmp_path), split))
        for split in ("train", "holdout")
    ]
    assert [len(part) for part in parts] == [38, 2]
    assert sorted(parts[0] + parts[1]) == [(n, n % 2) for n in range(40)]


def test_a_set_without_labels_has_no_classes_and_goes_by_name_and_version(tmp_path):
    prepare(tmp_path, "toy", {"train": numbered(*range(4))}, labels=())
    source = catalogue.open_source("tfds:toy:1.0.0", str(tmp_path))
    assert source.class_names == ()
    assert source.read(0, 4).label == 0


def test_unusual_and_damaged_records_meet_our_own_decoder(tmp_path, capsys):
    png = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(png, "PNG")
    (tmp_path / "clear.png").write_bytes(png.getvalue())
    (tmp_path / "torn.png").write_bytes(png.getvalue()[:40])
    images = [(str(tmp_path / name), 0) for name in ("clear.png", "torn.png")]
    prepare(tmp_path, "toy", {"train": images})
    source = catalogue.open_source("tfds:toy:1.0.0", str(tmp_path))
    batches = pipeline.eval_batches(source, batch_size=2, size=(4, 4))
    batch = next(batches)
    assert batch.mask.sum() == 1 and batches.bad_count == 1
    assert (batch.image[batch.mask] == 255).all()
    assert "tfds:toy/1.0.0 train[" in capsys.readouterr().out


def test_an_unknown_name_is_an_error_with_the_nearest_names(tmp_path):
    with pytest.raises(DataError, match="data.source=tfds:cifar1O.*mean cifar10"):
        catalogue.open_source("tfds:cifar1O", str(tmp_path))


@pytest.mark.parametrize("name", ["two words", "a/b/c/d", "mnist:version"])
def test_a_name_that_is_none_is_an_error_too(tmp_path, name):
    with pytest.raises(DataError, match="data.source=tfds:"):
        catalogue.open_source(f"tfds:{name}", str(tmp_path))


def test_imagenet_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(DataError) as caught:
        catalogue.open_source("tfds:imagenet2012", str(tmp_path))
    message = str(caught.value)
    for part in (
        f"data.data_dir={tmp_path}",
        f"manual_dir is {tmp_path}/downloads/manual",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "image-net.org",
        f"tfds build imagenet2012 --data_dir={tmp_path} --file_format=array_record",
        f"data_dir='{tmp_path}', file_format='array_record').download_and_prepare()",
        f"--config.data.data_dir={tmp_path}",
    ):
        assert part in message


def test_a_missing_data_dir_is_named(tmp_path):
    with pytest.raises(DataError, match="data.data_dir=.*/gone does not exist"):
        catalogue.open_source("tfds:mnist", str(tmp_path / "gone"))


def test_without_data_dir_the_usual_place_is_named(monkeypatch):
    with pytest.raises(DataError, match="data.data_dir is not set"):
        catalogue.open_source("tfds:a_set_that_nobody_has")


def test_a_set_in_another_format_says_how_to_prepare_it_again(tmp_path):
    prepare(tmp_path, "toy", {"train": numbered(1)}, file_format="tfrecord")
    with pytest.raises(
        DataError, match="as tfrecord.*(\n.*)+file_format='array_record'"
    ):
        catalogue.open_source("tfds:toy", str(tmp_path))


def test_a_set_without_a_train_split_says_which_it_has(tmp_path):
    prepare(tmp_path, "toy", {"dev": numbered(1), "eval": numbered(2)})
    with pytest.raises(DataError, match="no split named train, only dev, eval"):
        catalogue.open_source("tfds:toy", str(tmp_path))


def test_a_crop_box_is_cut_out_of_every_record(tmp_path):
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    prepare(tmp_path, "toy", {"train": [(pixels, 0)] * 20})
    source = catalogue.open_source("tfds:toy", str(tmp_path), crop_box=(2, 5, 18, 21))
    assert (source.read(0, 100).image == pixels[2:18, 5:21]).all()
    outside = catalogue.open_source("tfds:toy", str(tmp_path), crop_box=(0, 0, 21, 9))
    with pytest.raises(BadImage, match=r"toy/1.0.0 .*\[3\]: data.crop_box=.* outside"):
        outside.read(3, 8)
