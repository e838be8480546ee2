"""Reading attributes of captions from samples."""

import numpy as np
import pytest

from benchmarks import scene_text
from simple_diffusion.data.scenes import captions, combinations, scenes

NAMES = ("object", "colour", "count", "position")


class Readers:
    """Reads the attributes from images that hold their numbers."""

    classes = len(scenes.CATEGORY_NAMES)

    def read_attributes(self, pictures):
        return {
            name: pictures[:, 0, k, 0].astype(np.int32) for k, name in enumerate(NAMES)
        }


def numbered(asked):
    """The same scenes, whose images hold the numbers of their attributes."""
    numbers = np.stack([asked.wanted.values[name] for name in NAMES], -1)
    images = np.tile(numbers[:, None, :, None], (1, 4, 1, 3)).astype(np.uint8)
    return asked._replace(images=images)


def sentences(count):
    found = scenes.describe(7, np.arange(count), split="holdout")
    return scene_text.make_set(found, (16, 16), captions.SENTENCE)


def test_attributes_are_those_that_captions_name():
    asked = sentences(48)
    values = asked.wanted.values
    for k, caption in enumerate(asked.captions):
        place = ("left", "middle", "right")[values["position"][k]]
        assert caption.endswith(f"the {place}.")
        if (colour := values["colour"][k]) >= 0:
            assert scenes.COLOUR_NAMES[colour] in caption


def test_each_row_has_what_its_images_show():
    asked = numbered(sentences(48))
    wrong = asked.images + np.uint8(1)
    rows = scene_text.compare(Readers(), asked, {"right": asked.images, "wrong": wrong})
    assert set(rows) == {"chance", "real scenes", "right", "wrong"}
    assert set(rows["right"].values()) == set(rows["real scenes"].values()) == {1.0}
    assert set(rows["wrong"].values()) == {0.0}
    # Each class occurs as often as any other.
    assert rows["chance"]["object"] == 1 / 12


@pytest.mark.parametrize("held_out", [True, False])
def test_the_scenes_of_a_table_are_all_of_its_combinations(held_out):
    found = scene_text.choose_scenes(40, held_out)
    assert (combinations.is_held_out_combination(found) == held_out).all()
    assert len(found) == 40 and len(np.unique(found.wording)) == 40


def test_scenes_of_both_groups_are_the_first_of_the_holdout():
    both = [
        scene_text.choose_scenes(40, held_out).wording for held_out in (True, False)
    ]
    first = scenes.describe(7, np.arange(40), split="holdout").wording
    assert np.isin(first, np.concatenate(both)).all()


def test_what_a_caption_does_not_name_does_not_count():
    found = scene_text.choose_scenes(24, True)
    asked = scene_text.make_set(found, (16, 16), captions.SHORT)
    values = asked.wanted.values
    assert (values["position"] == -1).all()
    assert (values["object"] == found.label).all()
    asked = numbered(asked)
    rows = scene_text.compare(Readers(), asked, {"one": asked.images})
    assert "position" not in rows["one"] and rows["one"]["colour"] == 1.0
    assert scene_text.format_table(rows).endswith("|-|")


class Oracle:
    """A model whose samples are the scenes that are asked for."""

    def __init__(self, asked):
        self.pictures = dict(zip(asked.captions, asked.images, strict=True))

    def sample(self, prompts, **_):
        return np.stack([self.pictures[prompt] for prompt in prompts])


def test_a_model_that_draws_what_it_is_asked_for_is_read_as_real_scenes_are():
    asked = numbered(sentences(48))
    rows = scene_text.measure(Oracle(asked), Readers(), asked, [2.0])
    assert rows["samples, guidance 2"] == rows["real scenes"]
