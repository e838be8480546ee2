import numpy as np
import pytest

from benchmarks import scene_text
from simple_diffusion.data.scenes import captions, combinations, scenes


def test_attributes_are_those_that_captions_name():
    found = scene_text.make_set((16, 16), 0, 48, "holdout")
    for k, caption in enumerate(found.captions):
        place = ("left", "middle", "right")[found.attributes["position"][k]]
        assert caption.endswith(f"the {place}.")
        if (colour := found.attributes["colour"][k]) >= 0:
            assert scene_text.scenes.COLOUR_NAMES[colour] in caption


def test_training_and_held_out_scenes_differ():
    one = scene_text.make_set((16, 16), 0, 16, "train")
    other = scene_text.make_set((16, 16), 0, 16, "holdout")
    assert not any(np.array_equal(a, b) for a in one.images for b in other.images)


def test_a_trained_reader_is_better_than_chance_and_sees_exchanged_captions():
    params = scene_text.train((16, 16), steps=60)
    held_out = scene_text.make_set((16, 16), 0, 128, "holdout")
    read = scene_text.accuracies(params, held_out.images, held_out.attributes)
    guessed = scene_text.chance(held_out.attributes)
    assert read["object"] > guessed["object"] + 0.3
    assert read["colour"] > guessed["colour"]
    shuffled = {k: np.roll(v, 1) for k, v in held_out.attributes.items()}
    wrong = scene_text.accuracies(params, held_out.images, shuffled)
    assert wrong["object"] < 0.3


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
    asked = scene_text.to_set(found, (16, 16), captions.SHORT)
    assert (asked.attributes["position"] == -1).all()
    assert (asked.attributes["object"] == found.label).all()
    params = scene_text.train((16, 16), steps=1)
    read = scene_text.accuracies(params, asked.images, asked.attributes)
    assert np.isnan(read["position"]) and not np.isnan(read["colour"])
    assert np.isnan(scene_text.chance(asked.attributes)["position"])
    assert scene_text.format_table({"one": read}).endswith("|-|")


class Oracle:
    """A model whose samples are the scenes that are asked for."""

    size = 16, 16

    def __init__(self, found, form):
        self.pictures = dict(
            zip(captions.write(found, form), scenes.render(found, 16, 16), strict=True)
        )

    def sample(self, prompts, **_):
        return np.stack([self.pictures[prompt] for prompt in prompts])


def test_a_model_that_draws_what_it_is_asked_for_is_read_as_real_scenes_are():
    found = scene_text.choose_scenes(24, True)
    found = found[
        np.unique(captions.write(found, captions.SENTENCE), return_index=True)[1]
    ]
    params = scene_text.train((16, 16), steps=1)
    model = Oracle(found, captions.SENTENCE)
    rows = scene_text.measure(model, params, found, captions.SENTENCE, [2.0])
    assert rows["samples, guidance 2"] == rows["real scenes"]
