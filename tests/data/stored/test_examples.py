import io

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data import patches
from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.stored import examples, maps

SIZE = (32, 48)


def make(orientation=1, **fields):
    """Returns an example: red shows the row, green the column, and so does a map."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ids = (rows * SIZE[1] + columns).astype(np.int32)
    shown = np.stack([rows * 7, columns * 5, 0 * rows], -1).astype(np.uint8)
    image, file, exif = Image.fromarray(shown), io.BytesIO(), Image.Exif()
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    file.seek(0)
    encoded = {"ids": maps.encode_map(ids[..., None])}
    return examples.StoredExample(file, "1.png", **({"maps": encoded} | fields))


def distance(example) -> float:
    """Returns how many pixels the places that image and map show are apart."""
    shown = example.image[..., :2] / (7, 5)
    marked = np.concatenate(np.divmod(example.maps["ids"], SIZE[1]), -1)
    return float(np.abs(shown - marked).max())


@pytest.mark.parametrize("orientation", [1, 6])
def test_maps_are_those_of_the_image_as_a_viewer_shows_it(orientation):
    example = examples.read(make(orientation), 100)
    assert example.image.shape[:2] == SIZE
    assert distance(example) == 0


@pytest.mark.parametrize("orientation", [1, 6])
def test_maps_are_reduced_with_the_image(orientation):
    example = examples.read(make(orientation), 4)
    assert example.image.shape == (8, 12, 3)
    assert example.maps["ids"].shape == (8, 12, 1)
    assert distance(example) < 1  # the middle of 4 pixels lies between two


def test_a_crop_box_cuts_maps_and_boxes_as_the_image():
    # In pixels, the first box is the crop box itself, and the second lies outside.
    boxes = examples.Boxes([[8, 16, 24, 40], [0, 0, 8, 8]], [3, 4], True)
    example = examples.read(make(boxes=boxes), 100, (8, 16, 24, 40))
    assert example.image.shape == (16, 24, 3)
    assert distance(example) == 0
    np.testing.assert_allclose(example.objects.box, [[0, 0, 1, 1]], atol=1e-6)
    assert example.objects.category.tolist() == [3]


@pytest.mark.parametrize("crop_box", [None, (0, 8, 32, 40)])
@pytest.mark.parametrize("position", range(6))
def test_a_crop_shows_the_same_part_in_all_fields(position, crop_box):
    distribution = patches.PatchDistribution(16, 16, 32, flip=True)
    boxes = examples.Boxes([[0, 0, 1, 1]], [0], False)

    def choose(height, width):
        return distribution.choose_crop(distribution.draw(0, position), height, width)

    example, crop = examples.read_crop(make(boxes=boxes), choose, crop_box)
    assert example.image.shape[:2] == example.maps["ids"].shape[:2] == crop.size
    assert distance(example) < 1.5


def test_without_spatial_fields_only_the_image_is_read():
    stored = make(maps={}, caption="a tree", vectors={"camera": np.ones(3)})
    example = examples.read(stored, 100)
    assert (example.caption, example.objects, example.maps) == ("a tree", None, {})
    assert example.vectors["camera"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "caption, said",
    [
        (None, "missing"),
        ("", "empty"),
        (" \n", "empty"),
        (b"caf\xe9", "not valid UTF-8"),
        ("caf\udce9", "not valid UTF-8"),
        (b"\xef\xbb\xbf", "empty"),
    ],
)
def test_a_bad_caption_makes_the_image_bad(caption, said):
    with pytest.raises(BadImage, match=f"^1.png: caption: {said}"):
        examples.check_caption(caption, "1.png")


@pytest.mark.parametrize("caption", ["é", "a" * 20_000, "two\nlines", "😀"])
def test_a_caption_may_be_any_text(caption):
    assert examples.check_caption(caption, "1.png") == caption
    assert examples.check_caption(f" {caption}\n".encode(), "1.png") == caption


def test_boxes_in_pixels_become_boxes_in_units_of_the_image():
    boxes = examples.Boxes([[0, 12, 16, 48], [-0.4, 0, 32.9, 24]], [1, 0], True)
    found = examples.check_boxes(boxes, SIZE, "1.png")
    np.testing.assert_allclose(found.box, [[0, 0.25, 0.5, 1], [0, 0, 1, 0.5]])
    assert found.category.tolist() == [1, 0]
    assert len(examples.check_boxes(examples.Boxes([], [], True), SIZE, "").box) == 0


@pytest.mark.parametrize(
    "box, category, said",
    [
        ([[5, 5, 5, 9]], [0], "box 0, .*5, 5, 5, 9.* inverted or empty"),
        ([[0, 0, 4, 4], [5, 9, 8, 6]], [0, 1], "box 1, .* inverted or empty"),
        ([[0, 0, 4, float("nan")]], [0], "box 0, .* inverted or empty"),
        ([[0, 0, 40, 4]], [0], "box 0, .* outside of the image"),
        ([[-9, 0, 4, 4]], [0], "box 0, .* outside of the image"),
        ([[0, 0, 4, 4]], [-1], "class -1 is out of range"),
        ([[0, 0, 4, 4]], [10**9], "class 1000000000 is out of range"),
        ([[0, 0, 4, 4]], [], "1 boxes, but 0 classes"),
        ([["a", 0, 4, 4]], [0], "not boxes of numbers"),
    ],
)
def test_a_bad_box_makes_the_image_bad(box, category, said):
    boxes = examples.Boxes(box, category, True)
    with pytest.raises(BadImage, match=f"^1.png: objects: {said}"):
        examples.read(make(boxes=boxes), 100)


def test_a_map_of_another_size_makes_the_image_bad():
    wrong = {"ids": maps.encode_map(np.zeros((32, 47, 1), np.int32))}
    with pytest.raises(BadImage, match="^1.png: map ids: has 32x47 .* image has 32x48"):
        examples.read(make(maps=wrong), 4)
