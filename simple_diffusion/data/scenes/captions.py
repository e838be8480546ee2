"""Captions of scenes, in several forms.

The form of a scene's caption is a function of (seed, split, index), as the scene is.
The forms of `FORMS`, for a boat:

    sentence           One brown sailing boat with red sails on the sea, on the left.
    short              a red boat
    short_one          one red boat
    short_place        a red boat on the left
    short_one_place    one red boat at the left
    setting            a red boat on the sea
    setting_place      a red boat on the sea on the left
    setting_at         a red boat on the sea, at the left
    detail             a boat with red sails
    detail_place       a boat with red sails on the left
    bare               a boat
    bare_place         a boat on the left

Forms with "at" say "in the center", the others "in the middle". Above one, all forms
say the number: "two red boats". What a form leaves out may be anything: `find_named`
says which attributes a caption names. What a colour is the colour of: see `Scenes`.
"""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from simple_diffusion.data.scenes.scene_classes import CLASSES, Phrases
from simple_diffusion.data.scenes.scenes import COLOUR_NAMES, Scenes

_COUNT_WORDS = "no one two three four five six seven eight nine".split()
_ON = (" on the left", " in the middle", " on the right")
_AT = (" at the left", " in the center", " at the right")
_NO_PLACE = ("", "", "")


class Form(NamedTuple):
    """One form of captions.

    share: of the captions that have it.
    phrase: which of `Phrases` it is made from.
    places: what follows for each place; empty texts where it names none.
    one: how it says one, if nothing varies with it: "a", or "one".
    """

    share: float
    phrase: str
    places: tuple[str, str, str] = _NO_PLACE
    one: str = "a"


def _after_comma(places: tuple[str, str, str]) -> tuple[str, str, str]:
    left, middle, right = (f",{place}" for place in places)
    return left, middle, right


SENTENCE, SHORT, SHORT_PLACE = "sentence", "short", "short_place"

# Three in four name the place, since it is the hardest to learn.
FORMS = {
    SENTENCE: Form(0.40, "sentence", _after_comma(_ON), one="one"),
    SHORT: Form(0.10, "plain"),
    "short_one": Form(0.04, "plain", one="one"),
    SHORT_PLACE: Form(0.12, "plain", _ON),
    "short_one_place": Form(0.06, "plain", _AT, one="one"),
    "setting": Form(0.04, "setting"),
    "setting_place": Form(0.06, "setting", _ON),
    "setting_at": Form(0.04, "setting", _after_comma(_AT)),
    "detail": Form(0.03, "detail"),
    "detail_place": Form(0.06, "detail", _ON),
    "bare": Form(0.03, "bare"),
    "bare_place": Form(0.02, "bare", _ON),
}
FORM_NAMES = tuple(FORMS)

_FORMS = tuple(FORMS.values())
_CLASSES = tuple(CLASSES.values())
# The last one ends at 1 whatever rounding has made of the sum.
_STARTS = np.cumsum([0.0, *(form.share for form in _FORMS)])[:-1]
_ATTRIBUTES = ("label", "count", "colour", "accent", "place")


def choose_forms(scenes: Scenes) -> Int[np.ndarray, "b"]:
    """Returns the form of each scene's own caption, a number into `FORM_NAMES`."""
    return np.searchsorted(_STARTS, scenes.wording, side="right") - 1


def write(scenes: Scenes, form: str | None = None) -> list[str]:
    """Returns a caption for each scene.

    Args:
      scenes: b scenes.
      form: one of `FORM_NAMES` for all captions; None for each scene's own.

    Raises:
      ValueError: if there is no such form.
    """
    facts = scenes.label, scenes.count, scenes.colour, scenes.accent, scenes.place
    columns = (_find_forms(scenes, form), *facts)
    rows = zip(*(values.tolist() for values in columns), strict=True)
    return [_write_one(_FORMS[number], *values) for number, *values in rows]


def find_named(
    scenes: Scenes, form: str | None = None
) -> dict[str, Bool[np.ndarray, "b"]]:
    """Returns whether the captions name label, count, colour, accent and place.

    Arguments and errors as `write`. "a boat" names the count, which is one.
    """
    forms = _find_forms(scenes, form)
    named = {name: np.ones(len(scenes), bool) for name in _ATTRIBUTES}
    labels, counts = scenes.label.tolist(), scenes.count.tolist()
    for k, (number, label, count) in enumerate(
        zip(forms.tolist(), labels, counts, strict=True)
    ):
        kind = _FORMS[number]
        template = _choose_template(kind, _CLASSES[label].phrases, count)
        for name in ("count", "colour", "accent"):
            named[name][k] = f"{{{name}}}" in template
        named["place"][k] = any(kind.places)
    return named


def _find_forms(scenes: Scenes, form: str | None) -> Int[np.ndarray, "b"]:
    if form is None:
        return choose_forms(scenes)
    if form not in FORMS:
        raise ValueError(f"form={form!r} must be one of {', '.join(FORM_NAMES)}")
    return np.full(len(scenes), FORM_NAMES.index(form))


def _choose_template(form: Form, phrases: Phrases, count: int) -> str:
    if form.phrase == "sentence" and count > 1 and phrases.sentence_many:
        return phrases.sentence_many
    return getattr(phrases, form.phrase)


def _write_one(
    form: Form, label: int, count: int, colour: int, accent: int, place: int
) -> str:
    phrases = _CLASSES[label].phrases
    text = _choose_template(form, phrases, count).format(
        count=form.one if count == 1 else _COUNT_WORDS[count],
        colour=COLOUR_NAMES[colour],
        accent=COLOUR_NAMES[accent],
        thing=phrases.one if count == 1 else phrases.many,
    )
    text = re.sub(r"\ba (?=[aeiou])", "an ", text) + form.places[place]
    if form.phrase == "sentence":
        text = f"{text[0].upper()}{text[1:]}."
    return text
