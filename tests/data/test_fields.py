import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.data import fields, order, transforms
from simple_diffusion.data.errors import UnsuitableImage

H, W = 12, 20


def crop(rectangle, size, mirrored=False, resize="area"):
    return transforms.Crop(rectangle, size, mirrored, resize, (0.0, 0.0, 1.0, 1.0), "")


def example(**options):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    return Example(image, **options)


def objects(*boxes):
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes), dtype=np.int32),
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("resize", ["area", "antialias"])
def test_a_picture_among_the_maps_becomes_what_its_image_becomes(mirrored, resize):
    given_ = example()
    given_ = dataclasses.replace(given_, maps={"copy": given_.image})
    for options in ({"crop": "center"}, {"crop": "random"}):
        chosen = transforms.choose_crop(
            H, W, order.make_generator(1, 2), size=(6, 8), resize=resize, **options
        )._replace(mirrored=mirrored)
        image = transforms.apply_crop(given_.image, chosen)
        found = fields.crop_fields(given_, chosen, H, W)
        assert (found.maps["copy"] == image).all()
        assert found.image is given_.image
    part = crop((1.5, 2, 9.5, 18), (6, 8), mirrored, resize)
    image = transforms.apply_crop(given_.image, part)
    assert (fields.crop_fields(given_, part, H, W).maps["copy"] == image).all()


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 30), st.integers(1, 30))
def test_class_ids_are_never_mixed_and_follow_the_centres_of_pixels(at, h, w):
    y, x = sorted((at[0] * (H - 2), at[1] * (H - 2))), sorted((at[2] * W, at[3] * W))
    rectangle = y[0], x[0], y[1] + 1, min(x[1] + 1, W)
    ids = 1000 * np.arange(H)[:, None] + np.arange(W)  # a class for each pixel
    given_ = example(maps={"semantic": ids[..., None].astype(np.int32)})
    found = fields.crop_fields(given_, crop(rectangle, (h, w)), H, W).maps["semantic"]
    rows, columns = np.divmod(found[..., 0], 1000)
    y = rectangle[0] + (np.arange(h) + 0.5) / h * (rectangle[2] - rectangle[0])
    x = rectangle[1] + (np.arange(w) + 0.5) / w * (rectangle[3] - rectangle[1])
    assert np.abs(rows + 0.5 - y[:, None]).max() <= 0.5 + 1e-6
    assert np.abs(columns + 0.5 - x).max() <= 0.5 + 1e-6
    mirrored = fields.crop_fields(given_, crop(rectangle, (h, w), True), H, W)
    assert (mirrored.maps["semantic"] == found[:, ::-1]).all()


def test_a_measure_is_averaged_and_stays_within_its_range():
    depth = np.random.default_rng(0).random((H, W, 1), np.float32)
    given_ = example(maps={"depth": depth})
    found = fields.crop_fields(given_, crop((0, 0, H, W), (3, 5)), H, W).maps["depth"]
    means = depth.reshape(3, 4, 5, 4, 1).mean((1, 3))
    # Pillow leaves out a thousandth of a pixel at the edges (transforms._EDGE_SHIFT).
    np.testing.assert_allclose(found, means, atol=2e-3)
    step = (depth > 0.5).astype(np.float32)
    sharp = crop((0, 0, H, W), (7, 9), resize="antialias")
    found = fields.crop_fields(example(maps={"depth": step}), sharp, H, W)
    assert found.maps["depth"].min() >= 0 and found.maps["depth"].max() <= 1


def test_boxes_enclose_what_they_enclosed_before():
    # Each object is a rectangle of a map; its box is compared with the map's.
    ids = np.zeros((H, W, 1), np.int32)
    ids[2:6, 4:12] = 1
    box = objects((2 / H, 4 / W, 6 / H, 12 / W))
    for mirrored in (False, True):
        part = crop((1, 2, 11, 18), (20, 32), mirrored)
        found = fields.crop_fields(example(maps={"a": ids}, objects=box), part, H, W)
        rows, columns = np.nonzero(found.maps["a"][..., 0])
        ends = rows.min() / 20, columns.min() / 32, (rows.max() + 1) / 20
        assert found.objects is not None
        np.testing.assert_allclose(
            found.objects.box[0], (*ends, (columns.max() + 1) / 32), atol=1e-6
        )


def test_mirroring_twice_gives_the_same_boxes():
    boxes = objects((0.1, 0.2, 0.5, 0.9), (0.0, 0.0, 1.0, 0.3))
    full = 0.0, 0.0, 1.0, 1.0
    once = fields.crop_objects(boxes, full, mirrored=True)
    assert not np.allclose(once.box, boxes.box)
    twice = fields.crop_objects(once, full, mirrored=True)
    np.testing.assert_allclose(twice.box, boxes.box, atol=1e-6)
    assert (twice.category == boxes.category).all()


def test_an_object_is_dropped_when_less_than_the_stated_fraction_is_left():
    share = fields.MIN_VISIBLE
    window = 0.0, 0.5, 1.0, 1.0
    boxes = objects(
        (0.0, 0.5 - 0.4 * (1 - share) + 0.004, 1.0, 0.5 + 0.4 * share + 0.004),
        (0.0, 0.5 - 0.4 * (1 - share) - 0.004, 1.0, 0.5 + 0.4 * share - 0.004),
        (0.0, 0.0, 1.0, 0.5),  # touches the part
    )
    found = fields.crop_objects(boxes, window)
    assert found.category.tolist() == [0]
    expected = (0.0, 0.0, 1.0, 2 * (0.4 * share + 0.004))
    np.testing.assert_allclose(found.box, [expected], atol=1e-6)


