"""The scene classes: each function draws the pictures of one class into a sketch.

The classes differ in palette and layout as well as in outline, so that a small network
trained for minutes can learn them and a person recognises them at 32x32 pixels.
Lengths are in scene units, y down; see `sketch.Sketch` for what draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simple_diffusion.data.sketch import Sketch, mix, shade

WHITE = (0.97, 0.97, 0.97)
DARK = (0.10, 0.10, 0.13)


def _by_count(count: np.ndarray, *sizes: float) -> np.ndarray:
    return np.array(sizes, np.float32)[count - 1]


def _foot_depth(y: np.ndarray, horizon: np.ndarray) -> np.ndarray:
    """The depth of the ground (as `Sketch.ground` has it) at y, a little nearer."""
    return 0.88 - 0.8 * (y - horizon) / (1 - horizon)


def sun_over_sea(s: Sketch) -> None:
    """A low sun, its reflection on dark water."""
    horizon = s.uniform(0.56, 0.66)
    warm = s.uniform()[:, None]
    top = s.vary(mix((0.36, 0.20, 0.50), (0.75, 0.22, 0.30), 0.5), 0.03)
    top = top + (warm - 0.5) * np.array([0.35, 0.05, -0.25], np.float32)
    low = s.vary((1.00, 0.62, 0.28), 0.05)
    s.begin("sky", thing=False)
    s.fill(top, low, span=(0.0, horizon), waves=s.texture(0.008, 1.5, 5, stretch=3))
    x, r = s.uniform(0.28, 0.72), s.uniform(0.14, 0.20)
    y = horizon - r * s.uniform(0.1, 1.2)
    s.glow(y, x, 2.3 * r, 2.3 * r, (1.0, 0.85, 0.5))
    s.colour, sun = s.named("yellow", "orange", "red")
    s.begin("sun", 0.98)
    s.ellipse(y, x, r, r, shade(sun, 1.25), sun)
    s.begin("water", thing=False)
    waves = s.texture(0.02, 5, 22, stretch=5)
    s.ground(
        horizon, mix(low, (0.22, 0.16, 0.40), 0.72), (0.08, 0.07, 0.24), waves=waves
    )
    for k, (dy, rx) in enumerate(
        [(0.04, 0.8), (0.11, 0.6), (0.19, 0.75), (0.29, 0.45)]
    ):
        s.ellipse(
            horizon + dy, x, 0.016 + 0.004 * k, rx * r, shade(sun, 1.2), opacity=0.48
        )
    s.x = x


def tree(s: Sketch) -> None:
    """One to three round trees on a green hill."""
    horizon = s.uniform(0.68, 0.76)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.45, 0.70, 0.95)),
        s.vary((0.85, 0.94, 0.99), 0.03),
        span=(0.0, horizon),
        waves=s.texture(0.012, 1.5, 5, stretch=2),
    )
    grass = s.vary((0.50, 0.74, 0.28))
    s.begin("ground", thing=False)
    s.ground(horizon + 0.06, grass, shade(grass, 0.8), waves=s.texture(0.014, 6, 30))
    s.ellipse(horizon + 0.3, s.uniform(0.3, 0.7), 0.32, 0.75, shade(grass, 1.12), grass)
    s.count = s.number(0.6, 0.25, 0.15)
    s.colour, leaf = s.named("green", "green", "orange", "red", "pink")
    size = _by_count(s.count, 1.0, 0.72, 0.56) * s.uniform(0.85, 1.05)
    places = s.row(s.count, 3)
    for k, (x, shown) in enumerate(places):
        foot = horizon + 0.10 + 0.03 * k + s.uniform(-0.02, 0.01)
        h = size * s.uniform(0.92, 1.08)
        top = foot - 0.34 * h
        s.begin("tree", _foot_depth(foot, horizon), shown)
        trunk = (x - 0.045 * h, x + 0.045 * h), (x - 0.06 * h, x + 0.06 * h)
        s.quad(top, foot, *trunk, (0.42, 0.27, 0.15), (0.30, 0.19, 0.11))
        s.ellipse(top, x, 0.2 * h, 0.30 * h, shade(leaf, 0.85), shade(leaf, 0.6))
        s.ellipse(top - 0.16 * h, x, 0.2 * h, 0.23 * h, leaf, shade(leaf, 0.75))
        s.glow(top - 0.2 * h, x - 0.07 * h, 0.15 * h, 0.17 * h, shade(leaf, 1.5))
    s.x = places[0][0] * (s.count == 1) + 0.5 * (s.count > 1)


def house(s: Sketch) -> None:
    """A house with a pitched roof, a door, two windows and a chimney, on a lawn."""
    horizon = s.uniform(0.70, 0.78)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.55, 0.76, 0.95)),
        s.vary((0.90, 0.95, 0.98), 0.03),
        span=(0.0, horizon),
        waves=s.texture(0.012, 1.5, 5, stretch=2),
    )
    grass = s.vary((0.36, 0.62, 0.26))
    s.begin("ground", thing=False)
    s.ground(horizon, grass, shade(grass, 0.75), waves=s.texture(0.014, 6, 30))
    s.colour, wall = s.named("white", "yellow", "pink", "blue")
    s.accent, roof = s.named("red", "brown", "grey")
    wall = mix(wall, WHITE, 0.25)
    x, wide, high = s.uniform(0.40, 0.60), s.uniform(0.24, 0.31), s.uniform(0.26, 0.34)
    foot = horizon + s.uniform(0.05, 0.09)
    eaves = foot - high
    ridge = eaves - s.uniform(0.20, 0.27)
    side = np.where(s.uniform() < 0.5, -1, 1)
    s.begin("house", _foot_depth(foot, horizon))
    stack = x + 0.55 * side * wide
    s.box(eaves - 0.13, stack, 0.11, 0.045, shade(roof, 0.7), shade(roof, 0.6))
    s.quad(
        eaves, foot, (x - wide, x + wide), (x - wide, x + wide), wall, shade(wall, 0.9)
    )
    peak = (x - 0.3 * wide, x + 0.3 * wide)
    out = wide + 0.06
    s.quad(
        ridge,
        eaves + 0.02,
        peak,
        (x - out, x + out),
        shade(roof, 1.1),
        shade(roof, 0.85),
    )
    door_x = x - 0.02 * side
    s.box(foot - 0.1, door_x, 0.1, 0.05, shade(roof, 0.55), shade(roof, 0.45))
    for dx in (-0.58, 0.58):
        at = eaves + 0.42 * high, x + dx * wide
        s.box(*at, 0.062, 0.062, WHITE)
        s.box(*at, 0.045, 0.045, (0.30, 0.45, 0.62), (0.52, 0.70, 0.85))
    s.x = x


def sailing_boat(s: Sketch) -> None:
    """One or two boats with two sails on a bright sea."""
    horizon = s.uniform(0.58, 0.66)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.56, 0.80, 0.96)),
        s.vary((0.93, 0.97, 0.98), 0.03),
        span=(0.0, horizon),
        waves=s.texture(0.014, 1.5, 5, stretch=2),
    )
    s.begin("water", thing=False)
    sea = s.vary((0.16, 0.52, 0.74))
    waves = s.texture(0.02, 5, 24, stretch=5)
    s.ground(horizon, sea, mix(sea, (0.03, 0.22, 0.48), 0.8), waves=waves)
    s.count = s.number(0.75, 0.25)
    s.colour, sail = s.named("white", "red", "yellow")
    s.accent, hull = s.named("brown", "blue", "black")
    size = _by_count(s.count, 1.0, 0.62) * s.uniform(0.88, 1.08)
    lean = np.where(s.uniform() < 0.5, -1, 1)
    places = s.row(s.count, 2, loose=0.25)
    for k, (x, shown) in enumerate(places):
        deck = horizon + 0.10 + 0.06 * k + s.uniform(-0.02, 0.02)
        keel = deck + 0.11 * size
        s.begin("boat", _foot_depth(keel, horizon), shown)
        s.quad(
            deck,
            keel,
            (x - 0.32 * size, x + 0.32 * size),
            (x - 0.21 * size, x + 0.21 * size),
            shade(hull, 1.1),
            shade(hull, 0.75),
        )
        top, mast = deck - 0.62 * size, x - 0.03 * size * lean
        pole = (mast - 0.013 * size, mast + 0.013 * size)
        s.quad(top, deck, pole, pole, (0.35, 0.22, 0.12))
        for side, wide, peak in ((1, 0.29, 0.03), (-1, 0.20, 0.12)):
            edge = mast + 0.025 * size * side * lean
            corner = edge + wide * size * side * lean
            left, right = np.minimum(edge, corner), np.maximum(edge, corner)
            foot = deck - 0.045 * size
            s.quad(
                top + peak * size,
                foot,
                (edge, edge),
                (left, right),
                shade(sail, 1.1) if side > 0 else shade(sail, 0.93),
                shade(sail, 0.86),
            )
    s.x = places[0][0] * (s.count == 1) + 0.5 * (s.count > 1)


def mountain(s: Sketch) -> None:
    """One to three peaks with snow above a dark forest."""
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.50, 0.62, 0.88)),
        s.vary((0.95, 0.87, 0.86), 0.03),
        span=(0.0, 0.75),
        waves=s.texture(0.012, 1.5, 5, stretch=3),
    )
    s.count = s.number(0.4, 0.35, 0.25)
    s.colour, rock = s.named("grey", "blue", "purple", "brown")
    rock = mix(rock, (0.42, 0.42, 0.50), 0.55)
    places = s.row(s.count, 3, loose=0.2)
    foot = s.uniform(0.80, 0.86)
    for k in (1, 0, 2):
        x, shown = places[k]
        peak = s.uniform(0.16, 0.26) + 0.08 * (s.count > 1) * (k != 1)
        wide = _by_count(s.count, 0.52, 0.38, 0.30) * s.uniform(0.9, 1.1)
        slope = wide / (foot - peak)
        s.begin("mountain", 0.95 - 0.01 * (k != 1) - 0.01 * (k == 2), shown)
        light = shade(rock, 1.12 if k != 1 else 1.25)
        point = (x, x)
        s.quad(peak, foot, point, (x - wide, x + wide), light, shade(rock, 0.85))
        snow = s.uniform(0.13, 0.18)
        reach = slope * snow
        s.quad(
            peak, peak + snow, point, (x - reach, x + reach), WHITE, (0.88, 0.91, 0.97)
        )
        for part, drop in ((-0.62, 0.07), (0.0, 0.11), (0.62, 0.07)):
            at = x + part * reach
            edge = (at - 0.36 * reach, at + 0.36 * reach)
            y = peak + snow - 0.002
            s.quad(y, y + drop, edge, (at, at), (0.88, 0.91, 0.97))
        s.quad(peak, foot, point, (x, x + wide), shade(rock, 0.35), opacity=0.3)
    s.begin("ground", thing=False)
    forest = s.vary((0.16, 0.36, 0.27), 0.04)
    s.ground(foot - 0.01, forest, shade(forest, 0.6), waves=s.texture(0.02, 6, 30))
    s.x = places[0][0] * (s.count == 1) + 0.5 * (s.count > 1)


def flower(s: Sketch) -> None:
    """One large flower with six petals on a stem, in front of soft green."""
    s.begin("ground", thing=False)
    s.fill(
        s.vary((0.80, 0.92, 0.62)),
        s.vary((0.42, 0.68, 0.34)),
        waves=s.texture(0.016, 1.5, 6),
        depth=(0.95, 0.6),
    )
    s.glow(s.uniform(0.1, 0.4), s.uniform(0.0, 0.3), 0.35, 0.35, (0.95, 1.0, 0.80))
    s.glow(s.uniform(0.6, 0.9), s.uniform(0.7, 1.0), 0.35, 0.35, (0.25, 0.50, 0.25))
    s.colour, petal = s.named("red", "pink", "white", "purple", "orange", "blue")
    x, y = s.uniform(0.40, 0.60), s.uniform(0.34, 0.44)
    size = s.uniform(0.26, 0.33)
    green = s.vary((0.16, 0.45, 0.16))
    foot = x + s.uniform(-0.1, 0.1)
    s.begin("flower", 0.3)
    s.quad(y, 1.02, (x - 0.025, x + 0.025), (foot - 0.035, foot + 0.035), green)
    for side in (-1, 1):
        at = 0.5 * (x + foot) + 0.13 * side
        turn = 0.55 * -side
        s.ellipse(0.84, at, 0.05, 0.15, shade(green, 1.15), shade(green, 0.8), turn)
    turn = s.uniform(0, np.pi / 3)
    for k in range(6):
        angle = turn + k * np.pi / 3
        dy, dx = np.sin(angle), np.cos(angle)
        at = y + 0.58 * size * dy, x + 0.58 * size * dx
        inner, outer = shade(petal, 0.72), shade(petal, 1.12)
        s.ellipse(*at, 0.27 * size, 0.46 * size, outer, mix(inner, outer, 0.4), angle)
    s.ellipse(y, x, 0.3 * size, 0.3 * size, (0.99, 0.85, 0.25), (0.90, 0.62, 0.12))
    s.x = x


def fish(s: Sketch) -> None:
    """One to three fish with bubbles above a sandy floor."""
    s.begin("water", thing=False)
    waves = s.texture(0.016, 2, 9, stretch=2)
    s.fill(s.vary((0.28, 0.80, 0.82)), s.vary((0.02, 0.28, 0.50)), waves=waves)
    s.begin("ground", thing=False)
    sand = s.vary((0.80, 0.72, 0.50), 0.04)
    s.ground(
        s.uniform(0.86, 0.91), sand, shade(sand, 0.75), waves=s.texture(0.02, 6, 30)
    )
    s.count = s.number(0.5, 0.3, 0.2)
    s.colour, skin = s.named("orange", "yellow", "red", "pink")
    size = _by_count(s.count, 1.0, 0.66, 0.56) * s.uniform(0.88, 1.1)
    tall = 0.8 / s.count
    xs = []
    for k in range(3):
        shown = (s.count > k).astype(np.float32)
        x = s.uniform(0.40, 0.60) + s.uniform(-0.14, 0.14) * (s.count > 1)
        y = 0.05 + tall * (k + 0.5 + s.uniform(-0.12, 0.12))
        face = np.where(s.uniform() < 0.5, -1, 1)
        body, fin = 0.26 * size, shade(skin, 0.72)
        s.begin("fish", 0.5 - 0.05 * k, shown)
        near, far = x - 0.7 * body * face, x - 1.55 * body * face
        left, right = np.minimum(near, far), np.maximum(near, far)
        small, large = 0.12 * body, 0.62 * body
        at_left, at_right = (
            np.where(face > 0, a, b) for a, b in ((large, small), (small, large))
        )
        s.quad(
            left,
            right,
            (y - at_left, y + at_left),
            (y - at_right, y + at_right),
            fin,
            sideways=True,
        )
        s.quad(
            y - 0.82 * body,
            y,
            (x - 0.3 * body, x + 0.15 * body),
            (x - 0.5 * body, x + 0.5 * body),
            fin,
        )
        s.ellipse(y, x, 0.58 * body, body, shade(skin, 1.1), shade(skin, 0.85))
        s.glow(y - 0.22 * body, x, 0.3 * body, 0.7 * body, shade(skin, 1.6))
        eye = y - 0.12 * body, x + 0.58 * body * face
        s.ellipse(*eye, 0.15 * body, 0.15 * body, WHITE)
        s.ellipse(*eye, 0.08 * body, 0.08 * body, DARK)
        xs.append(x * shown)
    s.begin("water", 0.3, thing=False)
    for _ in range(3):
        r = s.uniform(0.012, 0.028)
        at = s.uniform(0.05, 0.75), s.uniform(0.05, 0.95)
        s.ellipse(*at, r, r, (0.85, 0.97, 0.98), opacity=0.5)
    s.x = sum(xs) / s.count


def night(s: Sketch) -> None:
    """A crescent moon and three to nine stars above dark hills."""
    s.begin("sky", thing=False)
    s.fill(s.vary((0.03, 0.04, 0.14), 0.02), s.vary((0.16, 0.18, 0.42), 0.04))
    s.count = s.number(1, 1, 1, 1, 1, 1, 1) + 2
    x, y, r = s.uniform(0.28, 0.72), s.uniform(0.26, 0.40), s.uniform(0.15, 0.21)
    # Three rows of three places, around the moon: stars never meet it or each other.
    order = np.argsort(np.stack([s.uniform() for _ in range(9)]), 0)
    spread = np.array([0.08, 0.36, 0.64, 0.92], np.float32)
    for k in range(9):
        place = order[k]
        row, column = place // 3, place % 3
        at_y = np.array([0.06, 0.56, 0.66])[row] + s.uniform(-0.03, 0.03)
        at_x = spread[column] + 0.28 * s.uniform(0.1, 0.9)
        size = s.uniform(0.016, 0.028)
        s.begin("star", 0.99, (s.count > k).astype(np.float32))
        s.ellipse(at_y, at_x, size, size, (1.0, 0.98, 0.85))
    s.begin("sky", thing=False)
    s.glow(y, x, 1.9 * r, 1.9 * r, (0.45, 0.47, 0.65), opacity=0.4)
    s.colour, light = s.named("yellow", "white")
    s.begin("moon", 0.98)
    s.crescent(y, x, r, s.uniform(0.5, 0.75) * r, light)
    s.begin("ground", thing=False)
    hill = s.vary((0.05, 0.10, 0.13), 0.02)
    s.ground(0.92, hill, shade(hill, 0.6))
    s.ellipse(
        1.05, s.uniform(0.1, 0.4), 0.24, 0.55, hill, shade(hill, 0.6), depth=(0.8, 0.3)
    )
    s.x = x


def car(s: Sketch) -> None:
    """A car seen from the side on a grey road."""
    horizon = s.uniform(0.50, 0.56)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.72, 0.85, 0.93)),
        s.vary((0.96, 0.95, 0.90), 0.03),
        span=(0.0, horizon),
        waves=s.texture(0.012, 1.5, 5, stretch=2),
    )
    s.begin("ground", thing=False)
    field = s.vary((0.62, 0.74, 0.36))
    s.ground(horizon, field, shade(field, 0.85), waves=s.texture(0.014, 6, 30))
    s.begin("road", thing=False)
    edge = s.uniform(0.64, 0.68)
    road = s.vary((0.40, 0.41, 0.44), 0.04)
    s.ground(edge, road, shade(road, 0.8), waves=s.texture(0.012, 8, 40))
    for k in range(3):
        x = 0.1 + 0.4 * k + s.uniform(-0.03, 0.03)
        s.quad(
            0.91, 0.945, (x - 0.08, x + 0.08), (x - 0.1, x + 0.1), (0.92, 0.90, 0.80)
        )
    s.colour, paint = s.named("red", "blue", "yellow", "green", "white")
    x, size = s.uniform(0.42, 0.58), s.uniform(0.88, 1.05)
    face = np.where(s.uniform() < 0.5, -1, 1)
    foot = edge + s.uniform(0.12, 0.17)
    half, wheel = 0.40 * size, 0.095 * size
    sill = foot - 0.75 * wheel
    belt = sill - 0.17 * size
    s.begin("car", 0.3)
    s.ellipse(foot, x, 0.03, 1.02 * half, (0.08, 0.08, 0.1), opacity=0.4)
    back = x - 0.06 * size * face
    top = belt - 0.15 * size
    for grow, tint in ((0.0, paint), (-0.035, (0.22, 0.32, 0.42))):
        s.quad(
            top - grow * size,
            belt + 0.01,
            (back - (0.15 + grow) * size, back + (0.15 + grow) * size),
            (back - (0.27 + grow) * size, back + (0.27 + grow) * size),
            shade(tint, 1.15),
            tint,
        )
    s.quad(top, belt, (back - 0.014, back + 0.014), (back - 0.014, back + 0.014), paint)
    middle, deep = 0.5 * (belt + sill), 0.5 * (sill - belt)
    s.box(
        middle, x, deep, half, shade(paint, 1.1), shade(paint, 0.75), corner=0.06 * size
    )
    s.ellipse(
        belt + 0.06 * size, x + 0.365 * size * face, 0.026, 0.026, (1.0, 0.95, 0.65)
    )
    for dx in (-0.22, 0.22):
        at = foot - wheel, x + dx * size
        s.ellipse(*at, wheel, wheel, DARK)
        s.ellipse(*at, 0.5 * wheel, 0.5 * wheel, (0.75, 0.76, 0.78))
    s.x = x


def balloon(s: Sketch) -> None:
    """One or two striped hot-air balloons among clouds."""
    s.begin("sky", thing=False)
    waves = s.texture(0.01, 1.5, 5, stretch=2)
    s.fill(s.vary((0.20, 0.48, 0.88)), s.vary((0.66, 0.85, 0.98)), waves=waves)
    for k in range(2):
        y, x = s.uniform(0.10, 0.35) + 0.5 * k, s.uniform(0.05, 0.95)
        s.begin("cloud", 0.97)
        s.ellipse(y, x - 0.1, 0.05, 0.11, WHITE, (0.90, 0.94, 0.98), opacity=0.9)
        s.ellipse(y - 0.03, x, 0.075, 0.10, WHITE, (0.92, 0.95, 0.98), opacity=0.9)
        s.ellipse(y, x + 0.1, 0.045, 0.10, WHITE, (0.90, 0.94, 0.98), opacity=0.9)
    s.count = s.number(0.75, 0.25)
    s.colour, main = s.named("red", "orange", "purple", "green")
    s.accent, stripe = s.named("yellow", "white")
    size = _by_count(s.count, 1.0, 0.62) * s.uniform(0.88, 1.05)
    places = s.row(s.count, 2, loose=0.25)
    for k, (x, shown) in enumerate(places):
        y = s.uniform(0.36, 0.44) + s.uniform(-0.1, 0.1) * (s.count > 1)
        r = 0.30 * size
        s.begin("balloon", 0.5 - 0.1 * k, shown)
        floor = y + 1.55 * r
        for side in (-1, 1):
            at = (x + 0.42 * side * r, x + 0.20 * side * r)
            rope = [(v - 0.012 * size, v + 0.012 * size) for v in at]
            s.quad(y + 0.8 * r, floor, *rope, (0.30, 0.22, 0.15))
        low = y + 1.18 * r
        s.quad(
            y + 0.62 * r,
            low,
            (x - 0.78 * r, x + 0.78 * r),
            (x - 0.3 * r, x + 0.3 * r),
            shade(main, 0.75),
            shade(main, 0.6),
        )
        s.ellipse(y, x, r, r, shade(main, 1.1), shade(main, 0.75))
        s.ellipse(
            y + 0.09 * r, x, 1.09 * r, 0.62 * r, shade(stripe, 1.1), shade(stripe, 0.75)
        )
        s.ellipse(
            y + 0.09 * r, x, 1.09 * r, 0.26 * r, shade(main, 1.1), shade(main, 0.75)
        )
        s.glow(y - 0.3 * r, x - 0.35 * r, 0.55 * r, 0.45 * r, WHITE, opacity=0.35)
        s.box(
            floor + 0.1 * r,
            x,
            0.17 * r,
            0.24 * r,
            (0.55, 0.36, 0.18),
            (0.36, 0.22, 0.1),
            corner=0.04 * r,
        )
    s.x = places[0][0] * (s.count == 1) + 0.5 * (s.count > 1)


def cactus(s: Sketch) -> None:
    """One or two cacti with arms in a desert."""
    horizon = s.uniform(0.66, 0.74)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.98, 0.74, 0.42)),
        s.vary((1.00, 0.93, 0.72), 0.03),
        span=(0.0, horizon),
        waves=s.texture(0.01, 1.5, 5, stretch=3),
    )
    s.accent, sand = s.named("yellow", "orange", "red")
    sand = mix(sand, (0.85, 0.66, 0.42), 0.6)
    s.begin("ground", thing=False)
    s.ellipse(
        horizon + 0.12,
        s.uniform(0.1, 0.9),
        0.2,
        0.5,
        shade(sand, 0.95),
        depth=(0.92, 0.92),
    )
    s.ground(
        horizon, shade(sand, 1.15), shade(sand, 0.85), waves=s.texture(0.02, 5, 24, 3)
    )
    s.count = s.number(0.7, 0.3)
    s.colour, green = s.named("green")
    size = _by_count(s.count, 1.0, 0.66) * s.uniform(0.88, 1.05)
    places = s.row(s.count, 2, loose=0.25)
    for k, (x, shown) in enumerate(places):
        foot = horizon + 0.12 + 0.05 * k + s.uniform(-0.02, 0.02)
        h, w = 0.33 * size, 0.07 * size
        side = np.where(s.uniform() < 0.5, -1, 1)
        s.begin("cactus", _foot_depth(foot, horizon), shown)
        s.ellipse(
            foot, x + 0.06, 0.03 * size, 0.22 * size, (0.35, 0.2, 0.1), opacity=0.35
        )
        s.box(foot - h, x, h, w, shade(green, 1.1), shade(green, 0.7), corner=w)
        for arm, level, rise in ((side, 0.55, 0.3), (-side, 0.85, 0.26)):
            y = foot - level * h
            thick = 0.046 * size
            out = x + 0.19 * size * arm
            s.box(
                y,
                0.5 * (x + out),
                thick,
                0.5 * np.abs(out - x) + thick,
                green,
                shade(green, 0.8),
                corner=thick,
            )
            s.box(
                y - 0.5 * rise * size * 0.8,
                out,
                0.4 * rise * size + thick,
                thick,
                shade(green, 1.1),
                shade(green, 0.8),
                corner=thick,
            )
    s.x = places[0][0] * (s.count == 1) + 0.5 * (s.count > 1)


def snowman(s: Sketch) -> None:
    """A snowman with a hat and a scarf on snow, under a winter sky."""
    horizon = s.uniform(0.68, 0.76)
    s.begin("sky", thing=False)
    s.fill(
        s.vary((0.30, 0.42, 0.60)),
        s.vary((0.62, 0.72, 0.84)),
        span=(0.0, horizon),
        waves=s.texture(0.01, 1.5, 5, stretch=2),
    )
    s.begin("ground", thing=False)
    s.ground(
        horizon, (0.95, 0.97, 1.0), (0.78, 0.85, 0.95), waves=s.texture(0.01, 4, 20, 2)
    )
    s.begin("sky", 0.9, thing=False)
    for _ in range(3):
        at = s.uniform(0.05, 0.6), s.uniform(0.0, 1.0)
        s.ellipse(*at, 0.014, 0.014, WHITE, opacity=0.5)
    s.colour, scarf = s.named("red", "blue", "green", "purple", "orange")
    x, size = s.uniform(0.36, 0.64), s.uniform(0.88, 1.06)
    foot = horizon + s.uniform(0.12, 0.18)
    snow, grey = (1.0, 1.0, 1.0), (0.80, 0.86, 0.94)
    s.begin("snowman", 0.4)
    s.ellipse(foot, x + 0.05, 0.035, 0.28 * size, (0.35, 0.45, 0.65), opacity=0.4)
    low, chest, head = foot - 0.2 * size, foot - 0.45 * size, foot - 0.645 * size
    s.ellipse(low, x, 0.21 * size, 0.23 * size, snow, grey)
    s.ellipse(chest, x, 0.155 * size, 0.165 * size, snow, grey)
    s.ellipse(head, x, 0.125 * size, 0.125 * size, snow, grey)
    neck = head + 0.11 * size
    s.box(
        neck,
        x,
        0.036 * size,
        0.13 * size,
        scarf,
        shade(scarf, 0.85),
        corner=0.03 * size,
    )
    tail = x + np.where(s.uniform() < 0.5, -1, 1) * 0.07 * size
    s.box(
        neck + 0.1 * size,
        tail,
        0.09 * size,
        0.034 * size,
        scarf,
        shade(scarf, 0.8),
        corner=0.015,
    )
    brim = head - 0.09 * size
    s.box(brim - 0.075 * size, x, 0.085 * size, 0.09 * size, (0.2, 0.2, 0.24), DARK)
    s.box(brim, x, 0.022 * size, 0.15 * size, DARK)
    for side in (-1, 1):
        s.ellipse(
            head - 0.02 * size,
            x + 0.045 * side * size,
            0.018 * size,
            0.018 * size,
            DARK,
        )
    nose = (
        (head + 0.005 * size, head + 0.045 * size),
        (head + 0.03 * size, head + 0.03 * size),
    )
    s.quad(x - 0.01, x + 0.11 * size, *nose, (0.98, 0.50, 0.10), sideways=True)
    for dy in (-0.01, 0.06):
        s.ellipse(chest + dy * size, x, 0.018 * size, 0.018 * size, DARK)
    s.x = x


class SceneClass(NamedTuple):
    """A class: its drawing, the category that is counted, and how to say it.

    The sentences, for one and for several, may hold {count}, {colour}, {accent}.
    """

    draw: Callable[[Sketch], None]
    counted: str
    one: str
    several: str


CLASSES = {
    "sun over sea": SceneClass(
        sun_over_sea, "sun", "{count} {colour} sun over sea", ""
    ),
    "tree": SceneClass(
        tree,
        "tree",
        "{count} {colour} tree on a hill",
        "{count} {colour} trees on a hill",
    ),
    "house": SceneClass(
        house, "house", "{count} {colour} house with a {accent} roof", ""
    ),
    "sailing boat": SceneClass(
        sailing_boat,
        "boat",
        "{count} {accent} sailing boat with {colour} sails on the sea",
        "{count} {accent} sailing boats with {colour} sails on the sea",
    ),
    "mountain": SceneClass(
        mountain,
        "mountain",
        "{count} {colour} mountain with snow",
        "{count} {colour} mountains with snow",
    ),
    "flower": SceneClass(flower, "flower", "{count} {colour} flower on a stem", ""),
    "fish": SceneClass(
        fish, "fish", "{count} {colour} fish in water", "{count} {colour} fish in water"
    ),
    "night sky": SceneClass(
        night, "star", "", "night sky with a {colour} crescent moon and {count} stars"
    ),
    "car": SceneClass(car, "car", "{count} {colour} car on a road", ""),
    "balloon": SceneClass(
        balloon,
        "balloon",
        "{count} {colour} balloon with {accent} stripes in the sky",
        "{count} {colour} balloons with {accent} stripes in the sky",
    ),
    "cactus": SceneClass(
        cactus,
        "cactus",
        "{count} {colour} cactus in a {accent} desert",
        "{count} {colour} cactus plants in a {accent} desert",
    ),
    "snowman": SceneClass(
        snowman, "snowman", "{count} snowman with a {colour} scarf on snow", ""
    ),
}
