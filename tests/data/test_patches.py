import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simple_diffusion.data import patches
from simple_diffusion.data.errors import DataError, UnsuitableImage

DISTRIBUTION = patches.PatchDistribution(patch=8, smallest=8, largest=16)


def crops(distribution, height, width, count=4000):
    return [
        distribution.choose_crop(distribution.draw(0, k), height, width)
        for k in range(count)
    ]


def whole(crop):
    """Returns height and width of the whole that a crop is a part of."""
    y0, x0, y1, x1 = crop.box
    h, w = crop.size[0] / (y1 - y0), crop.size[1] / (x1 - x0)
    assert abs(h - round(h)) < 1e-6 and abs(w - round(w)) < 1e-6
    return round(h), round(w)


def corner(crop):
    """Returns the offset of a patch in its whole, in pixels."""
    h, w = whole(crop)
    y, x = crop.box[0] * h, crop.box[1] * w
    assert abs(y - round(y)) < 1e-6 and abs(x - round(x)) < 1e-6
    return round(y), round(x)


def shorter_sides(distribution, height=512, width=512, count=4000):
    return np.array(
        [min(whole(crop)) for crop in crops(distribution, height, width, count)]
    )


distributions = st.builds(
    lambda patch, more, range_, **options: patches.PatchDistribution(
        patch,
        patch + more,
        None if range_ is None else patch + more + range_,
        **options,
    ),
    st.integers(1, 40),
    st.integers(0, 20),
    st.none() | st.integers(0, 100),
    probability_smallest=st.floats(0, 1),
    size_distribution=st.sampled_from(patches.SIZE_DISTRIBUTIONS),
    aspect=st.none() | st.floats(1, 4),
    crop=st.sampled_from(["center", "random"]),
    flip=st.booleans(),
)
seven = st.lists(st.floats(0, 1, exclude_max=True), min_size=7, max_size=7)


@settings(deadline=None, max_examples=1000, derandomize=True)
@given(distributions, seven, st.integers(0, 300), st.integers(0, 300))
def test_a_patch_is_inside_its_whole_and_the_image_and_never_enlarged(
    distribution, draws, more_rows, more_columns
):
    height, width = (
        distribution.smallest + more_rows,
        distribution.smallest + more_columns,
    )
    crop = distribution.choose_crop(np.array(draws), height, width)
    h, w = whole(crop)
    y, x = corner(crop)
    assert 0 <= y <= h - distribution.patch and 0 <= x <= w - distribution.patch
    assert (
        distribution.smallest
        <= min(h, w)
        <= min(distribution.largest or math.inf, height, width)
    )
    y0, x0, y1, x1 = crop.rectangle
    assert -1e-6 <= y0 < y1 <= height + 1e-6 and -1e-6 <= x0 < x1 <= width + 1e-6
    rows, columns = (y1 - y0) / distribution.patch, (x1 - x0) / distribution.patch
    assert rows >= 1 - 1e-6 and columns >= 1 - 1e-6
    if distribution.aspect is None:  # but for the rounding of the longer side
        np.testing.assert_allclose(w / h, width / height, atol=width / height / (h + w))
    else:
        assert abs(rows - columns) < 1e-6
        rounding = 0.5 / min(h, w)
        assert max(h / w, w / h) <= distribution.aspect + rounding + 1e-6


@settings(deadline=None, max_examples=300, derandomize=True)
@given(distributions, seven, st.integers(0, 300), st.integers(0, 300))
def test_a_mirrored_patch_shows_the_other_side_of_the_image(
    distribution, draws, more_rows, more_columns
):
    size = distribution.smallest + more_rows, distribution.smallest + more_columns
    distribution = dataclasses.replace(distribution, crop="center")
    plain = dataclasses.replace(distribution, flip=False).choose_crop(
        np.array(draws), *size
    )
    draws[4] = 0.0  # heads
    mirrored = dataclasses.replace(distribution, flip=True).choose_crop(
        np.array(draws), *size
    )
    assert mirrored.mirrored and not plain.mirrored
    # The box is of the mirrored whole, so mirroring does not change it.
    assert mirrored.box == plain.box
    y0, x0, y1, x1 = plain.rectangle
    # A whole with one column more on the one side than on the other is not symmetrical.
    odd = (size[1] - whole(plain)[1] * (x1 - x0) / distribution.patch) % 2
    expected = y0, size[1] - x1, y1, size[1] - x0
    np.testing.assert_allclose(mirrored.rectangle, expected, atol=odd + 1e-6)


