import numpy as np

from simple_diffusion.core.types import Request
from simple_diffusion.sampling import generate

LABELS = np.arange(11, dtype=np.int32) % 3
REQUEST = Request(LABELS, {"words": np.stack([LABELS, 2 * LABELS], -1)})


def sample(index, request):
    """Images that are told from each other by their first two pixels."""
    label = request.label
    assert len(index) == 4
    np.testing.assert_array_equal(request.fields["words"][:, 1], 2 * label)
    images = np.zeros((len(index), 1, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = index, label
    return images


def test_each_image_is_made_once_in_order():
    every = np.concatenate(list(generate.generate(sample, REQUEST, 4)))
    np.testing.assert_array_equal(every[:, 0, 0, 0], np.arange(11))
    np.testing.assert_array_equal(every[:, 0, 1, 0], LABELS)


def test_a_later_start_leaves_out_what_came_before():
    every = np.concatenate(list(generate.generate(sample, REQUEST, 4)))
    rest = np.concatenate(list(generate.generate(sample, REQUEST, 4, start=6)))
    np.testing.assert_array_equal(rest, every[6:])
    assert list(generate.generate(sample, REQUEST, 4, start=11)) == []


def test_chosen_images_are_those_of_the_whole():
    every = np.concatenate(list(generate.generate(sample, REQUEST, 4)))
    places = [10, 0, 3, 3, 7]
    some = generate.generate_subset(sample, REQUEST, places, 4)
    np.testing.assert_array_equal(some, every[places])
