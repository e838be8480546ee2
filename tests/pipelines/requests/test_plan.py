import json

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.build import network
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.configs import conditions
from simple_diffusion.core import images
from simple_diffusion.core.types import Request
from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.text import words
from simple_diffusion.pipelines.requests.plan import read_plan
from tests.build.every_key import tiny

SIDE = 8
NAMES = scenes.CATEGORY_NAMES
LEXICON = Lexicon(
    words.make_tokenizer(["a red boat on the left", "two green trees"]),
    {"layout": NAMES, "semantic": NAMES},
)
SECTIONS = {
    "text": conditions.text(6),
    "layout": conditions.layout(len(NAMES)),
    "semantic": conditions.semantic(len(NAMES)),
    "low_resolution": conditions.low_resolution(2),
    "inpainting": conditions.inpainting(),
    "image": conditions.image("depth"),
    "vector": conditions.vector("camera", 3),
}


def config_with(*names, classes=0, **sample):
    config = tiny()
    config.data.num_classes = classes
    for name in names:
        config.conditions[name] = SECTIONS[name].copy_and_resolve_references()
    config.sample.update(sample)
    return config


def plan_of(config, classes=(), **arguments):
    net = network.build_network(config, len(classes))
    return read_plan(config, net, classes, LEXICON, **arguments)


def write_png(path, array):
    Image.fromarray(np.asarray(array)).save(path)
    return str(path)


def test_without_conditions_the_classes_repeat_in_turn():
    config = config_with(classes=3, count=5)
    plan = plan_of(config, ("a", "b", "c"))
    np.testing.assert_array_equal(plan.request.label, [0, 1, 2, 0, 1])
    assert plan.request.fields == {} and plan.prompts == () == plan.titles


def test_prompts_repeat_in_turn_and_equal_ones_are_one_group():
    config = config_with("text", prompts="a red boat; two trees; a red boat", count=4)
    plan = plan_of(config)
    assert plan.prompts == ("a red boat", "two trees", "a red boat", "a red boat")
    np.testing.assert_array_equal(plan.groups, [0, 1, 0, 0])
    ids = LEXICON.tokenizer.encode(plan.prompts, 6).ids
    np.testing.assert_array_equal(plan.request.fields["text"], ids)


def test_each_condition_repeats_its_own_values_in_turn(tmp_path):
    layout = tmp_path / "boxes.json"
    box = {"class": "car", "box": [0, 0, 0.5, 1]}
    layout.write_text(json.dumps([[box], []]))
    config = config_with("text", "layout", prompts="a; b; c", layout=str(layout))
    config.sample.count = 6
    fields = plan_of(config).request.fields
    present = fields["layout.present"]
    np.testing.assert_array_equal(present.sum(1), [1, 0] * 3)
    np.testing.assert_array_equal(fields["text"][:3], fields["text"][3:])
    assert fields["layout.category"][0, 0] == NAMES.index("car")
    np.testing.assert_array_equal(fields["layout.boxes"][0, 0], [0, 0, 0.5, 1])


def test_the_classes_are_none_where_other_conditions_are_asked_for():
    config = config_with("text", classes=3, prompts="a", count=2)
    names = ("a", "b", "c")
    assert plan_of(config, names).request.label.tolist() == [3, 3]
    config.sample.classes = "b"
    assert plan_of(config, names).request.label.tolist() == [1, 1]


def test_a_palette_image_holds_the_classes_of_its_pixels(tmp_path):
    ids = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % len(NAMES)
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(tmp_path / "map.png")
    config = config_with("semantic", map=str(tmp_path / "map.png"), count=1)
    plan = plan_of(config)
    np.testing.assert_array_equal(plan.request.fields["semantic"][0], ids)
    assert plan.titles == ("map",)


def test_a_folder_of_maps_is_in_the_order_of_their_names(tmp_path):
    for k, name in enumerate(("b", "a")):
        write_png(tmp_path / f"{name}.png", np.full((SIDE, SIDE), k, np.uint8))
    plan = plan_of(config_with("semantic", map=str(tmp_path), count=2))
    np.testing.assert_array_equal(plan.request.fields["semantic"][:, 0, 0], [1, 0])
    assert plan.titles == ("a", "b")


