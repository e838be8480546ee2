"""Samples of a model as a set of images."""

import numpy as np
import pytest

from simple_diffusion.core.types import Request, Weights
from simple_diffusion.pipelines import programs
from simple_diffusion.pipelines.evaluation import image_sets

COUNT, SIZE = 10, (4, 4)


@pytest.fixture
def drawn():
    """The numbers of the samples that were drawn."""
    return []


def make(drawn):
    """Samples whose levels are their numbers."""

    def call(weights, seed, index, request):
        drawn.extend(index.tolist())
        return np.tile(np.uint8(index)[:, None, None, None], (1, *SIZE, 3))

    drawer = programs.Drawer(programs.Program(4, call), 0)
    request = Request(np.zeros(COUNT, np.int32))
    return image_sets.from_model(drawer, Weights({}), request, SIZE, (), {})


def levels(pixels):
    return pixels[:, 0, 0, 0].tolist()


def test_samples_that_were_drawn_before_are_not_drawn_again(drawn):
    images = make(drawn)
    batches = [levels(batch.images) for batch in images.parts(0)]
    assert sum(batches, []) == list(range(COUNT))
    drawn.clear()
    assert levels(images.at([7, 2, 2])) == [7, 2, 2]
    assert drawn == []


def test_samples_that_were_not_drawn_are_drawn_for_themselves(drawn):
    images = make(drawn)
    next(iter(images.parts(4)))
    drawn.clear()
    assert levels(images.at([9, 5, 0])) == [9, 5, 0]
    assert set(drawn) == {9, 0}


def test_only_the_first_samples_are_kept(drawn, monkeypatch):
    monkeypatch.setattr(image_sets, "_KEPT", 3)
    images = make(drawn)
    list(images.parts(0))
    drawn.clear()
    assert levels(images.at([1, 3, 6])) == [1, 3, 6]
    assert set(drawn) == {3, 6}
