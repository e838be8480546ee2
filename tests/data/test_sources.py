import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data import digits, sources
from simple_diffusion.data.errors import DataError


@pytest.fixture
def photos(tmp_path):
    for k in range(20):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10 + k)).save(path)
    return tmp_path / "photos"


@pytest.fixture(params=["scenes", "digits", "folder"])
def spec(request, photos):
    return f"folder:{photos}" if request.param == "folder" else request.param


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_every_source_gives_images_and_labels_of_its_classes(spec, split):
    source = sources.open_source(spec, split=split)
    assert isinstance(source, sources.Source)
    for index in (0, len(source) - 1):
        image, label = source.read(index, 16)
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert 0 <= label < max(len(source.class_names), 1)


def test_a_source_that_renders_does_so_at_the_resolution_asked_for():
    for name in ("scenes", "digits"):
        image, _ = sources.open_source(name).read(3, 24)
        assert image.shape == (24, 24, 3)


def test_what_is_held_out_is_not_trained_on(spec):
    train, holdout = (sources.open_source(spec, split=s) for s in ("train", "holdout"))
    seen = {train.read(k, 32)[0].tobytes() for k in range(min(len(train), 200))}
    unseen = [holdout.read(k, 32)[0].tobytes() for k in range(min(len(holdout), 20))]
    assert not seen & set(unseen)


def test_reading_many_at_once_equals_reading_one_by_one():
    source = sources.open_source("scenes")
    assert isinstance(source, sources.BatchSource)
    indices = np.array([3, 0, len(source) - 1])
    images, labels = source.read_batch(indices, (16, 16))
    for k, index in enumerate(indices):
        image, label = source.read(int(index), 16)
        assert (images[k] == image).all() and labels[k] == label


def test_digits_are_all_there_and_split_nine_to_one():
    train, holdout = digits.DigitsSource("train"), digits.DigitsSource("holdout")
    assert (len(train), len(holdout)) == (1618, 179)
    for source in (train, holdout):
        labels = [source.read(k, 8)[1] for k in range(len(source))]
        assert set(labels) == set(range(10))
    image, _ = train.read(0, 8)
    assert (image[..., 0] == image[..., 2]).all() and image.max() > 200


@pytest.mark.parametrize(
    "spec", ["", "scene", "folder:", "tfds:", "Digits", "http://x/y.png"]
)
def test_an_unknown_source_is_an_error_that_lists_the_known(spec):
    with pytest.raises(DataError, match="data.source=.* must be scenes, digits, fold"):
        sources.open_source(spec)


def test_a_bare_path_is_answered_with_how_to_write_it(tmp_path):
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        sources.open_source(str(tmp_path))


def test_a_folder_may_be_given_relative_to_home(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert sources.open_source("folder:~/photos").class_names == ("a", "b")