def test_a_measure_is_scaled_and_integers_are_shares_of_its_range(tmp_path):
    config = config_with("image", count=1)
    config.conditions.image.update(low=2.0, high=6.0)
    depth = np.linspace(2, 6, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    np.save(tmp_path / "depth.npy", depth)
    config.sample.map = str(tmp_path / "depth.npy")
    found = plan_of(config).request.fields["image"]
    np.testing.assert_allclose(found[0, ..., 0], (depth - 4) / 2, atol=1e-6)
    full = np.full((SIDE, SIDE), 65535, np.uint16)
    config.sample.map = write_png(tmp_path / "far.png", full)
    np.testing.assert_allclose(plan_of(config).request.fields["image"], 1, atol=1e-6)
    fifth = np.full((SIDE, SIDE), 13107, np.uint16)  # of the range of the file
    config.sample.map = write_png(tmp_path / "near.png", fifth)
    found = plan_of(config).request.fields["image"]
    np.testing.assert_allclose(found, -0.6, atol=1e-4)


def test_two_maps_are_told_apart_by_their_conditions(tmp_path):
    ids = write_png(tmp_path / "ids.png", np.ones((SIDE, SIDE), np.uint8))
    np.save(tmp_path / "depth.npy", np.ones((SIDE, SIDE), np.float32))
    text = f"semantic={ids}; image={tmp_path}/depth.npy"
    fields = plan_of(config_with("semantic", "image", map=text)).request.fields
    assert (fields["semantic"] == 1).all() and (fields["image"] == 1).all()


def test_small_images_are_enlarged_and_told_their_noise():
    config = config_with("low_resolution", count=1)
    small = np.full((4, 4, 3), 51, np.uint8)
    fields = plan_of(config, given={"low_resolution": small}).request.fields
    grey = np.asarray(images.to_unit_range(small))[0, 0, 0]
    assert fields["low_resolution.image"].shape == (1, SIDE, SIDE, 3)
    np.testing.assert_allclose(fields["low_resolution.image"], grey, atol=1e-6)
    assert fields["low_resolution.logsnr"] == np.inf


def test_noise_of_a_small_image_has_the_variance_of_its_level():
    config = config_with("low_resolution", count=200)
    config.conditions.low_resolution.augmentation = 0.5
    # At time 1/3 of the cosine schedule, sigma is sin(pi / 6) = 1/2.
    config.sample.low_resolution_noise = 1 / 3
    small = np.full((200, 4, 4, 3), 255, np.uint8)
    fields = plan_of(config, given={"low_resolution": small}).request.fields
    # Without the filter of the enlargement: the mean of all pixels is kept by it.
    mean = fields["low_resolution.image"].mean((1, 2, 3))
    assert mean.mean() == pytest.approx(np.sqrt(3) / 2, abs=0.02)
    # 48 independent values of variance 1/4; a share of the filter is cut at borders.
    assert mean.std() == pytest.approx(0.5 / np.sqrt(48), rel=0.2)


def test_a_hole_mask_may_be_a_file_a_shape_or_an_array(tmp_path):
    hole = np.zeros((SIDE, SIDE), bool)
    hole[2:6, 2:6] = True
    file = write_png(tmp_path / "hole.png", hole.astype(np.uint8) * 255)
    photo = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    config = config_with("inpainting", count=1)
    for mask in (hole, file, "box:4x4", [hole]):
        given = {"image": photo, "hole_mask": mask}
        fields = plan_of(config, given=given).request.fields
        np.testing.assert_array_equal(fields["inpainting.mask"][0], hole)
        back = images.to_uint8(fields["inpainting.image"])[0]
        np.testing.assert_array_equal(back, photo)


def test_numbers_of_several_images_are_separated():
    config = config_with("vector", vector="1,2,3; 4,5,6", count=2)
    found = plan_of(config).request.fields["vector"]
    np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6]])


def test_one_image_per_value_if_asked_for():
    config = config_with("vector", count=64)
    plan = plan_of(config, given={"vector": np.eye(3)}, counts_values=True)
    assert len(plan.request.label) == 3


