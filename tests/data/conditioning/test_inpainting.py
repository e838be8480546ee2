"""Hole masks as arrays of a batch."""

import numpy as np
import pytest

from simple_diffusion.core.examples import Example
from simple_diffusion.data import order, pipeline
from simple_diffusion.data.conditioning.inpainting import InpaintingEncoder
from simple_diffusion.data.scenes import scenes_source
from simple_diffusion.data.sources import catalogue
from tests.data.test_pipeline import take, train
from tests.data.test_skipping import Numbered

NAME = "inpainting.mask"


@pytest.mark.parametrize(
    "source",
    [Numbered(20), scenes_source.ScenesSource(length=20)],
    ids=["stored", "scenes"],
)
def test_every_image_of_a_batch_has_its_own_hole(source):
    encoder = InpaintingEncoder()
    catalogue.check_fields(source, "scenes", encoder.needs, "the condition")
    options = dict(batch_size=8, size=(16, 24), encoders=(encoder,))
    (batch,) = take(train(source, **options), 1)
    masks = batch.fields[NAME]
    assert masks.shape == (8, 16, 24) and masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}
    assert len({mask.tobytes() for mask in masks}) == 8
    (again,) = take(train(source, **options), 1)
    assert (again.fields[NAME] == masks).all()


def test_padding_is_a_hole_everywhere():
    options = dict(batch_size=8, size=(6, 6), encoders=(InpaintingEncoder(),))
    _, last = pipeline.eval_batches(Numbered(20), count=11, **options)
    assert last.fields[NAME][3:].all()
    assert not last.fields[NAME][:3].all()


def test_only_the_kinds_that_are_asked_for_are_drawn():
    encoder = InpaintingEncoder({"half": 1.0})
    example = Example(np.zeros((12, 20, 3), np.uint8))
    for k in range(20):
        mask = encoder.encode(example, order.make_generator(0, k))[NAME]
        assert (mask == mask[:1]).all() or (mask == mask[:, :1]).all()


def test_an_unknown_kind_is_an_error_that_names_the_key():
    with pytest.raises(ValueError, match="conditions.inpainting.holes=.*discs"):
        InpaintingEncoder({"discs": 1.0})
