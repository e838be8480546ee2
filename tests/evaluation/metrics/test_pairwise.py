import numpy as np
import pytest
import scipy.spatial.distance

from simple_diffusion.evaluation.metrics import pairwise


@pytest.fixture(params=[2**22, 700])
def block(request, monkeypatch):
    """One block for all, or a few rows a block with a smaller last one."""
    monkeypatch.setattr(pairwise, "_BLOCK", request.param)


@pytest.mark.usefixtures("block")
def test_neighbours_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    # Far from the origin the squares would cancel.
    x, y = rng.normal(1e4, 1, (37, 9)), rng.normal(1e4, 1, (53, 9))
    everything = scipy.spatial.distance.cdist(x, y)
    found = pairwise.find_nearest(x, y, 4)
    order = np.argsort(everything, axis=1)[:, :4]
    np.testing.assert_array_equal(found.indices, order)
    expected = np.take_along_axis(everything, order, 1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)


@pytest.mark.usefixtures("block")
def test_a_feature_is_no_neighbour_of_itself_but_its_copy_is():
    x = np.random.default_rng(1).normal(size=(40, 5)) + 100
    x[7] = x[31]
    found = pairwise.find_nearest(x, x, 2, include_self=False)
    assert not (found.indices == np.arange(40)[:, None]).any()
    assert found.indices[7, 0] == 31 and found.indices[31, 0] == 7
    # Exactly, which a difference of squares is not.
    assert found.distances[7, 0] == found.distances[31, 0] == 0
    everything = scipy.spatial.distance.cdist(x, x)
    np.fill_diagonal(everything, np.inf)
    expected = np.sort(everything, axis=1)[:, :2]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)


def test_all_points_can_be_asked_for():
    x, y = np.random.default_rng(2).normal(size=(2, 6, 3))
    found = pairwise.find_nearest(x, y, 6)
    np.testing.assert_array_equal(np.sort(found.indices, axis=1)[0], np.arange(6))
    assert (np.diff(found.distances, axis=1) >= 0).all()


def test_equal_distances_come_in_the_order_of_the_points():
    x, y = np.zeros((1, 2)), np.array([[1.0, 0], [0, 1], [0.5, 0], [-1, 0]])
    assert pairwise.find_nearest(x, y, 4).indices.tolist() == [[2, 0, 1, 3]]


@pytest.mark.usefixtures("block")
def test_blocks_come_in_order_and_lowered_distances_lie_just_below():
    x, y = np.random.default_rng(3).normal(size=(2, 31, 11))
    exact = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    for lowered, low, high in ((False, -1e-13, 1e-13), (True, -1e-10, 0)):
        parts = pairwise.map_blocks(lambda rows, d: (rows, d), x, y, lowered)
        assert [row for rows, _ in parts for row in range(31)[rows]] == [*range(31)]
        off = np.concatenate([d for _, d in parts]) - exact
        assert low < off.min() and off.max() < high
