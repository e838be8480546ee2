"""What a scene class draws with: random numbers, named colours, and primitives.

A `Sketch` describes n pictures of one class at once: every number that varies is a
vector [n]. Random numbers are a hash of the picture's key and of how many were drawn
before, so that a picture does not depend on which others are described with it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt64

from simple_diffusion.data import render
from simple_diffusion.data.render import FAR, Primitives

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
DRAWS = 128  # random numbers that a picture may use

Number = Any  # a float, or a vector [n] of them
Colour = Any  # three floats, or [n, 3]

_PALETTE = np.array(list(COLOURS.values()), np.float32)

# Where the fields of a primitive lie in a slot of the flat table that a sketch fills.
_SIZES = {
    "shape": render.SHAPE_SIZE,
    "bounds": 4,
    "colour": 6,
    "span": 2,
    "opacity": 1,
    "depth": 2,
    "waves": 4 * render.WAVES,
}
_ENDS = np.cumsum(list(_SIZES.values())).tolist()
_FIELDS = {
    name: slice(end - size, end)
    for (name, size), end in zip(_SIZES.items(), _ENDS, strict=True)
}
_ROW = _ENDS[-1]


def mix64(v: UInt64[np.ndarray, "*s"]) -> UInt64[np.ndarray, "*s"]:
    """Returns a bijective hash of 64-bit words (the finaliser of SplitMix64)."""
    v = v + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return v ^ (v >> np.uint64(31))


def uniforms(keys: UInt64[np.ndarray, "n"], count: int) -> Float32[np.ndarray, "k n"]:
    """Returns `count` random numbers in [0, 1) for each key."""
    words = mix64(keys + mix64(np.arange(count, dtype=np.uint64))[:, None])
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Returns a colour between a (share 0) and b (share 1)."""
    return np.asarray(a) * (1 - share) + np.asarray(b) * share


def shade(colour: Colour, factor: float) -> Colour:
    """Returns a colour made darker (factor below 1), or lighter towards white."""
    if factor <= 1:
        return np.asarray(colour) * factor
    return mix(colour, (1.0, 1.0, 1.0), factor - 1)