def test_the_smallest_size_is_as_likely_as_stated():
    n, smallest, largest = 8_000, 8, 16
    for p in (0.0, 0.3, 0.5, 1.0):
        distribution = dataclasses.replace(DISTRIBUTION, probability_smallest=p)
        # Half a pixel above the smallest is rounded to it too.
        expected = p + (1 - p) * 0.5 / (largest - smallest)
        share = (shorter_sides(distribution, count=n) == smallest).mean()
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9


@pytest.mark.parametrize("name", patches.SIZE_DISTRIBUTIONS)
def test_the_other_sizes_follow_their_distribution(name):
    wide = patches.PatchDistribution(
        8, 100, 10_000, probability_smallest=0.0, size_distribution=name
    )
    sizes = shorter_sides(wide, 20_000, 30_000)
    u = {
        "uniform": (sizes - 100) / (10_000 - 100),
        "log_uniform": np.log(sizes / 100) / np.log(10_000 / 100),
    }[name]
    # Rounded to pixels, which 4000 draws of so many sizes cannot tell.
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_offsets_are_uniform_and_reach_both_ends():
    distribution = patches.PatchDistribution(8, 12, 12)
    offsets = np.array([corner(crop) for crop in crops(distribution, 64, 64)])
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis])
        assert len(counts) == 12 - 8 + 1
        assert stats.chisquare(counts).pvalue > 1e-3
    together = np.bincount(offsets @ (5, 1), minlength=25)
    assert stats.chisquare(together).pvalue > 1e-3


def test_aspects_are_log_uniform_and_wide_as_often_as_tall():
    distribution = patches.PatchDistribution(8, 100, 100, aspect=2.0)
    wholes = np.array([whole(crop) for crop in crops(distribution, 1000, 1000)])
    u = np.log2(wholes[:, 1] / wholes[:, 0]) / 2 + 0.5
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert (wholes.min(1) == 100).all()


def test_a_whole_of_another_aspect_lies_in_the_middle_or_anywhere():
    distribution = patches.PatchDistribution(8, 8, 8)
    (middle,) = {crop.rectangle for crop in crops(distribution, 8, 20, 50)}
    assert middle == (0, 6, 8, 14)
    anywhere = dataclasses.replace(distribution, crop="random")
    left = [round(crop.rectangle[1]) for crop in crops(anywhere, 8, 20)]
    assert stats.chisquare(np.bincount(left)).pvalue > 1e-3
    assert len(set(left)) == 13


def test_half_of_the_wholes_are_mirrored_whatever_their_size():
    flipped = crops(dataclasses.replace(DISTRIBUTION, flip=True), 64, 64)
    mirrored = np.array([crop.mirrored for crop in flipped])
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(mirrored))
    large = np.array([min(whole(crop)) for crop in flipped]) > 8
    assert abs(mirrored[large].mean() - 0.5) < 5 * 0.5 / np.sqrt(large.sum())
    assert not any(crop.mirrored for crop in crops(DISTRIBUTION, 64, 64, 100))


