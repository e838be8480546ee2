import numpy as np
import pytest

from simple_diffusion.data.scenes import captions, hashes, scenes, sketch
from simple_diffusion.data.scenes.scene_classes import CLASSES

N = len(scenes.CLASS_NAMES)


@pytest.fixture(scope="module")
def many():
    return scenes.describe(7, np.arange(10 * N))


def test_a_scene_depends_on_seed_split_and_index_only(many):
    rows = np.array([3, 77, 40])
    again = scenes.describe(7, rows)
    np.testing.assert_array_equal(
        scenes.render(again, 24, 24), scenes.render(many[rows], 24, 24)
    )
    assert captions.write(again) == captions.write(many[rows])


@pytest.mark.parametrize("other", [{"seed": 8}, {"split": "holdout"}])
def test_other_seeds_and_the_holdout_are_other_scenes(other):
    indices, classes = np.arange(2 * N), np.arange(2 * N) % N
    ours = scenes.describe(7, indices, classes)
    theirs = scenes.describe(**{"seed": 7, **other}, indices=indices, classes=classes)
    a, b = (scenes.render(s, 16, 16).astype(int) for s in (ours, theirs))
    # No scene of one is in the other, whatever its index.
    distance = np.abs(a[:, None] - b[None]).mean((2, 3, 4))
    assert distance.min() > 1
    assert (
        scenes.labels(7, np.arange(600))
        != scenes.labels(**{"seed": 7, **other}, indices=np.arange(600))
    ).mean() > 0.8


def test_the_stream_has_no_scene_twice(many):
    images = scenes.render(many, 8, 8).reshape(len(many), -1)
    assert len(np.unique(images, axis=0)) == len(many)


def test_every_run_of_classes_is_balanced():
    label = scenes.labels(0, np.arange(50 * N)).reshape(50, N)
    assert (np.sort(label, 1) == np.arange(N)).all()
    assert len(np.unique(label, axis=0)) > 45  # each in its own order
    # Nor does a class prefer a place: process k of n reads every n-th example.
    label = scenes.labels(0, np.arange(2000 * N))
    share = np.bincount(label[::4], minlength=N) / len(label[::4])
    assert np.abs(share - 1 / N).max() < 0.01


def test_labels_are_those_of_the_description(many):
    np.testing.assert_array_equal(many.label, scenes.labels(7, np.arange(len(many))))


def test_any_index_and_any_seed_will_do():
    far = scenes.describe(-3, np.array([2**40 + 5, 0]))
    assert scenes.render(far, 16, 16).std() > 10


def test_the_class_can_be_chosen():
    chosen = scenes.describe(0, np.arange(5), classes=4)
    assert (chosen.label == 4).all()
    with pytest.raises(ValueError, match=f"classes=.* 0 to {N - 1}"):
        scenes.describe(0, np.arange(2), classes=[0, N])


def test_there_are_as_many_boxes_as_the_count_says(many):
    found = scenes.boxes(many)
    for k, label in enumerate(many.label):
        counted = scenes.CATEGORY_NAMES.index(
            list(CLASSES.values())[label].counted_category
        )
        assert (found.present[k] & (found.category[k] == counted)).sum() == many.count[
            k
        ]


def test_counts_sizes_and_colours_vary():
    for label in range(N):
        few = scenes.describe(0, np.arange(60), classes=label)
        box = scenes.boxes(few).box[:, :3].reshape(60, -1)
        assert len(np.unique(box.round(3), axis=0)) > 55
        colours = len(np.unique(few.colour))
        assert colours > 1 or scenes.CLASS_NAMES[label] == "cactus"
        if list(CLASSES.values())[label].phrases.many:
            assert len(np.unique(few.count)) > 1


def test_boxes_contain_their_objects_and_no_more(many):
    size = 96
    seen = scenes.instance_map(many, size, size)
    category = scenes.semantic_map(many, size, size)
    found = scenes.boxes(many)
    tight = []
    for k, i in zip(*np.nonzero(found.present), strict=True):
        rows, columns = np.nonzero(seen[k] == i + 1)
        if not rows.size:  # behind something, or smaller than a pixel
            continue
        assert (category[k, rows, columns] == found.category[k, i]).all()
        y0, x0, y1, x1 = found.box[k, i] * size
        assert rows.min() + 1 > y0 and columns.min() + 1 > x0
        assert rows.max() < y1 and columns.max() < x1
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        tight.append(height * width / ((y1 - y0) * (x1 - x0)))
    # What is hidden in part, such as a sun in the sea, has a box of the whole.
    assert np.median(tight) > 0.95
    assert np.mean(np.array(tight) > 0.8) > 0.8


def test_pixels_without_an_object_are_in_no_box_category(many):
    seen = scenes.instance_map(many, 48, 48)
    category = scenes.semantic_map(many, 48, 48)
    things = np.unique(scenes.boxes(many).category[scenes.boxes(many).present])
    assert not np.isin(category[seen == 0], things).any()
    assert np.isin(category[seen > 0], things).all()


def test_boxes_of_a_window_are_those_of_the_whole_cut_off(many):
    whole, window = scenes.boxes(many), (0.25, 0.5, 0.75, 1.0)
    part = scenes.boxes(many, 10, 10, window)
    again = part.box * 0.5 + np.array([0.25, 0.5, 0.25, 0.5], np.float32)
    cut = np.clip(whole.box, window[:2] * 2, window[2:] * 2)
    inside = whole.present & (cut[..., 2:] > cut[..., :2]).all(-1)
    np.testing.assert_array_equal(part.present, inside)
    np.testing.assert_allclose(again[inside], cut[inside], atol=1e-6)


def test_boxes_of_a_wide_image_are_as_high_and_less_wide(many):
    square, wide = scenes.boxes(many), scenes.boxes(many, 32, 64)
    # The unit square is the middle half of it; an object may go on beyond that.
    within = square.present & (square.box[..., 1] > 0) & (square.box[..., 3] < 1)
    np.testing.assert_allclose(
        wide.box[within][:, 0], square.box[within][:, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        wide.box[within][:, 1::2], square.box[within][:, 1::2] / 2 + 0.25, atol=1e-6
    )


def test_images_of_a_class_are_more_alike_than_of_two_classes():
    labels = np.repeat(np.arange(N), 20)
    x = scenes.render(scenes.describe(0, np.arange(len(labels)), labels), 8, 8)
    x = x.reshape(len(x), -1).astype(np.float32)
    distance = np.abs(x[:, None] - x[None]).mean(-1)
    np.fill_diagonal(distance, np.inf)
    # Even raw pixels at 8x8 nearly always find a neighbour of the same class.
    assert (labels[distance.argmin(1)] == labels).mean() > 0.9


def test_a_class_that_needs_too_much_room_is_an_error():
    drawing = sketch.Sketch(np.zeros((hashes.DRAWS, 1), np.float32))
    for _ in range(sketch.SLOTS + 1):
        drawing.disc(0.5, 0.5, 0.1, (1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="exceed"):
        drawing.finish()
