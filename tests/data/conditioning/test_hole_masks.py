"""Random holes: their kinds, their shapes and how much they cover."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from simple_diffusion.data.conditioning import hole_masks

SIZES = [(16, 16), (512, 512), (24, 40), (2, 2), (5, 300)]
NEIGHBOURS = np.ones((3, 3))


def draw(size, count, kinds=hole_masks.SHARES, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([hole_masks.draw_hole_mask(size, rng, kinds) for _ in range(count)])


def measure_distance(segment, size):
    """The distance of each pixel from a segment."""
    start, end = (np.array(v) for v in segment[:2])
    place = np.moveaxis(np.mgrid[: size[0], : size[1]], 0, -1) - start
    step = end - start
    along = np.clip(place @ step / max(step @ step, 1e-12), 0, 1)
    return np.linalg.norm(place - along[..., None] * step, axis=-1)


@pytest.mark.parametrize("kind", [*hole_masks.SHARES, None])
@pytest.mark.parametrize("size", SIZES)
def test_there_is_always_a_hole_and_something_around_it(size, kind):
    masks = draw(size, 40, hole_masks.SHARES if kind is None else {kind: 1.0})
    assert masks.shape == (40, *size) and masks.dtype == np.uint8
    assert masks.max() == 1
    covered = masks.mean((1, 2))
    assert (covered > 0).all() and (covered <= hole_masks.MAX_COVERED).all()


def test_each_kind_is_drawn_as_often_as_its_share_says():
    masks = draw((128, 128), 400, {"strokes": 2.0, "boxes": 1.0, "half": 1.0})
    # All rows of a half are the same, or all columns; four boxes make nine rows.
    rows, columns = (
        np.array([len({bytes(row) for row in mask}) for mask in v])
        for v in (masks, masks.transpose(0, 2, 1))
    )
    is_half = np.minimum(rows, columns) == 1
    counts = (rows > 9).sum(), ((rows <= 9) & ~is_half).sum(), is_half.sum()
    assert scipy.stats.chisquare(counts, [200, 100, 100]).pvalue > 1e-3


def test_a_mask_depends_on_the_random_numbers_alone():
    masks, same, other = (draw((32, 48), 10, seed=seed) for seed in (0, 0, 1))
    assert (masks == same).all()
    assert not any((a == b).all() for a, b in zip(masks, other, strict=True))


def published_segments(rng):
    """LaMa's strokes in an image of 256x256, with its four directions."""
    for k in range(rng.integers(1, 7)):
        place = rng.integers(256, size=2).astype(float)
        for _ in range(rng.integers(1, 6)):
            angle = (0.01 + rng.integers(4)) * (-1) ** k
            step = rng.integers(10, 210) * np.array([math.cos(angle), math.sin(angle)])
            end = np.clip(place + step, 0, 256)
            yield hole_masks.Segment(tuple(place), tuple(end), rng.integers(5, 105))
            place = end


def published_boxes(rng):
    """LaMa's boxes in an image of 256x256."""
    mask = np.zeros((256, 256))
    for _ in range(rng.integers(1, 5)):
        h, w = rng.integers(30, 150, size=2)
        y, x = (rng.integers(10, 256 - 10 - n + 1) for n in (h, w))
        mask[y : y + h, x : x + w] = 1
    return mask


def test_strokes_cover_about_as_much_as_those_of_lama():
    rng, published = np.random.default_rng(0), []
    for _ in range(250):
        mask = np.zeros((32, 32), bool)
        for start, end, width in published_segments(rng):
            small = [tuple(v / 8 for v in place) for place in (start, end)]
            mask |= measure_distance(small, mask.shape) <= width / 16
        published.append(mask.mean())
    found = draw((256, 256), 250, {"strokes": 1.0}).mean((1, 2))
    # Other directions, and one stroke fewer at most, make a small difference.
    assert abs(found.mean() - np.mean(published)) < 0.08
    assert abs(found.std() - np.std(published)) < 0.05
    assert found.min() < 0.1 and found.max() > 0.75


