"""The table of scene classes: how each is drawn, counted, and named in captions."""

from collections.abc import Callable
from typing import NamedTuple

from simple_diffusion.data.scenes import man_made, nature
from simple_diffusion.data.scenes.sketch import Sketch


class Phrases(NamedTuple):
    """How captions say what a picture of a class shows.

    The texts have {count}, {colour}, {accent} and {thing}. The place follows them, so
    what it belongs to comes last.

    one, many: the thing that is counted, {thing}; empty where there is never one, or
      never more.
    sentence: all that there is to say.
    detail: more of the thing, or another part of it.
    setting: the thing and where it is.
    bare: the thing alone.
    plain: the thing and its colour.
    sentence_many: the sentence for more than one, if it differs.
    """

    one: str
    many: str
    sentence: str
    detail: str
    setting: str
    bare: str = "{count} {thing}"
    plain: str = "{count} {colour} {thing}"
    sentence_many: str = ""


class SceneClass(NamedTuple):
    """One class of scenes.

    draw: adds its primitives to a sketch.
    counted_category: the category of which a picture has `count`.
    phrases: for its captions.
    """

    draw: Callable[[Sketch], None]
    counted_category: str
    phrases: Phrases


# The order is the order of class numbers: models have been trained with it.
CLASSES = {
    "sunset": SceneClass(
        nature.sunset,
        "sun",
        Phrases(
            "sun",
            "",
            sentence="sunset with {count} {colour} sun over the sea",
            detail="{count} sunset with a {colour} sun",
            setting="{count} {colour} sun over the sea",
            bare="{count} sunset",
        ),
    ),
    "tree": SceneClass(
        nature.tree,
        "tree",
        Phrases(
            "tree",
            "trees",
            sentence="{count} {colour} {thing} on a hill",
            detail="{count} {thing} with {colour} leaves",
            setting="{count} {colour} {thing} on a hill",
        ),
    ),
    "house": SceneClass(
        man_made.house,
        "house",
        Phrases(
            "house",
            "",
            sentence="{count} {colour} house with a {accent} roof",
            detail="{count} house with a {accent} roof",
            setting="{count} {colour} house on a lawn",
        ),
    ),
    "boat": SceneClass(
        man_made.boat,
        "boat",
        Phrases(
            "boat",
            "boats",
            sentence="{count} {accent} sailing {thing} with {colour} sails on the sea",
            detail="{count} {thing} with {colour} sails",
            setting="{count} {colour} {thing} on the sea",
        ),
    ),
    "mountain": SceneClass(
        nature.mountain,
        "mountain",
        Phrases(
            "mountain",
            "mountains",
            sentence="{count} {colour} {thing} with snow",
            detail="{count} snowy {colour} {thing}",
            setting="{count} {colour} {thing} above a forest",
        ),
    ),
    "flower": SceneClass(
        nature.flower,
        "flower",
        Phrases(
            "flower",
            "",
            sentence="{count} {colour} flower with six petals",
            detail="{count} flower with {colour} petals",
            setting="{count} {colour} flower in a green meadow",
        ),
    ),
    "fish": SceneClass(
        nature.fish,
        "fish",
        Phrases(
            "fish",
            "fish",
            sentence="{count} {colour} fish in blue water",
            detail="{count} {colour} fish swimming",
            setting="{count} {colour} fish in the water",
        ),
    ),
    "night": SceneClass(
        nature.night,
        "star",
        Phrases(
            "",
            "stars",
            sentence="night sky with {count} stars and a {colour} crescent moon",
            detail="a {colour} moon",
            setting="a night sky with {count} stars and a {colour} moon",
            bare="{count} stars and a moon",
            plain="{count} stars and a {colour} moon",
        ),
    ),
    "car": SceneClass(
        man_made.car,
        "car",
        Phrases(
            "car",
            "",
            sentence="{count} {colour} car on a road",
            detail="{count} {colour} car with dark windows",
            setting="{count} {colour} car on a road",
        ),
    ),
    "balloon": SceneClass(
        man_made.balloon,
        "balloon",
        Phrases(
            "balloon",
            "balloons",
            sentence="{count} {colour} {thing} with {accent} stripes in the sky",
            detail="{count} {thing} with {accent} stripes",
            setting="{count} {colour} {thing} in the sky",
        ),
    ),
    "cactus": SceneClass(
        nature.cactus,
        "cactus",
        Phrases(
            "cactus",
            "cacti",
            sentence="{count} {colour} cactus in a desert of {accent} sand",
            detail="{count} {thing} on {accent} sand",
            setting="{count} {colour} {thing} in the desert",
            sentence_many="{count} {colour} cactus plants in a desert of {accent} sand",
        ),
    ),
    "snowman": SceneClass(
        man_made.snowman,
        "snowman",
        Phrases(
            "snowman",
            "",
            sentence="{count} snowman with a {colour} scarf on snow",
            detail="{count} snowman with a black hat and a {colour} scarf",
            setting="{count} snowman with a {colour} scarf in the snow",
            plain="{count} snowman with a {colour} scarf",
        ),
    ),
}
