"""The table of scene classes: how each is drawn, what it counts, and its captions."""

from collections.abc import Callable
from typing import NamedTuple

from simple_diffusion.data.scenes import man_made, nature
from simple_diffusion.data.scenes.sketch import Sketch


class SceneClass(NamedTuple):
    """One class of scenes.

    draw: adds its primitives to a sketch.
    counted_category: the category of which a picture has `count`.
    caption_one, caption_many: for one and for more, from {count}, {colour}, {accent};
      empty where there is never one, or never more.
    """

    draw: Callable[[Sketch], None]
    counted_category: str
    caption_one: str
    caption_many: str = ""


# The order is the order of class numbers: models have been trained with it.
CLASSES = {
    "sunset": SceneClass(
        nature.sunset, "sun", "sunset with {count} {colour} sun over the sea"
    ),
    "tree": SceneClass(
        nature.tree,
        "tree",
        "{count} {colour} tree on a hill",
        "{count} {colour} trees on a hill",
    ),
    "house": SceneClass(
        man_made.house, "house", "{count} {colour} house with a {accent} roof"
    ),
    "boat": SceneClass(
        man_made.boat,
        "boat",
        "{count} {accent} sailing boat with {colour} sails on the sea",
        "{count} {accent} sailing boats with {colour} sails on the sea",
    ),
    "mountain": SceneClass(
        nature.mountain,
        "mountain",
        "{count} {colour} mountain with snow",
        "{count} {colour} mountains with snow",
    ),
    "flower": SceneClass(
        nature.flower, "flower", "{count} {colour} flower with six petals"
    ),
    "fish": SceneClass(
        nature.fish,
        "fish",
        "{count} {colour} fish in blue water",
        "{count} {colour} fish in blue water",
    ),
    "night": SceneClass(
        nature.night,
        "star",
        "",
        "night sky with {count} stars and a {colour} crescent moon",
    ),
    "car": SceneClass(man_made.car, "car", "{count} {colour} car on a road"),
    "balloon": SceneClass(
        man_made.balloon,
        "balloon",
        "{count} {colour} balloon with {accent} stripes in the sky",
        "{count} {colour} balloons with {accent} stripes in the sky",
    ),
    "cactus": SceneClass(
        nature.cactus,
        "cactus",
        "{count} {colour} cactus in a desert of {accent} sand",
        "{count} {colour} cactus plants in a desert of {accent} sand",
    ),
    "snowman": SceneClass(
        man_made.snowman, "snowman", "{count} snowman with a {colour} scarf on snow"
    ),
}