def test_boxes_cover_as_much_as_those_of_lama():
    rng = np.random.default_rng(0)
    published = [published_boxes(rng).mean() for _ in range(400)]
    found = draw((256, 256), 400, {"boxes": 1.0}).mean((1, 2))
    assert scipy.stats.ks_2samp(found, published).pvalue > 1e-3


def test_a_half_covers_a_half_on_average_on_each_of_four_sides():
    masks = draw((64, 96), 400, {"half": 1.0})
    covered = masks.mean((1, 2))
    assert covered.min() >= 0.24 and covered.max() <= 0.76
    # Uniform between 1/4 and 3/4.
    assert covered.mean() == pytest.approx(0.5, abs=0.03)
    assert covered.std() == pytest.approx(0.5 / math.sqrt(12), abs=0.01)
    # The hole reaches all along one side of four, each as often as the others.
    sides = (
        np.stack([masks[:, 0], masks[:, -1]]).all(-1),
        np.stack([masks[:, :, 0], masks[:, :, -1]]).all(-1),
    )
    counts = [int(is_covered.sum()) for pair in sides for is_covered in pair]
    assert sum(counts) == 400
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["strokes", "boxes"])
def test_a_hole_covers_the_same_share_at_every_resolution(kind):
    small = draw((32, 32), 400, {kind: 1.0}).mean((1, 2))
    large = draw((320, 320), 400, {kind: 1.0}, seed=1).mean((1, 2))
    assert scipy.stats.ks_2samp(small, large).pvalue > 1e-3


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (256, 256)])
def test_painted_segments_are_the_pixels_within_half_a_width(size):
    rng, wrong = np.random.default_rng(0), 0.0
    # At the edge Pillow decides, within two pixels of an image of 256x256.
    edge = 2.5 * math.sqrt(size[0] * size[1]) / 256
    for _ in range(20):
        segments = hole_masks.choose_segments(size, rng)
        mask = hole_masks.paint(segments, size)
        depth = np.max([s.width / 2 - measure_distance(s, size) for s in segments], 0)
        assert mask[depth > edge].all() and not mask[depth < -edge].any()
        wrong += (mask != (depth >= 0)).mean() / 20
    assert wrong < 0.01


def test_strokes_are_few_thick_connected_lines():
    for mask in draw((256, 256), 40, {"strokes": 1.0}):
        parts, count = scipy.ndimage.label(mask, NEIGHBOURS)
        assert count <= 5
        # No line is thinner than 5 pixels; the image may cut off a part of its width.
        depth = scipy.ndimage.distance_transform_cdt(np.pad(mask, 9, mode="edge"))
        inside = depth[9:-9, 9:-9]
        assert min(scipy.ndimage.maximum(inside, parts, range(1, count + 1))) >= 2


def test_a_stroke_is_in_one_piece_at_any_size():
    rng = np.random.default_rng(0)
    for size in [(8, 8), (16, 16), (60, 33)] * 10:
        segments = hole_masks.choose_segments(size, rng)
        joints = [
            a.end == b.start for a, b in zip(segments, segments[1:], strict=False)
        ]
        mask = hole_masks.paint(segments, size)
        assert scipy.ndimage.label(mask, NEIGHBOURS)[1] <= 1 + joints.count(False)


def test_boxes_keep_away_from_the_edges():
    masks = draw((256, 256), 50, {"boxes": 1.0})
    masks[:, 10:-10, 10:-10] = 0
    assert not masks.any()


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        ({"strokes": 1.0, "discs": 1.0}, "discs is no kind of hole; there are strokes"),
        ({"strokes": 0.0}, "one must be above 0"),
        ({"strokes": -1.0, "half": 2.0}, "shares must be at least 0"),
        ({}, "one must be above 0"),
    ],
)
def test_wrong_shares_are_an_error(kinds, problem):
    with pytest.raises(ValueError, match=f"conditions.inpainting.holes=.*{problem}"):
        draw((8, 8), 1, kinds)


def test_an_image_without_room_for_a_hole_is_an_error():
    with pytest.raises(ValueError, match="at least 2x2 pixels, got 1x8"):
        draw((1, 8), 1)
