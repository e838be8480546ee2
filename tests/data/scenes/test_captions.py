import dataclasses
import re

import numpy as np
import pytest

from simple_diffusion.data import fields
from simple_diffusion.data.scenes import captions, scenes
from simple_diffusion.data.scenes.scene_classes import CLASSES

WORDS = "zero one two three four five six seven eight nine".split()
NAMES = {"sunset": "sun", "night": "moon", "cactus": "cact"}
BOAT = {"label": "boat", "count": 1, "colour": "red", "accent": "brown", "place": 0}
FISH = {"label": "fish", "count": 2, "colour": "yellow", "accent": "", "place": 0}
HOUSE = {"label": "house", "count": 1, "colour": "white", "accent": "brown", "place": 2}
TREES = {"label": "tree", "count": 3, "colour": "orange", "accent": "", "place": 1}
SNOW = {"label": "snowman", "count": 1, "colour": "orange", "accent": "", "place": 1}
NIGHT = {"label": "night", "count": 5, "colour": "white", "accent": "", "place": 0}
CACTI = {"label": "cactus", "count": 2, "colour": "green", "accent": "red", "place": 1}
EXAMPLES = [
    (
        BOAT,
        "sentence",
        "One brown sailing boat with red sails on the sea, on the left.",
    ),
    (BOAT, "short", "a red boat"),
    (BOAT, "short_one", "one red boat"),
    (BOAT, "short_place", "a red boat on the left"),
    (BOAT, "short_one_place", "one red boat at the left"),
    (BOAT, "setting", "a red boat on the sea"),
    (BOAT, "setting_place", "a red boat on the sea on the left"),
    (BOAT, "setting_at", "a red boat on the sea, at the left"),
    (BOAT, "detail", "a boat with red sails"),
    (BOAT, "detail_place", "a boat with red sails on the left"),
    (BOAT, "bare", "a boat"),
    (BOAT, "bare_place", "a boat on the left"),
    (FISH, "short_place", "two yellow fish on the left"),
    (HOUSE, "detail_place", "a house with a brown roof on the right"),
    (TREES, "sentence", "Three orange trees on a hill, in the middle."),
    (TREES, "short_one_place", "three orange trees in the center"),
    (TREES | {"count": 1}, "short", "an orange tree"),
    (SNOW, "sentence", "One snowman with an orange scarf on snow, in the middle."),
    (NIGHT, "short_place", "five stars and a white moon on the left"),
    (CACTI, "short", "two green cacti"),
    (
        CACTI,
        "sentence",
        "Two green cactus plants in a desert of red sand, in the middle.",
    ),
]


@pytest.fixture(scope="module")
def many():
    return scenes.describe(7, np.arange(4000))


def scene_of(facts):
    """A scene with these facts, whatever its picture shows."""
    numbers = facts | {"label": scenes.CLASS_NAMES.index(facts["label"])}
    for name in ("colour", "accent"):
        colour = facts[name]
        numbers[name] = scenes.COLOUR_NAMES.index(colour) if colour else -1
    arrays = {name: np.array([value], np.int32) for name, value in numbers.items()}
    return dataclasses.replace(scenes.describe(0, [0]), **arrays)


def every_caption(few):
    """Captions of all forms: (form, captions)."""
    return [(form, captions.write(few, form)) for form in captions.FORMS]


@pytest.mark.parametrize(("facts", "form", "caption"), EXAMPLES)
def test_a_form_says_it_in_the_words_people_use(facts, form, caption):
    assert captions.write(scene_of(facts), form) == [caption]


def test_the_docstring_shows_every_form():
    shown = dict(re.findall(r"^ {4}(\w+) +(\S.*)$", captions.__doc__, re.MULTILINE))
    written = {form: text for form, (text,) in every_caption(scene_of(BOAT))}
    assert shown == written


def test_a_scene_has_the_same_caption_whichever_are_described_with_it(many):
    rows = np.array([3, 777, 40])
    again = captions.write(scenes.describe(7, rows))
    own = captions.write(many)
    assert again == [own[k] for k in rows]
    chosen = captions.choose_forms(many)
    for k in rows:
        form = captions.FORM_NAMES[chosen[k]]
        assert captions.write(many[k : k + 1], form) == [own[k]]


