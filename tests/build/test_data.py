import contextlib

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.build import data
from simple_diffusion.configs import base
from simple_diffusion.data.conditioning import encoders
from tests.build.every_key import set_keys, tiny, write_images


@pytest.fixture
def config():
    """Patches of scenes."""
    config = base.default()
    config.data.resolution = 8
    config.data.patches = base.patches(12, 16)
    config.train.batch_size = 8
    return config


def test_training_and_held_out_images_are_patches_if_the_config_has_them(config):
    opened = data.open_data(config)
    for batches in (opened.train(0), opened.held_out(8, 8)):
        batch = next(batches)
        assert batch.image.shape == (8, 8, 8, 3)
        whole = 8 / (batch.box[:, 2:] - batch.box[:, :2])
        assert whole.min() > 11.9 and whole.max() < 16.1
        assert len(np.unique(batch.box, axis=0)) > 1
        batches.close()


def test_full_images_are_full_at_any_size_with_or_without_patches(config):
    for with_patches in (True, False):
        if not with_patches:
            config.data.patches = None
        batch = next(data.open_data(config).full_images(4, 4, (8, 20)))
        assert batch.image.shape == (4, 8, 20, 3)
        assert batch.box.tolist() == [[0, 0, 1, 1]] * 4


def test_a_pass_over_full_images_can_begin_later(config):
    opened = data.open_data(config)
    with contextlib.closing(opened.full_images(8, 4, (8, 8))) as batches:
        first, second = next(batches).image, next(batches).image
    with contextlib.closing(opened.full_images(8, 4, (8, 8), start=4)) as batches:
        later = [batch.image for batch in batches]
    np.testing.assert_array_equal(later, [second])
    assert (first != second).any()


def test_without_patches_images_are_full_squares(config):
    config.data.patches = None
    opened = data.open_data(config)
    for batches in (opened.train(0), opened.held_out(8, 8)):
        batch = next(batches)
        assert batch.image.shape == (8, 8, 8, 3)
        assert batch.box.tolist() == [[0, 0, 1, 1]] * 8
        batches.close()


def test_the_keys_of_patches_reach_their_distribution(config):
    config.data.patches.probability_smallest = 1.0
    config.data.patches.aspect = None
    boxes = next(data.open_data(config).train(0)).box
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], 8 / 12)
    config.data.patches.law = "normal"
    with pytest.raises(ValueError, match="data.patches.law='normal' must be one of"):
        data.open_data(config)


def test_a_number_of_classes_for_images_without_any_is_an_error(config, tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "1.png")
    config.data.source = f"folder:{tmp_path}"
    config.data.num_classes = 3
    with pytest.raises(ValueError, match="data.num_classes=3 needs label, which this"):
        data.open_data(config)


def test_impossible_patches_are_an_error_before_the_source_is_opened(config):
    config.data.source = "folder:/nowhere"
    config.data.patches.smallest = 20
    with pytest.raises(ValueError, match="data.patches.smallest=20 must not exceed"):
        data.open_data(config)
    config.data.patches.smallest = 4
    with pytest.raises(ValueError, match="data.resolution=8 must not exceed"):
        data.open_data(config)


def test_sizes_up_to_the_stored_size_need_images_that_have_one(config):
    config.data.patches = base.patches(12, None)
    with pytest.raises(ValueError, match="data.patches.largest=None .* say how large"):
        data.open_data(config)


def test_the_crop_box_reaches_the_source(config, tmp_path):
    image = np.zeros((30, 30, 3), np.uint8)
    image[10:22, 5:17] = 255
    for k in range(2):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    config.data.source = f"folder:{tmp_path}"
    config.data.crop_box = (10, 5, 22, 17)
    config.data.patches.largest = 12
    opened = data.open_data(config)
    for batches in (
        opened.train(0),
        opened.held_out(1, 8),
        opened.full_images(1, 8, (6, 4)),
    ):
        batch = next(batches)
        assert (batch.image[batch.mask] == 255).all() and batch.mask.any()
        batches.close()


def test_fields_that_conditions_need_are_in_every_batch(config):
    config.data.flip_captions = "keep"
    config.data.num_classes = 0
    wanted = [encoders.ObjectsEncoder(3), encoders.MapEncoder("semantic")]
    opened = data.open_data(config, make_encoders=lambda source: wanted)
    names = {"objects.box", "objects.category", "objects.present", "map:semantic"}
    for batches in (opened.train(0), opened.held_out(8, 8)):
        with contextlib.closing(batches):
            fields = next(batches).fields
        assert fields.keys() == names
        assert fields["map:semantic"].shape == (8, 8, 8, 1)
    chosen = opened.select([0, 1], (6, 12)).fields
    assert chosen.keys() == names and chosen["map:semantic"].shape == (2, 6, 12, 1)


