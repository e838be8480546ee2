import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data import patches
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.sources import catalogue, digits, protocols
from tests.data import pictures


@pytest.fixture
def photos(tmp_path):
    for k in range(20):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10 + k)).save(path)
    return tmp_path / "photos"


HELD_OUT = "scenes:held_out_combinations"


@pytest.fixture(params=["scenes", HELD_OUT, "digits", "folder", "records"])
def spec(request, photos, tmp_path):
    if request.param == "records":
        return f"records:{pictures.prepare(photos, tmp_path / 'records')}"
    return f"folder:{photos}" if request.param == "folder" else request.param


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_every_source_gives_images_and_labels_of_its_classes(spec, split):
    source = catalogue.open_source(spec, split=split)
    assert isinstance(source, protocols.Source)
    for index in (0, len(source) - 1):
        example = source.read(index, 16)
        assert example.image.dtype == np.uint8
        assert example.image.shape[2] == source.channels == 3
        assert 0 <= example.label < max(len(source.class_names), 1)


def test_a_source_fills_the_fields_that_it_declares_and_no_others(spec):
    source = catalogue.open_source(spec)
    example = source.read(0, 8)
    optional = {
        "caption": example.caption is not None,
        "objects": example.objects is not None,
        "maps": bool(example.maps),
        "vectors": bool(example.vectors),
    }
    filled = {name for name, is_filled in optional.items() if is_filled}
    assert source.fields == {"image", "label"} | filled


def test_a_folder_without_classes_has_no_labels_and_an_error_says_so(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    source = catalogue.open_source(f"folder:{tmp_path}")
    protocols.check_fields(source, {"image"}, "data.patches")
    message = "data.num_classes=2 needs caption, label, which .* it has image"
    with pytest.raises(DataError, match=message):
        protocols.check_fields(source, {"label", "caption"}, "data.num_classes=2")


def test_a_source_that_renders_does_so_at_the_resolution_asked_for():
    for name in ("scenes", "digits"):
        image = catalogue.open_source(name).read(3, 24).image
        assert image.shape == (24, 24, 3)


def test_what_is_held_out_is_not_trained_on(spec):
    train, holdout = (
        catalogue.open_source(spec, split=s) for s in ("train", "holdout")
    )
    seen = {train.read(k, 32).image.tobytes() for k in range(min(len(train), 200))}
    unseen = [holdout.read(k, 32).image.tobytes() for k in range(min(len(holdout), 20))]
    assert not seen & set(unseen)


def test_reading_many_at_once_equals_reading_one_by_one():
    source = catalogue.open_source("scenes")
    assert isinstance(source, protocols.BatchSource)
    indices = np.array([3, 0, len(source) - 1])
    batch = source.read_batch(indices, (16, 16))
    for k, index in enumerate(indices):
        example = source.read(int(index), 16)
        assert (batch.image[k] == example.image).all()
        assert batch.label[k] == example.label


def test_scenes_are_made_at_any_size_and_in_parts():
    source = catalogue.open_source("scenes")
    indices = np.array([3, 0, 5])
    wide = source.read_batch(indices, (12, 24)).image
    assert wide.shape == (3, 12, 24, 3)
    window = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0.25, 0.25, 0.75, 0.5]])
    parts = source.read_batch(indices, (12, 12), window).image
    # Pixel centres differ in their last bits.
    for part, whole in ((parts[0], wide[0, :, :12]), (parts[1], wide[1, :, 12:])):
        assert np.abs(part.astype(int) - whole).max() <= 1
    large = source.read_batch(indices, (24, 48)).image
    assert np.abs(parts[2].astype(int) - large[2, 6:18, 12:24]).max() <= 1


def test_stored_images_can_be_read_in_part(photos):
    stored = catalogue.open_source(f"folder:{photos}")
    assert isinstance(stored, protocols.CropSource)
    for name in ("scenes", "digits"):
        assert not isinstance(catalogue.open_source(name), protocols.CropSource)
    assert stored.name(0).startswith(str(photos))


def test_a_crop_box_is_cut_out_of_every_stored_image(tmp_path):
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    box = (2, 5, 18, 21)
    source = catalogue.open_source(f"folder:{tmp_path}", crop_box=box)
    assert (source.read(0, 100).image == pixels[2:18, 5:21]).all()
    distribution = patches.PatchDistribution(16, 16, 16)
    example, crop = source.read_crop(
        0, lambda h, w: distribution.choose_crop(distribution.draw(0, 0), h, w)
    )
    assert (example.image == pixels[2:18, 5:21]).all() and crop.box == (0, 0, 1, 1)


@pytest.mark.parametrize("name", ["scenes", HELD_OUT, "digits"])
def test_a_crop_box_needs_stored_images(name):
    with pytest.raises(DataError, match=f"data.crop_box=.*data.source={name} has none"):
        catalogue.open_source(name, crop_box=(0, 0, 8, 8))


def test_digits_are_all_there_and_split_nine_to_one():
    train, holdout = digits.DigitsSource("train"), digits.DigitsSource("holdout")
    assert (len(train), len(holdout)) == (1618, 179)
    for source in (train, holdout):
        labels = [source.read(k, 8).label for k in range(len(source))]
        assert set(labels) == set(range(10))
    image = train.read(0, 8).image
    assert (image[..., 0] == image[..., 2]).all() and image.max() > 200


@pytest.mark.parametrize(
    "spec",
    ["", "scene", "folder:", "tar:", "records:", "tfds:", "Digits", "http://x/y.png"]
    + ["scenes:", "scenes:held_out"],
)
def test_an_unknown_source_is_an_error_that_lists_the_known(spec):
    with pytest.raises(
        DataError, match="data.source=.* scenes, digits, folder:PATH, tar:"
    ):
        catalogue.open_source(spec)


def test_a_bare_path_is_answered_with_how_to_write_it(tmp_path):
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        catalogue.open_source(str(tmp_path))


def test_a_folder_may_be_given_relative_to_home(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert catalogue.open_source("folder:~/photos").class_names == ("a", "b")


def test_the_sources_of_a_field_are_those_that_have_it(tmp_path):
    """Every source that is named can have the field; each is tried elsewhere."""
    for field in ("label", "caption", "objects", "map:semantic", "map:mine"):
        named = catalogue.describe_sources(field)
        for spec in ("folder:PATH", "tar:PATH", "tfds:NAME", "records:"):
            assert spec in named
        assert "scenes" in named
    assert "digits" not in catalogue.describe_sources("caption")
    assert catalogue.describe_sources("vector:camera").startswith("records:PATH")
    assert catalogue.describe_sources("unknown") == ""