def test_the_same_numbers_are_drawn_whatever_is_asked_for():
    other = patches.PatchDistribution(
        4, 8, 16, size_distribution="log_uniform", aspect=3.0, flip=True
    )
    for k in range(50):
        assert (DISTRIBUTION.draw(1, k) == other.draw(1, k)).all()
    flipped = dataclasses.replace(DISTRIBUTION, flip=True)
    plain = [crop.box for crop in crops(DISTRIBUTION, 64, 64, 50)]
    assert plain == [crop.box for crop in crops(flipped, 64, 64, 50)]
    assert not (DISTRIBUTION.draw(1, 0) == DISTRIBUTION.draw(2, 0)).any()


def test_native_sizes_go_up_to_each_images_own_and_fall_short_of_nothing():
    distribution = dataclasses.replace(
        DISTRIBUTION, largest=None, probability_smallest=0.0
    )
    for height, width in ((40, 90), (25, 8)):
        found = crops(distribution, height, width)
        sizes = [min(whole(crop)) for crop in found]
        assert min(sizes) == 8 and max(sizes) == min(height, width)
        assert not any(crop.unmet_setting for crop in found)


def test_an_image_too_small_for_the_largest_size_is_used_up_to_its_own():
    found = crops(DISTRIBUTION, 12, 30)
    sizes = [min(whole(crop)) for crop in found]
    assert max(sizes) == 12
    assert {crop.unmet_setting for crop in found} == {"data.patches.largest=16"}
    assert {crop.unmet_setting for crop in crops(DISTRIBUTION, 16, 16)} == {""}


def test_an_image_too_small_for_an_aspect_gets_the_aspects_it_has_room_for():
    distribution = patches.PatchDistribution(8, 8, 8, aspect=4.0)
    found = crops(distribution, 8, 16)
    aspects = [w / h for h, w in map(whole, found)]
    assert min(aspects) == 1 and max(aspects) == 2
    assert {crop.unmet_setting for crop in found} == {"data.patches.aspect=4.0"}


def test_an_image_smaller_than_the_smallest_size_is_unsuitable():
    with pytest.raises(UnsuitableImage, match="7x30 pixels .* data.patches.smallest=8"):
        DISTRIBUTION.choose_crop(DISTRIBUTION.draw(0, 0), 7, 30)


def test_what_is_made_at_any_size_falls_short_of_nothing():
    for aspect in (1.0, 2.0, None):
        distribution = dataclasses.replace(
            DISTRIBUTION, aspect=aspect, probability_smallest=0.0
        )
        made = [distribution.choose_box(distribution.draw(0, k)) for k in range(500)]
        assert not any(crop.unmet_setting for crop in made)
        assert {min(whole(crop)) for crop in made} == set(range(8, 17))
        square = {h == w for h, w in map(whole, made)}
        assert square == ({True, False} if aspect == 2.0 else {True})


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(smallest=300, largest=256),
            "data.patches.smallest=300 must not exceed data.patches.largest=256; use "
            "data.patches.smallest=256 or data.patches.largest=300",
        ),
        (
            dict(patch=12),
            "data.resolution=12 must not exceed data.patches.smallest=8, .* use "
            "data.resolution=8 or data.patches.smallest=12",
        ),
        (dict(patch=0), "data.resolution=0 must be at least 1"),
        (
            dict(probability_smallest=1.5),
            "data.patches.probability_smallest=1.5 must be 0 to 1; use 1.0",
        ),
        (dict(probability_smallest=-0.1), "smallest=-0.1 must be 0 to 1; use 0.0"),
        (dict(probability_smallest=math.nan), "smallest=nan must be 0 to 1"),
        (dict(aspect=0.5), "data.patches.aspect=0.5 must be at least 1.* use 1.0"),
        (
            dict(size_distribution="normal"),
            "data.patches.law='normal' must be one of: uniform, log_u",
        ),
    ],
)
def test_an_invalid_distribution_names_keys_and_the_nearest_values(wrong, message):
    fields = {
        f.name: getattr(DISTRIBUTION, f.name) for f in dataclasses.fields(DISTRIBUTION)
    }
    with pytest.raises(DataError, match=message):
        patches.PatchDistribution(**(fields | wrong))
