"""What a scene class draws with: random numbers, named colours, and shapes.

A `Sketch` describes n pictures of one class at once: every number that varies is a
vector [n]. Random numbers are a hash of the picture's key and of how many were drawn
before, so that a picture does not depend on which others are described with it.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

from simple_diffusion.data.scenes import shapes
from simple_diffusion.data.scenes.hashes import DRAWS

COLOURS = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.97, 0.50, 0.10),
    "yellow": (0.98, 0.83, 0.20),
    "green": (0.22, 0.58, 0.24),
    "blue": (0.16, 0.36, 0.82),
    "purple": (0.52, 0.26, 0.68),
    "pink": (0.97, 0.55, 0.72),
    "white": (0.96, 0.96, 0.95),
    "grey": (0.52, 0.54, 0.58),
    "brown": (0.47, 0.29, 0.16),
    "black": (0.13, 0.13, 0.16),
}
COLOUR_NAMES = tuple(COLOURS)

CATEGORIES = (
    "sky",
    "water",
    "ground",
    "road",
    "cloud",
    "sun",
    "moon",
    "star",
    "tree",
    "house",
    "boat",
    "mountain",
    "flower",
    "fish",
    "car",
    "balloon",
    "cactus",
    "snowman",
)

SLOTS = 32

# A light or a shadow on something: below shapes.OPAQUE, since it hides nothing.
FAINT = 0.45

Number = Any  # a float, or a vector [n] of them
Colour = Any  # three floats, or [n, 3]
Options = Any  # of `Sketch.add`

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_WARMTH = np.array([1, 0, -1], np.float32)

# The numbers of a primitive, one after the other.
_FIELDS = {
    "geometry": slice(0, 6),
    "colour": slice(6, 12),
    "span": slice(12, 14),
    "depth": slice(14, 16),
    "opacity": slice(16, 17),
}
_ROW = 17


def mix(a: Colour, b: Colour, share: Number) -> Float[np.ndarray, "*n 3"]:
    """Returns a colour between a (share 0) and b (share 1)."""
    return np.asarray(a, np.float32) * (1 - share) + np.asarray(b, np.float32) * share


def shade(colour: Colour, factor: float) -> Float[np.ndarray, "*n 3"]:
    """Returns a colour made darker (factor below 1), or lighter towards white."""
    if factor > 1:
        return mix(colour, (1.0, 1.0, 1.0), factor - 1)
    return np.asarray(colour, np.float32) * factor


class Drawing(NamedTuple):
    """A finished sketch: the fields of `Primitives`, for the m used slots.

    fixed: kind, category, instance, texture: the same in all pictures.
    numbers: all that varies, in the order of `_FIELDS`.
    """

    fixed: Int8[np.ndarray, "4 m"]
    numbers: Float32[np.ndarray, "n m row"]
    waves: Float32[np.ndarray, "n t k 4"]


class Sketch:
    """The pictures of one class, while they are described.

    `scenery` and `thing` say what the primitives that follow belong to; then each call
    adds one primitive in front of all before it.

    Attributes:
      count, colour, accent, x: the facts of the caption: the number of objects, the
        numbers of one or two named colours, and the position across the picture.
    """

    def __init__(self, random: Float32[np.ndarray, "k n"]):
        self.count: Number = 1
        self.colour: Number = -1
        self.accent: Number = -1
        self.x: Number = 0.5
        self._random = random
        self._drawn = 0
        self._things = 0
        self._now: tuple[int, int, Number, Number] = (0, 0, 1.0, 1.0)
        self._fixed: list[tuple[int, int, int, int]] = []
        self._numbers: list[Number] = []
        self._waves: list[np.ndarray] = []

    # Random numbers.

    def uniform(self, low: Number = 0.0, high: Number = 1.0) -> Float[np.ndarray, "n"]:
        """Returns a number between low and high for each picture."""
        self._drawn += 1
        return self._random[self._drawn - 1] * (high - low) + low

    def sign(self) -> Float32[np.ndarray, "n"]:
        """Returns -1 or 1."""
        return np.where(self.uniform() < 0.5, np.float32(-1), np.float32(1))

    def number(self, *weights: int | float) -> Int[np.ndarray, "n"]:
        """Returns 1, 2, ... with these probabilities."""
        ends = np.cumsum(weights)[:-1] / sum(weights)
        return (self.uniform()[:, None] >= ends).sum(1) + 1

    def choose_colour(
        self, *names: str
    ) -> tuple[Int[np.ndarray, "n"], Float32[np.ndarray, "n 3"]]:
        """Returns one of the named colours: its number, and its value, varied."""
        numbers = np.array([COLOUR_NAMES.index(name) for name in names])
        picked = numbers[(self.uniform() * len(names)).astype(np.int64)]
        return picked, self.vary(_PALETTE[picked])

    def vary(self, colour: Colour, by: float = 0.05) -> Float32[np.ndarray, "n 3"]:
        """Returns the colour with its brightness and warmth varied by up to `by`."""
        light, warm = self.uniform(-by, by), self.uniform(-by / 2, by / 2)
        shift = light[:, None] + warm[:, None] * _WARMTH
        return np.minimum(np.maximum(shift + np.asarray(colour, np.float32), 0), 1)

    def row(
        self, count: Number, limit: int, jitter: float
    ) -> list[tuple[Float[np.ndarray, "n"], Float32[np.ndarray, "n"]]]:
        """Returns (x, shown) of up to `limit` things side by side across the picture.

        They deviate from even spacing by up to `jitter` times the room that each has.
        """
        room = 1.0 / count
        return [
            (
                room * (self.uniform(-jitter, jitter) + (k + 0.5)),
                (count > k).astype(np.float32),
            )
            for k in range(limit)
        ]

    def texture(
        self,
        amplitude: float,
        low: int | float,
        high: int | float,
        stretch: int | float = 1,
    ) -> Float32[np.ndarray, "n k 4"]:
        """Returns plane waves in all directions, of low to high cycles per unit.

        A stretch above 1 makes their pattern that much wider, as waves on water are.
        """
        k = shapes.WAVES
        u = self._random[self._drawn : self._drawn + 3 * k].T.reshape(-1, 3, k)
        self._drawn += 3 * k
        octaves = (np.arange(k, dtype=np.float32) + u[:, 0]) / k  # evenly spread
        cycles = 2 * np.pi * low * (high / low) ** octaves
        angle, phase = np.pi * u[:, 1], 2 * np.pi * u[:, 2]
        ky, kx = cycles * np.cos(angle), cycles * np.sin(angle) / stretch
        return np.stack([np.full_like(angle, amplitude), ky, kx, phase], -1)

    # What the primitives that follow belong to.

    def scenery(self, category: str, depth: Number = 1.0) -> None:
        """Starts a part of the scenery, which has no box."""
        self._now = CATEGORIES.index(category), 0, depth, 1.0

    def thing(self, category: str, depth: Number, shown: Number = 1.0) -> None:
        """Starts an object; shown is 0 in the pictures that do not have it."""
        self._things += 1
        self._now = CATEGORIES.index(category), self._things, depth, shown

    # Primitives.

    def add(
        self,
        kind: int,
        geometry: tuple[Number, ...],
        colour: Colour,
        lower: Colour | None = None,
        *,
        opacity: Number = 1.0,
        span: tuple[Number, Number] = (0.0, 0.0),
        depth: tuple[Number, Number] | None = None,
        texture: Float32[np.ndarray, "n k 4"] | None = None,
    ) -> None:
        """Adds a primitive; its colour goes to `lower` at the lower end of its span."""
        category, thing, depth_now, shown = self._now
        if texture is not None:
            self._waves.append(texture)
        number = 0 if texture is None else len(self._waves)
        self._fixed.append((kind, category, thing, number))
        upper = np.asarray(colour).T
        self._numbers += [
            *geometry,
            *(0.0,) * (shapes.NUMBERS - len(geometry)),
            *upper,
            *(upper if lower is None else np.asarray(lower).T),
            *span,
            *(depth or (depth_now, depth_now)),
            opacity * shown,
        ]

    def sky(
        self, top: Colour, low: Colour, horizon: Number, stretch: int | float = 2
    ) -> None:
        """Adds a sky with faint clouds, everywhere."""
        self.scenery("sky")
        texture = self.texture(0.011, 1.5, 5, stretch)
        self.add(shapes.FILL, (), top, low, span=(0.0, horizon), texture=texture)

    def fill(self, colour: Colour, lower: Colour, **options: Options) -> None:
        """Adds something that is everywhere."""
        self.add(shapes.FILL, (), colour, lower, span=(0.0, 1.0), **options)

    def ground(
        self, y: Number, colour: Colour, lower: Colour, **options: Options
    ) -> None:
        """Adds everything below y; over its span, depth falls from 0.9 to 0.1."""
        options = {"span": (y, 1.0), "depth": (0.9, 0.1)} | options
        self.add(shapes.BAND, (y,), colour, lower, **options)

    def ellipse(
        self,
        y: Number,
        x: Number,
        ry: Number,
        rx: Number,
        colour: Colour,
        lower: Colour | None = None,
        angle: Number = 0.0,
        **options: Options,
    ) -> None:
        """Adds an ellipse with radii ry and rx, turned clockwise by `angle`."""
        geometry = (y, x, ry, rx, angle)
        self.add(shapes.ELLIPSE, geometry, colour, lower, **options)

    def disc(
        self, y: Number, x: Number, r: Number, colour: Colour, **options: Options
    ) -> None:
        """Adds a disc."""
        self.ellipse(y, x, r, r, colour, **options)

    def glow(
        self,
        y: Number,
        x: Number,
        ry: Number,
        rx: Number,
        colour: Colour,
        opacity: float = FAINT,
    ) -> None:
        """Adds a light that fades from its centre to the edge of an ellipse."""
        self.add(shapes.GLOW, (y, x, ry, rx), colour, opacity=opacity)

    def crescent(
        self, y: Number, x: Number, r: Number, shift: Number, colour: Colour
    ) -> None:
        """Adds a disc less that disc moved right by `shift` and up by a third of it."""
        self.add(shapes.CRESCENT, (y, x, r, r, 0.0, shift), colour)

    def quad(
        self,
        y0: Number,
        y1: Number,
        top: tuple[Number, Number],
        bottom: tuple[Number, Number],
        colour: Colour,
        lower: Colour | None = None,
        *,
        sideways: bool = False,
        **options: Options,
    ) -> None:
        """Adds a quadrilateral whose level sides, (left, right), are at y0 and y1.

        Sideways, x and y change roles: (upper, lower) at the left and the right end.
        """
        kind = shapes.QUAD_SIDE if sideways else shapes.QUAD
        self.add(kind, (y0, y1, *top, *bottom), colour, lower, **options)

    def box(
        self,
        y: Number,
        x: Number,
        ry: Number,
        rx: Number,
        colour: Colour,
        lower: Colour | None = None,
        corner: Number = 0.0,
        **options: Options,
    ) -> None:
        """Adds a box with half sides ry and rx and round corners."""
        geometry = (y, x, ry, rx, corner)
        self.add(shapes.ROUND_BOX, geometry, colour, lower, **options)

    def finish(self) -> Drawing:
        """Returns the finished drawing."""
        n = self._random.shape[1]
        sizes = len(self._fixed), self._drawn, len(self._waves)
        limits = SLOTS, DRAWS, shapes.TEXTURES
        if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            raise ValueError(
                f"primitives, random numbers and textures {sizes} exceed {limits}"
            )
        varies = np.array([type(v) is np.ndarray for v in self._numbers])
        numbers = np.empty((len(varies), n), np.float32)
        numbers[varies] = np.array(list(compress(self._numbers, varies)))
        fixed_numbers = np.array(list(compress(self._numbers, ~varies)))
        numbers[~varies] = fixed_numbers[:, None]
        waves = np.zeros((n, shapes.TEXTURES, shapes.WAVES, 4), np.float32)
        for k, texture in enumerate(self._waves):
            waves[:, k] = texture
        fixed = np.array(self._fixed, np.int8).T
        return Drawing(fixed, numbers.T.reshape(n, -1, _ROW), waves)


def assemble(
    drawings: Sequence[Drawing], rows: Sequence[Int[np.ndarray, "_"]]
) -> shapes.Primitives:
    """Returns the pictures of several drawings, each put into its rows."""
    b = sum(len(of) for of in rows)
    fixed = np.zeros((4, b, SLOTS), np.int8)
    numbers = np.zeros((b, SLOTS, _ROW), np.float32)
    waves = np.zeros((b, shapes.TEXTURES, shapes.WAVES, 4), np.float32)
    for drawing, of in zip(drawings, rows, strict=True):
        used = drawing.fixed.shape[1]
        fixed[:, of, :used] = drawing.fixed[:, None]
        numbers[of, :used] = drawing.numbers
        waves[of] = drawing.waves
    fields = {name: numbers[:, :, at] for name, at in _FIELDS.items()}
    fields["colour"] = fields["colour"].reshape(b, SLOTS, 2, 3)
    fields["opacity"] = fields["opacity"][:, :, 0]
    names = "kind", "category", "instance", "texture"
    return shapes.Primitives(
        **dict(zip(names, fixed, strict=True)), **fields, waves=waves
    )