def test_a_portrait_image_is_turned_with_its_maps_and_boxes():
    image = np.zeros((W, H, 3), np.uint8)
    image[2:8, 1:4] = 255
    box = objects((2 / W, 1 / H, 8 / W, 4 / H))
    upright = Example(image, maps={"copy": image[..., :1]}, objects=box)
    turned = fields.turn_portrait(upright)
    assert turned.image.shape == (H, W, 3)
    y0, x0, y1, x1 = np.round(turned.objects.box[0] * (H, W, H, W)).astype(int)
    inside = np.zeros((H, W), bool)
    inside[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(turned.image[..., 0] == 255, inside)
    np.testing.assert_array_equal(turned.maps["copy"][..., 0] == 255, inside)
    np.testing.assert_array_equal(np.rot90(turned.image, -1), image)
    assert turned.vectors[fields.PORTRAIT].tolist() == [1.0]


@pytest.mark.parametrize("size", [(H, W), (H, H)])
def test_an_image_that_is_not_higher_than_wide_is_only_flagged(size):
    given_ = dataclasses.replace(example(), image=np.ones((*size, 3), np.uint8))
    turned = fields.turn_portrait(given_)
    assert turned.image is given_.image
    assert turned.vectors[fields.PORTRAIT].tolist() == [0.0]


def test_swapping_sides_twice_changes_nothing_and_other_words_stay():
    captions = {
        "A red boat on the left.": "A red boat on the right.",
        "RIGHT of it, Left of me": "LEFT of it, Right of me",
        "the leftmost, on the right-hand side": "the rightmost, on the left-hand side",
        "a bright, leftover copyright": "a bright, leftover copyright",
    }
    for caption, mirrored in captions.items():
        assert fields.swap_sides(caption) == mirrored
        assert fields.swap_sides(mirrored) == caption


GOOD = example(
    caption="a boat",
    objects=objects((0.0, 0.0, 1.0, 1.005)),
    maps={
        "semantic": np.full((H, W, 1), -1, np.int32),
        "depth": np.zeros((2 * H, 2 * W - 1, 1), np.float32),
    },
    vectors={"camera": np.zeros(3, np.float32)},
)
WRONG = {
    "caption: empty": {"caption": " \n"},
    "caption: 10000 characters": {"caption": "word " * 2000},
    "caption: not valid Unicode": {"caption": "a\udcff"},
    r"objects: box \(0.5, 0, 0.2, 1\).*inverted": {
        "objects": objects((0.5, 0, 0.2, 1))
    },
    "objects: box .*nan.*outside": {"objects": objects((0, 0, np.nan, 1))},
    "objects: box .*outside": {"objects": objects((0, 0, 1, 1.5))},
    "objects: class 2, .* 0 to 1": {"objects": objects(*[(0, 0, 1, 1)] * 3)},
    "objects: boxes .* do not match": {
        "objects": Objects(np.zeros((2, 4), np.float32), np.zeros(1, np.int32))
    },
    r"map a: 12x19x1 values do not fit .* 12x20 pixels": {
        "maps": {"a": np.zeros((H, W - 1, 1), np.uint8)}
    },
    "map semantic: class 5, .* 0 to 4": {
        "maps": {"semantic": np.full((H, W, 1), 5, np.int32)}
    },
    "map semantic: class -2": {"maps": {"semantic": np.full((H, W, 1), -2, np.int64)}},
    "map depth: holds values that are not finite": {
        "maps": {"depth": np.full((H, W, 1), np.nan, np.float32)}
    },
    "vector camera: .*finite": {"vectors": {"camera": np.array([np.inf])}},
}
KNOWN = {"num_categories": 2, "map_classes": {"semantic": 5}}


@pytest.mark.parametrize("message", WRONG)
def test_a_bad_field_is_named(message):
    fields.check_example(GOOD, **KNOWN)
    wrong = dataclasses.replace(GOOD, **WRONG[message])
    with pytest.raises(UnsuitableImage, match=f"^{message}"):
        fields.check_example(wrong, **KNOWN)


@pytest.mark.parametrize(
    "field", ["caption", "objects", "map:semantic", "vector:camera"]
)
def test_a_missing_field_is_bad_only_if_it_is_wanted(field):
    bare = example()
    fields.check_example(bare)
    with pytest.raises(UnsuitableImage, match=f"^{field.replace(':', ' ')}: missing"):
        fields.check_example(bare, wanted=frozenset({"image", field}))
    kept = fields.select(GOOD, frozenset({field}))
    fields.check_example(kept, wanted=frozenset({field}))
    for other in {"caption", "objects", "map:semantic", "vector:camera"} - {field}:
        with pytest.raises(UnsuitableImage, match="missing"):
            fields.check_example(kept, wanted=frozenset({other}))


def test_a_map_of_another_size_than_its_stored_image_is_not_cropped():
    wrong = example(maps={"a": np.zeros((H, H, 1), np.uint8)})
    with pytest.raises(UnsuitableImage, match="map a: 12x12x1 values"):
        fields.crop_fields(wrong, crop((0, 0, 4, 4), (4, 4)), H, W)


def test_a_map_that_was_not_reduced_with_its_image_shows_the_same_part():
    ids = np.arange(H * W, dtype=np.int32).reshape(H, W, 1)
    large = ids.repeat(3, 0).repeat(3, 1)
    part = crop((2, 4, 10, 16), (8, 12))
    small = fields.crop_fields(example(maps={"a": ids}), part, H, W).maps["a"]
    found = fields.crop_fields(example(maps={"a": large}), part, H, W).maps["a"]
    assert (found == small).all() and (small == ids[2:10, 4:16]).all()