def test_a_field_that_the_source_lacks_names_the_sources_that_have_it(config):
    config.data.source = "digits"
    wanted = {
        "the condition objects needs objects, which this data.source, digits, does not "
        "have; it has image, label. Sources that have it: objects: scenes": (
            encoders.ObjectsEncoder(3)
        ),
        "needs map:depth, .* map:depth: scenes": encoders.MapEncoder("depth"),
    }
    for message, encoder in wanted.items():
        with pytest.raises(ValueError, match=message):
            data.open_data(config, make_encoders=lambda source, e=encoder: [e])
    config.data.source = "scenes"
    for map_ in ("depth", "semantic"):
        data.open_data(config, make_encoders=lambda s, m=map_: [encoders.MapEncoder(m)])
    with pytest.raises(ValueError, match="needs map:heat, .* it has .*map:instance"):
        data.open_data(config, make_encoders=lambda s: [encoders.MapEncoder("heat")])


def test_captions_of_mirrored_images_need_a_decision(config):
    wanted = [encoders.ObjectsEncoder(2, None, "caption", frozenset({"caption"}))]
    with pytest.raises(ValueError, match="data.flip_captions=swap .* data.flip=False"):
        data.open_data(config, make_encoders=lambda source: wanted)
    config.data.flip = False
    data.open_data(config, make_encoders=lambda source: wanted)


FOLDER = {"data.source": "folder:{folder}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def images_by_pixels(config):
    """The images of the first epoch, by what identifies them in either direction."""
    batches = data.open_data(config).train(0)
    found = np.concatenate([next(batches).image for _ in range(2)])
    batches.close()
    return found


def test_with_flip_some_images_are_mirrored_and_others_are_not(folder):
    plain, flipped = tiny(), tiny()
    set_keys(plain, FOLDER | {"data.flip": False}, folder)
    set_keys(flipped, FOLDER, folder)
    a, b = images_by_pixels(plain), images_by_pixels(flipped)
    is_equal = (a == b).all((1, 2, 3))
    is_mirrored = (a == b[:, :, ::-1]).all((1, 2, 3))
    assert (is_equal ^ is_mirrored).all()
    assert is_equal.any() and is_mirrored.any()


def test_another_seed_reads_the_images_in_another_order(folder):
    """Not only mirrored otherwise or cropped at other places."""
    orders = []
    for seed in (0, 1):
        config = tiny()
        set_keys(config, FOLDER | {"data.flip": False, "train.seed": seed}, folder)
        orders.append(images_by_pixels(config))
    first, second = ([image.tobytes() for image in images] for images in orders)
    assert first != second
    assert len(set(first) & set(second)) > 8  # of sixteen


@pytest.fixture
def turning(tmp_path):
    """Landscape images, whose left is white, and portrait ones, whose top is."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = 255
    for k in range(20):
        image = pixels if k % 2 else pixels.swapaxes(0, 1)
        Image.fromarray(image).save(tmp_path / f"{k:02d}.png")
    config = tiny()
    config.data.update(source=f"folder:{tmp_path}", num_classes=0, flip=False)
    config.data.update(resolution="8x12", portrait="turn", holdout_fraction=0.5)
    return config


def test_portrait_images_are_turned_and_flagged_in_every_batch(turning):
    flag = encoders.VectorEncoder("portrait", 1)
    opened = data.open_data(turning, make_encoders=lambda source: [flag])
    for batches in (opened.train(0), opened.held_out(8, 8)):
        with contextlib.closing(batches):
            batch = next(batches)
        found = batch.fields["vector:portrait"][:, 0]
        assert set(found.tolist()) == {0.0, 1.0}
        # Counterclockwise, the top of an image becomes its left.
        left, right = batch.image[:, :, :5], batch.image[:, :, 7:]
        assert (left == 255).all() and (right == 0).all()
    chosen = opened.select(range(10), (8, 12))
    assert set(chosen.fields["vector:portrait"][:, 0].tolist()) == {0.0, 1.0}
    described = opened.describe("holdout", (8, 12))
    turning.data.portrait = "crop"
    assert data.open_data(turning).describe("holdout", (8, 12)) != described


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 8}, "data.resolution=8x8 are not wider than high"),
        ({"flip": True}, "set data.flip=False"),
        ({"source": "scenes"}, "data.source=scenes generates images of any aspect"),
    ],
)
def test_portrait_images_that_cannot_be_turned_are_an_error(turning, changes, message):
    turning.data.update(changes)
    with pytest.raises(ValueError, match=message):
        data.open_data(turning)


def test_hidden_colours_take_no_part_where_four_channels_mean_transparency(tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :7] = (200, 40, 40, 255)  # the rest is transparent, and black
    for k in range(4):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    config = tiny()
    config.data.update(source=f"folder:{tmp_path}", channels=4, flip=False)
    opened = data.open_data(config)
    batches = opened.train(0)
    for image in (next(batches).image, opened.select([0], (8, 8)).image):
        edge = image[:, :, 3]  # pixels 6 and 7 of the file
        assert (edge[..., 3] > 0).all() and (edge[..., 3] < 255).all()
        # Within two levels: colours are stored times their transparency of half.
        assert np.abs(edge[..., :3].astype(int) - (200, 40, 40)).max() <= 2
    batches.close()
