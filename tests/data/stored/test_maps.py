import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.stored import maps

KINDS = [
    (np.int32, 1, 0, 255),
    (np.int32, 1, 0, 65_535),
    (np.int32, 1, -1, 70_000),
    (np.int64, 2, -5, 5),
    (np.uint8, 1, 0, 255),
    (np.uint8, 3, 0, 255),
    (np.uint8, 4, 0, 255),
    (np.uint16, 1, 0, 65_535),
    (np.bool_, 1, 0, 1),
    (np.float32, 1, -2, 2),
]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(KINDS))
def test_an_encoded_map_is_decoded_to_the_same_values_and_type(data, kind):
    dtype, channels, low, high = kind
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    if dtype == np.float32:
        numbers, elements = np.float32, st.floats(low, high, width=32)
    else:
        numbers, elements = np.int64, st.integers(low, high)
    drawn = data.draw(hnp.arrays(numbers, (*shape, channels), elements=elements))
    values = drawn.astype(dtype)
    again = maps.decode_map(maps.encode_map(values), "1.png", "depth", shape)
    assert again.dtype == values.dtype and again.shape == values.shape
    assert (again == values).all()


def encode(image: Image.Image, kind="PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_class_ids_are_the_numbers_of_a_palette_and_not_its_colours():
    ids = np.array([[0, 7], [200, 7]], np.uint8)
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.reshape(-1).tolist())
    image.putpalette([(k * 37) % 256 for k in range(768)])
    found = maps.decode_map(encode(image), "1.png", "semantic")
    assert found.dtype == np.int32 and (found[..., 0] == ids).all()


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 255], [3, 4]], np.uint8),
        np.array([[0, 65_535], [256, 4]], np.uint16),
        np.array([[True, False], [False, True]]),
    ],
)
def test_one_channel_of_integers_keeps_its_numbers(values):
    found = maps.decode_map(encode(Image.fromarray(values)), "1.png", "semantic")
    assert found.dtype == np.int32 and found.shape == (2, 2, 1)
    assert (found[..., 0] == values).all()


def test_a_colour_image_is_a_picture_on_white():
    clear = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    found = maps.decode_map(encode(clear), "1.png", "sketch")
    assert found.dtype == np.uint8 and found.shape == (2, 3, 3)
    assert (found == 255).all()


def test_a_map_of_floats_keeps_them():
    depth = np.array([[0.25, -3.5]], np.float32)
    found = maps.decode_map(encode(Image.fromarray(depth), "TIFF"), "1.png", "depth")
    assert found.dtype == np.float32 and (found[..., 0] == depth).all()


def test_an_array_file_may_have_no_channel_axis():
    file = io.BytesIO()
    np.save(file, np.arange(6, dtype=np.float16).reshape(2, 3))
    found = maps.decode_map(file.getvalue(), "1.png", "depth")
    assert found.shape == (2, 3, 1) and found.dtype == np.float16


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "encoded, said",
    [
        (b"no image", "map depth: not an image"),
        (encode(Image.new("L", (30, 30)))[:50], "map depth: .*truncated"),
        (encode(Image.new("RGB", (9, 9), "red"))[:50], "map depth: .*truncated"),
        (pickled(), "map depth: .*allow_pickle"),
        (encode(Image.new("L", (4, 5))), "map depth: has 5x4 pixels.*has 8x8"),
    ],
)
def test_a_bad_map_makes_the_image_bad_and_is_named(encoded, said):
    with pytest.raises(BadImage, match=f"^photo.jpg: {said}"):
        maps.decode_map(encoded, "photo.jpg", "depth", (8, 8))