def test_without_values_the_held_out_examples_decide():
    config = config_with("text", count=3)
    ids = LEXICON.tokenizer.encode(["a red boat", "", "two green trees"], 6).ids

    def examples(count, size):
        assert (count, size) == (3, (SIDE, SIDE))
        return Request(np.array([5, 6, 7]), {"text": ids})

    plan = plan_of(config, examples=examples)
    np.testing.assert_array_equal(plan.request.fields["text"], ids)
    assert plan.prompts == ("a red boat", "", "two green trees")
    assert plan.request.label.tolist() == [0, 0, 0]


def bad_layout(tmp_path, value):
    path = tmp_path / "layout.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return config_with("layout", layout=str(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is not JSON"),
        (3, "must be a list of objects"),
        ([{"class": "car"}], "must be a list of objects"),
        ([{"class": "unicorn", "box": [0, 0, 1, 1]}], "'unicorn'; known are.*car"),
        ([{"class": 99, "box": [0, 0, 1, 1]}], "99; known are 0 to 17"),
        ([{"class": 1, "box": [0.5, 0, 0.5, 1]}], "y0 < y1"),
        ([{"class": 1, "box": [0, 0, 2, 1]}], "between 0 and 1"),
        ([{"class": 1, "box": [0, "x", 1, 1]}], "four numbers"),
    ],
)
def test_a_bad_layout_is_an_error_that_says_what_is_valid(tmp_path, value, message):
    with pytest.raises(ValueError, match=rf"(?s)sample\.layout.*{message}"):
        plan_of(bad_layout(tmp_path, value))


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ((), {"prompts": "a"}, r"sample\.prompts=.* is for .* conditions\.text"),
        (("text",), {"layout": "x"}, r"sample\.layout=.* is for .* conditions\.layout"),
        (("text",), {}, r"sample\.prompts must be set"),
        (("inpainting",), {"hole_mask": "box:2x2"}, r"sample\.image must be set"),
        (("semantic",), {"map": "/no/such.png"}, r"sample\.map=.* does not exist"),
        (("semantic",), {"map": np.zeros((4, 4), int)}, r"sample\.map: .* is 4x4, and"),
        (("semantic",), {"map": np.full((8, 8), 18)}, r"sample\.map: .* class 18"),
        (("low_resolution",), {"low_resolution": np.zeros((8, 8, 3), np.uint8)}, "16"),
        (("vector",), {"vector": "1,2"}, r"sample\.vector=1,2 must be 3 numbers"),
        (("vector",), {"vector": "1,2,nan"}, r"must be 3 numbers"),
        (("image",), {"map": np.zeros((8, 8, 2), np.float32)}, "2 channels"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(names, given, message):
    with pytest.raises(ValueError, match=message):
        plan_of(config_with(*names), given=given)


def test_noise_beyond_that_of_the_training_is_an_error():
    config = config_with("low_resolution", low_resolution_noise=0.5)
    config.conditions.low_resolution.augmentation = 0.25
    with pytest.raises(ValueError, match=r"augmentation=0\.25"):
        plan_of(config, given={"low_resolution": np.zeros((4, 4, 3), np.uint8)})


def test_more_boxes_than_the_maximum_keep_the_largest():
    config = config_with("layout", count=1)
    config.conditions.layout.objects = 2
    boxes = [[0, 0, s, s] for s in (0.2, 0.9, 0.5)]
    layout = [{"class": 0, "box": box} for box in boxes]
    found = plan_of(config, given={"layout": layout}).request.fields
    np.testing.assert_allclose(found["layout.boxes"][0, :, 2], [0.9, 0.5])


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("text", {"prompts": []}),
        ("low_resolution", {"low_resolution": []}),
        ("semantic", {"map": []}),
        ("inpainting", {"image": [], "hole_mask": "box:2x2"}),
    ],
)
def test_an_empty_list_is_an_error(name, given):
    with pytest.raises(ValueError, match=r"sample\.\w+ holds no value"):
        plan_of(config_with(name), given=given)


def test_masks_may_be_paths(tmp_path):
    hole = np.zeros((SIDE, SIDE), np.uint8)
    hole[2:6] = 255
    path = tmp_path / "hole.png"
    write_png(path, hole)
    given = {"image": np.zeros((SIDE, SIDE, 3), np.uint8)}
    for mask in (path, [path], [str(path)]):
        plan = plan_of(
            config_with("inpainting", count=1), given=given | {"hole_mask": mask}
        )
        np.testing.assert_array_equal(
            plan.request.fields["inpainting.mask"][0], hole > 0
        )
