import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from simple_diffusion.data import decode, transforms
from simple_diffusion.data.errors import BadImage, DataError, UnsuitableImage
from tests.data.test_decode import COLOURS, WHOLE, decoded, encoded

RNG = np.random.default_rng(1)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
    (240, 180), Image.Resampling.BICUBIC
)


def crop(rectangle, size, mirrored=False):
    rectangle = tuple(map(float, rectangle))
    box = (0.0, 0.0, 1.0, 1.0)
    return transforms.Crop(rectangle, size, mirrored, "antialias", box, "")


def part(data, rectangle, size, crop_box=None):
    """Returns a part, and the height and width that it was chosen by."""
    asked = []

    def choose(h, w):
        asked.append((h, w))
        return crop(rectangle, size)

    pixels, _ = decode.decode_crop(io.BytesIO(data), "x.img", choose, crop_box)
    return pixels, asked[0]


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_part_is_what_is_cut_out_of_the_decoded_image(kind, mode):
    data = encoded(SMOOTH.convert(mode), kind)
    whole = decoded(data, resolution=1000)
    pixels, size = part(data, (11, 7, 59, 79), (48, 72))
    assert size == (180, 240)
    assert (pixels == whole[11:59, 7:79]).all()


@pytest.mark.parametrize(
    "mode, options",
    [("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0})],
)
def test_a_part_of_any_kind_of_jpeg_is_cut_out_of_what_a_viewer_shows(mode, options):
    data = encoded(SMOOTH.convert(mode), "JPEG", **options)
    whole = decoded(data, resolution=1000)
    assert (part(data, (20, 30, 80, 90), (60, 60))[0] == whole[20:80, 30:90]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_part_is_chosen_in_the_image_as_a_viewer_shows_it(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(SMOOTH, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    pixels, size = part(data, (10, 20, 50, 80), (40, 60))
    assert size == shown.shape[:2]
    assert difference(pixels, shown[10:50, 20:80]) == 0


@pytest.mark.parametrize("pixels, scale", [(1, 1), (3.9, 1), (4, 2), (8, 4), (40, 8)])
def test_a_jpeg_is_decoded_at_the_scale_that_the_part_allows(
    pixels, scale, monkeypatch
):
    # Two pixels are left for each of the part.
    seen = []
    loaded = decode._load
    monkeypatch.setattr(
        decode, "_load", lambda image, c: seen.append(image.size) or loaded(image, c)
    )
    data = encoded(SMOOTH.resize((481, 323)), "JPEG")
    part(data, (0, 0, 160 * pixels / 40, 160 * pixels / 40), (4, 4))
    assert seen == [(-(-481 // scale), -(-323 // scale))]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(40, 200),
    st.integers(40, 200),
    st.integers(8, 40),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(["JPEG", "PNG"]),
)
def test_parts_fit_together_at_every_scale(height, width, h, at, kind):
    """A part of the image at some size is that part of the whole at this size."""
    data = encoded(SMOOTH.resize((width, height)), kind)
    w = max(8, round(h * width / height))
    whole, _ = part(data, (0, 0, height, width), (h, w))
    y, x = (round(v * (n - 8)) for v, n in zip(at, (h, w), strict=True))
    rows, columns = height / h, width / w
    rectangle = y * rows, x * columns, (y + 8) * rows, (x + 8) * columns
    pixels, _ = part(data, rectangle, (8, 8))
    assert difference(pixels, whole[y : y + 8, x : x + 8]) <= 1


def test_a_part_of_a_reduced_jpeg_looks_like_that_part():
    data = encoded(SMOOTH, "JPEG", quality=95)
    for size in (90, 45, 22, 11):
        pixels, _ = part(data, (0, 0, 180, 180), (size, size))
        square = SMOOTH.crop((0, 0, 180, 180))
        expected = square.resize((size, size), Image.Resampling.LANCZOS)
        assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 2


def test_what_is_unfit_is_named():
    def choose(h, w):
        raise UnsuitableImage(f"{h}x{w} pixels are too few")

    for kind in ("JPEG", "PNG"):
        data = io.BytesIO(encoded(SMOOTH, kind))
        with pytest.raises(BadImage, match=r"x\.img: 180x240 pixels are too few"):
            decode.decode_crop(data, "x.img", choose)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_of_a_truncated_image_there_is_no_part(kind):
    data = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    for upper in (8, 64):  # even where the part itself would be there
        with pytest.raises(BadImage, match=r"x\.img: .+"):
            part(data[: len(data) // 2], (0, 0, upper, upper), (8, 8))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_whatever_the_bytes_there_is_a_part_or_a_bad_image(data, changes):
    data = bytearray(data)
    for place, value in changes:
        data[place % len(data)] = value

    def choose(h, w):
        if min(h, w) < 4:
            raise UnsuitableImage("too small")
        return crop((0, 0, h, w), (4, 4))

    try:
        pixels, _ = decode.decode_crop(io.BytesIO(bytes(data)), "x.img", choose)
    except BadImage:
        return
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_crop_box_is_cut_out_before_all_else(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(SMOOTH, kind, exif=exif)
    box = (10, 20, 110, 140)
    inside = decoded(data, resolution=1000)[10:110, 20:140]
    cut_out = encoded(inside, "PNG")

    def both(read):
        return read(data, box), read(cut_out, None)

    for resolution in (1000, 20):
        a, b = both(
            lambda d, box, r=resolution: decode.decode(io.BytesIO(d), "", r, box)
        )
        assert (a == b).all()
    # Nothing outside of the box takes part in what lies at its edge.
    for size in ((40, 48), (10, 12)):
        (a, seen), (b, _) = both(
            lambda d, box, s=size: part(d, (0, 0, 100, 120), s, box)
        )
        assert seen == (100, 120) and (a == b).all()


@pytest.mark.parametrize("box", [(0, 0, 13, 9), (0, 3, 12, 10)])
def test_a_crop_box_that_reaches_outside_makes_a_bad_image(box):
    data = encoded(COLOURS)
    message = r"x\.img: data\.crop_box=\(0, .* reaches outside of its 12x9 pixels"
    with pytest.raises(BadImage, match=message):
        decode.decode(io.BytesIO(data), "x.img", 8, box)
    with pytest.raises(BadImage, match=message):
        part(data, (0, 0, 4, 4), (4, 4), box)


@pytest.mark.parametrize(
    "box", [(), (0, 0, 4), (4, 0, 4, 8), (0, -1, 4, 8), (0, 9, 4, 8)]
)
def test_a_crop_box_that_is_none_is_an_error_that_names_the_key(box):
    with pytest.raises(
        DataError, match=r"data.crop_box=\(.*must be \(y0, x0, y1, x1\)"
    ):
        decode.check_box(box)


def test_a_crop_box_is_four_numbers_or_none():
    assert decode.check_box(None) is None
    assert decode.check_box((57, 25, 185, 153)) == (57, 25, 185, 153)
