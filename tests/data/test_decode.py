import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data, resolution=64):
    return decode.decode(io.BytesIO(data), "x.img", resolution)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "TGA"])
def test_rgb_of_a_lossless_format_comes_back_exactly(kind):
    assert (decoded(encoded(COLOURS, kind)) == COLOURS).all()


def test_grey_becomes_three_equal_channels():
    grey = COLOURS[..., 0]
    assert (decoded(encoded(grey)) == grey[..., None]).all()


def test_one_bit_becomes_black_and_white():
    bits = Image.fromarray(COLOURS[..., 0] > 127)
    result = decoded(encoded(bits))
    assert (result == np.where(COLOURS[..., :1] > 127, 255, 0)).all()


def test_a_palette_is_looked_up():
    image = Image.fromarray(COLOURS[:2, :2]).quantize(4)
    assert (decoded(encoded(image)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(kind):
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    result = decoded(encoded(grey, kind))
    assert result[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_are_shown_from_darkest_to_brightest():
    image = np.array([[-1.0, 0.0, 1.0]], np.float32)
    assert decoded(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_shows_white():
    image = np.zeros((1, 3, 4), np.uint8)
    image[0, :, 0] = 255
    image[0, :, 3] = 0, 128, 255
    result = decoded(encoded(image))[0].astype(int)
    expected = np.array([[255, 255, 255], [255, 127, 127], [255, 0, 0]])
    assert np.abs(result - expected).max() <= 1


def test_a_transparent_colour_of_a_palette_shows_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([200, 10, 10, 10, 200, 10])
    for kind in ("PNG", "GIF"):
        result = decoded(encoded(image, kind, transparency=0))
        assert result[0].tolist() == [[255, 255, 255], [10, 200, 10]]


def test_cmyk_becomes_the_colours_it_prints():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0] = 255  # cyan
    image = Image.fromarray(inks, "CMYK")
    for kind in ("TIFF", "JPEG"):
        result = decoded(encoded(image, kind)).astype(int)
        assert np.abs(result - [0, 255, 255]).max() <= 3


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (5, 4), c) for c in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        result = decoded(data).astype(int)
        assert np.abs(result - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_exif_orientation_is_carried_out(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(COLOURS, kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (decoded(data) == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif_data_are_passed_over(kind):
    data = encoded(COLOURS, kind, exif=b"Exif\0\0neither II nor MM")
    assert decoded(data).shape == COLOURS.shape


def test_a_large_image_is_reduced_but_keeps_twice_what_is_needed():
    ramp = np.linspace(0, 255, 1600)[None, :, None] * np.ones((1200, 1, 3))
    for kind in ("JPEG", "PNG"):
        result = decoded(encoded(ramp.astype(np.uint8), kind), resolution=100)
        h, w, _ = result.shape
        assert 200 <= h < 600 and abs(w - h * 4 / 3) <= 1
        middle = result[h // 2, :, 0].astype(float)
        expected = (np.arange(w) + 0.5) / w * 255
        assert np.abs(middle - expected).max() < 3


def test_an_image_one_pixel_wide_is_an_image():
    line = COLOURS[:, :1]
    assert (decoded(encoded(line)) == line).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_image_is_named(kind):
    data = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(BadImage, match=r"x\.img: .+"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<html>not found</html>"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(BadImage, match=r"x\.img: not an image"):
        decoded(data)


WHOLE = [
    encoded(COLOURS, kind, **options)
    for kind, options in [
        ("PNG", {}),
        ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("GIF", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ]
]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_whatever_the_bytes_there_is_an_image_or_a_bad_image(data, changes):
    data = bytearray(data)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        result = decoded(bytes(data))
    except BadImage:
        return
    assert result.dtype == np.uint8 and result.shape[2] == 3


def test_grey_is_that_of_the_colours_and_transparency_is_kept_if_asked():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    pixels[0, 0, 3] = 0
    image = Image.fromarray(pixels)
    assert (decoded_png(image, channels=4) == pixels).all()
    on_white = decoded_png(image)
    grey = decoded_png(image, channels=1)
    assert grey.shape == (9, 7, 1)
    luma = np.asarray(Image.fromarray(on_white).convert("L"))
    assert (grey[..., 0] == luma).all() and grey[0, 0] == 255
    assert (decode.from_rgb(on_white, 1) == grey).all()
    opaque = decoded_png(Image.fromarray(on_white), channels=4)
    assert (opaque == decode.from_rgb(on_white, 4)).all()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_parts_have_as_many_channels_as_asked(channels, kind):
    image = Image.fromarray(np.full((40, 30, 3), 200, np.uint8))
    file = io.BytesIO()
    image.save(file, kind)

    def choose(h, w):
        return transforms.Crop((4, 2, 24, 22), (5, 5), False, "area", (0, 0, 1, 1), "")

    part, _ = decode.decode_crop(file, "it", choose, channels=channels)
    assert part.shape == (5, 5, channels)
    assert (part[..., : min(channels, 3)] == 200).all() and (part[..., 3:] == 255).all()


def decoded_png(image, **options):
    file = io.BytesIO()
    image.save(file, "png")
    return decode.decode(file, "it", 99, **options)