class Sketch:
    """The pictures of one class, while they are described.

    `begin` says what the primitives that follow belong to; then each call adds one
    primitive in front of all before it.

    Attributes:
      count, colour, accent, x: what the caption tells: how many of the thing there are,
        numbers of one or two named colours, and where it is across the picture.
    """

    def __init__(self, keys: UInt64[np.ndarray, "n"]):
        self.n = len(keys)
        self._uniforms = uniforms(keys, DRAWS)
        self._drawn = 0
        self._static: list[tuple[int, int, int]] = []  # kind, category, instance
        self._constants: dict[int, float] = {}
        self._columns: dict[int, Number] = {}
        self._now: tuple[int, int, Number, Number] = (0, 0, 1.0, 1.0)
        self._instances = 0
        self.count: Number = 1
        self.colour: Number = -1
        self.accent: Number = -1
        self.x: Number = 0.5

    # Random numbers.

    def uniform(
        self, low: Number = 0.0, high: Number = 1.0
    ) -> Float32[np.ndarray, "n"]:
        """Returns a number between low and high for each picture."""
        self._drawn += 1
        return self._uniforms[self._drawn - 1] * (high - low) + low

    def chance(self, probability: float) -> Float32[np.ndarray, "n"]:
        """Returns 1 with this probability, else 0."""
        return (self.uniform() < probability).astype(np.float32)

    def number(self, *weights: float) -> Int[np.ndarray, "n"]:
        """Returns 1, 2, ... with these probabilities."""
        ends = np.cumsum(weights) / sum(weights)
        return (self.uniform()[:, None] >= ends[:-1]).sum(1) + 1

    def named(
        self, *names: str
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Returns one of the named colours: its number, and its value, varied."""
        numbers = np.array([COLOUR_NAMES.index(name) for name in names])
        picked = numbers[(self.uniform() * len(names)).astype(np.int64)]
        return picked, self.vary(_PALETTE[picked])

    def vary(self, colour: Colour, by: float = 0.05) -> Float[np.ndarray, "n 3"]:
        """Returns the colour with its brightness and warmth varied by up to `by`."""
        light, warm = self.uniform(-by, by), self.uniform(-by / 2, by / 2)
        shift = np.stack([light + warm, light, light - warm], -1)
        return np.clip(np.asarray(colour, np.float32) + shift, 0.0, 1.0)

    def row(self, count: Number, most: int, loose: float = 0.35) -> list[Any]:
        """Returns (x, shown) of up to `most` things side by side across the picture."""
        share = 1.0 / count
        return [
            (
                share * (k + 0.5 + self.uniform(-loose, loose)),
                (count > k).astype(np.float32),
            )
            for k in range(most)
        ]

    def texture(
        self,
        amplitude: float,
        low: float = 3.0,
        high: float = 12.0,
        stretch: float = 1.0,
    ) -> Float32[np.ndarray, "n k 4"]:
        """Returns plane waves in all directions, of low to high cycles per unit.

        A stretch above 1 makes their pattern that much wider, as waves on water are.
        """
        k = render.WAVES
        u = self._uniforms[self._drawn : self._drawn + 3 * k].reshape(3, k, self.n)
        self._drawn += 3 * k
        cycles = (
            2 * np.pi * (low * (high / low) ** ((np.arange(k)[:, None] + u[0]) / k))
        )
        angle = np.pi * u[1]
        size = np.full_like(angle, amplitude)
        parts = [size, cycles * np.cos(angle), cycles * np.sin(angle) / stretch]
        return np.stack([*parts, 2 * np.pi * u[2]], -1).swapaxes(0, 1)

    # Primitives.

    def begin(
        self,
        category: str,
        depth: Number = 1.0,
        shown: Number = 1.0,
        thing: bool = True,
    ) -> None:
        """Starts an object, or with thing=False a part of the scenery."""
        self._instances += thing
        instance = self._instances if thing else 0
        self._now = CATEGORIES.index(category), instance, depth, shown

    def _put(self, slot: int, field: str, values: Any) -> None:
        at = slot * _ROW + _FIELDS[field].start
        for k, value in enumerate(values):
            if isinstance(value, np.ndarray) and value.ndim:
                self._columns[at + k] = value
            else:
                self._constants[at + k] = value

    def add(
        self,
        kind: int,
        shape: tuple[Number, ...],
        bounds: tuple[Number, ...],
        colour: Colour,
        lower: Colour | None = None,
        opacity: Number = 1.0,
        span: tuple[Number, Number] | None = None,
        depth: tuple[Number, Number] | None = None,
        waves: Any = None,
    ) -> None:
        """Adds a primitive; its colour goes to `lower` at the lower end of the span."""
        slot = len(self._static)
        category, instance, depth_now, shown = self._now
        self._static.append((kind, category, instance))
        upper = np.asarray(colour).T
        lower = upper if lower is None else np.asarray(lower).T
        self._put(slot, "shape", shape)
        self._put(slot, "bounds", bounds)
        self._put(slot, "colour", [*upper, *lower])
        self._put(slot, "span", span or (bounds[0], bounds[2]))
        self._put(slot, "opacity", [opacity * shown])
        self._put(slot, "depth", depth or (depth_now, depth_now))
        if waves is not None:
            self._put(slot, "waves", waves.reshape(self.n, -1).T)

    def fill(self, colour: Colour, lower: Colour, **options: Any) -> None:
        """Adds a background that is everywhere; its span is the unit square."""
        span = options.pop("span", (0.0, 1.0))
        everywhere = (-FAR, -FAR, FAR, FAR)
        self.add(render.FILL, (), everywhere, colour, lower, span=span, **options)

    def ground(
        self,
        y: Number,
        colour: Colour,
        lower: Colour,
        near: float = 0.1,
        **options: Any,
    ) -> None:
        """Adds everything below y, coming nearer from 0.9 to `near` at the bottom."""
        bounds = (y, -FAR, FAR, FAR)
        options |= {"span": (y, 1.0), "depth": (0.9, near)}
        self.add(render.BAND, (y,), bounds, colour, lower, **options)

    def ellipse(
        self,
        y: Number,
        x: Number,
        ry: Number,
        rx: Number,
        colour: Colour,
        lower: Colour | None = None,
        angle: Number = 0.0,
        kind: int = render.ELLIPSE,
        bite: tuple[Number, ...] = (),
        **options: Any,
    ) -> None:
        """Adds an ellipse with radii ry and rx, turned clockwise by `angle`."""
        cos, sin = np.cos(angle), np.sin(angle)
        high = np.sqrt((ry * cos) ** 2 + (rx * sin) ** 2)
        wide = np.sqrt((rx * cos) ** 2 + (ry * sin) ** 2)
        bounds = (y - high, x - wide, y + high, x + wide)
        shape = (y, x, *render.ellipse_form(ry, rx, angle), *bite)
        self.add(kind, shape, bounds, colour, lower, **options)

    def glow(self, *args: Any, **options: Any) -> None:
        """Adds an ellipse that fades from its centre to its edge."""
        options.setdefault("opacity", OPACITY_OF_LIGHT)
        self.ellipse(*args, kind=render.GLOW, **options)

    def crescent(
        self, y: Number, x: Number, r: Number, shift: Number, colour: Colour, **o: Any
    ) -> None:
        """Adds a disc less that disc shifted right by `shift`, up by a third of it."""
        bite = (-shift / 3, shift)
        self.ellipse(y, x, r, r, colour, kind=render.CRESCENT, bite=bite, **o)

    def quad(
        self,
        y0: Number,
        y1: Number,
        top: tuple[Number, Number],
        bottom: tuple[Number, Number],
        colour: Colour,
        lower: Colour | None = None,
        sideways: bool = False,
        **options: Any,
    ) -> None:
        """Adds a quadrilateral whose level sides, (left, right), are at y0 and y1.

        Sideways, x and y change roles: `top` is then (upper, lower) at the left end.
        """
        shape = (y0, y1)
        cosines = ()
        for start, end in zip(top, bottom, strict=True):
            slope = (end - start) / (y1 - y0)
            shape += (start, slope)
            cosines += (1.0 / np.sqrt(1.0 + slope * slope),)
        low, high = np.minimum(top[0], bottom[0]), np.maximum(top[1], bottom[1])
        bounds = (low, y0, high, y1) if sideways else (y0, low, y1, high)
        kind = render.QUAD_SIDE if sideways else render.QUAD
        self.add(kind, shape + cosines, bounds, colour, lower, **options)

    def box(
        self,
        y: Number,
        x: Number,
        ry: Number,
        rx: Number,
        colour: Colour,
        lower: Colour | None = None,
        corner: Number = 0.0,
        **options: Any,
    ) -> None:
        """Adds a box with half sides ry and rx and round corners."""
        shape = (y, x, ry - corner, rx - corner, corner)
        bounds = (y - ry, x - rx, y + ry, x + rx)
        self.add(render.ROUND_BOX, shape, bounds, colour, lower, **options)

    def finish(self) -> Primitives:
        """Returns what was sketched."""
        if len(self._static) > SLOTS or self._drawn > DRAWS:
            raise ValueError(
                f"{len(self._static)} primitives of {SLOTS} slots and {self._drawn} "
                f"random numbers of {DRAWS}: raise SLOTS or DRAWS"
            )
        table = np.zeros((self.n, SLOTS * _ROW), np.float32)
        table[:, list(self._constants)] = np.array(
            list(self._constants.values()), np.float32
        )
        if self._columns:
            table[:, list(self._columns)] = np.array(list(self._columns.values())).T
        table = table.reshape(self.n, SLOTS, _ROW)
        parts = {name: table[:, :, part] for name, part in _FIELDS.items()}
        # A span of length zero would divide by zero in the slots that are not used.
        parts["span"][:, len(self._static) :, 1] = 1.0
        static = np.zeros((SLOTS, 3), np.int8)
        static[: len(self._static)] = self._static
        kind, category, instance = np.broadcast_to(
            static.T[:, None], (3, self.n, SLOTS)
        )
        return Primitives(
            kind=kind,
            category=category,
            instance=instance,
            shape=parts["shape"],
            bounds=parts["bounds"],
            colour=parts["colour"].reshape(self.n, SLOTS, 2, 3),
            span=parts["span"],
            opacity=parts["opacity"][..., 0],
            depth=parts["depth"],
            waves=parts["waves"].reshape(self.n, SLOTS, render.WAVES, 4),
        )


# A light or a shadow on something must stay below render.OPAQUE: it hides nothing.
OPACITY_OF_LIGHT = 0.45