@pytest.mark.parametrize("other", [{"seed": 8}, {"split": "holdout"}])
def test_forms_differ_between_seeds_and_splits(many, other):
    theirs = scenes.describe(**{"seed": 7, **other}, indices=np.arange(600))
    forms = captions.choose_forms(many[:600]), captions.choose_forms(theirs)
    assert (forms[0] != forms[1]).mean() > 0.6


def test_forms_have_their_shares_in_every_class(many):
    shares = np.array([form.share for form in captions.FORMS.values()])
    assert shares.sum() == pytest.approx(1)
    chosen = captions.choose_forms(many)
    found = np.bincount(chosen, minlength=len(shares)) / len(many)
    # Within five standard errors.
    assert (np.abs(found - shares) < 5 * np.sqrt(shares / len(many))).all()
    for label in range(len(CLASSES)):
        own = chosen[many.label == label]
        share = (own == captions.FORM_NAMES.index(captions.SENTENCE)).mean()
        assert share == pytest.approx(shares[0], abs=5 * np.sqrt(0.24 / len(own)))
    assert shares.argmax() == 0
    assert captions.find_named(many)["place"].mean() > 2 / 3


@pytest.mark.parametrize("edge", [0.0, 0.4, np.float32(1 - 2.0**-24)])
def test_every_random_number_chooses_a_form(many, edge):
    few = dataclasses.replace(many[:1], wording=np.full(1, edge, np.float32))
    assert captions.choose_forms(few)[0] in range(len(captions.FORMS))


def test_captions_name_what_is_there_and_nothing_else(many):
    few = many[:240]
    for form, written in every_caption(few):
        named = captions.find_named(few, form)
        for k, caption in enumerate(written):
            words = re.findall("[a-z]+", caption.lower())
            name = scenes.CLASS_NAMES[few.label[k]]
            assert NAMES.get(name, name) in caption.lower()
            has = {n: named[n][k] for n in named}
            colours = {
                scenes.COLOUR_NAMES[numbers[k]]
                for which, numbers in (("colour", few.colour), ("accent", few.accent))
                if has[which]
            }
            fixed = {"green", "blue", "black"}  # meadow, water, hat
            assert colours <= set(words)
            assert set(words) & set(scenes.COLOUR_NAMES) <= colours | fixed
            if has["count"] and few.count[k] > 1:
                assert WORDS[few.count[k]] in words
            others = {word for word in WORDS if word != WORDS[few.count[k]]}
            assert not set(words) & (others - {"six"})  # petals
            side = ({"left"}, {"middle", "center"}, {"right"})[few.place[k]]
            sides = set(words) & {"left", "middle", "center", "right"}
            assert sides <= side and bool(sides) == has["place"]


def test_articles_and_plurals_are_right(many):
    for _, written in every_caption(many[:240]):
        for caption in written:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  | ,|[{}]", caption)
            number, *rest = caption.lower().split()
            if number in WORDS[2:]:
                assert re.search(r"s\b|fish|cacti", " ".join(rest))


def test_a_mirrored_caption_is_that_of_the_mirrored_image(many):
    few = many[:240]
    mirrored = dataclasses.replace(few, place=2 - few.place)
    for form, written in every_caption(few):
        swapped = [fields.swap_sides(caption) for caption in written]
        assert swapped == captions.write(mirrored, form)


def test_short_captions_name_the_whole_combination(many):
    few = many[:240]
    for form in (captions.SENTENCE, captions.SHORT_PLACE):
        named = captions.find_named(few, form)
        assert all(named[n].all() for n in ("label", "count", "colour", "place"))
    assert not captions.find_named(few, captions.SHORT)["place"].any()


def test_an_unknown_form_is_an_error(many):
    with pytest.raises(ValueError, match="form='long' must be one of sentence, short"):
        captions.write(many[:1], "long")
