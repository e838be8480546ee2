"""Scene classes of nature: sunset, tree, mountain, flower, fish, night, cactus.

Each function draws pictures of one class; lengths are in scene units, y down. Classes
differ in palette and layout as well as in outline, so that a small network trained for
minutes learns them and a person knows them at 32x32 pixels.
"""

import numpy as np

from simple_diffusion.data.scenes.sketch import FAINT, Number, Sketch, mix, shade

WHITE = (0.97, 0.97, 0.97)
DARK = (0.10, 0.10, 0.13)


def select_by_count(count: Number, *sizes: float) -> Number:
    """Returns the size for one thing, two things, ... in a picture."""
    return np.array(sizes, np.float32)[count - 1]


def foot_depth(y: Number, horizon: Number) -> Number:
    """Returns a depth just nearer than the ground (as `Sketch.ground`) at y."""
    return 0.88 - 0.8 * (y - horizon) / (1 - horizon)


def middle(count: Number, first: Number) -> Number:
    """Returns the x of one thing, or of a row of things over the full picture."""
    return np.where(count == 1, first, 0.5)


def sunset(s: Sketch) -> None:
    """A low sun over dark water that reflects it."""
    horizon = s.uniform(0.56, 0.66)
    warmth = s.uniform(-0.5, 0.5)[:, None] * np.array([0.35, 0.05, -0.25], np.float32)
    low = s.vary((1.00, 0.62, 0.28))
    s.sky(s.vary((0.55, 0.21, 0.40), 0.03) + warmth, low, horizon, stretch=3)
    x, r = s.uniform(0.28, 0.72), s.uniform(0.14, 0.20)
    y = horizon - r * s.uniform(0.25, 1.2)
    s.glow(y, x, 2.3 * r, 2.3 * r, (1.0, 0.85, 0.5))
    s.colour, sun = s.choose_colour("yellow", "orange", "red")
    s.thing("sun", 0.98)
    s.disc(y, x, r, shade(sun, 1.4), lower=shade(sun, 1.05))
    s.scenery("water")
    sea = mix(low, (0.22, 0.16, 0.40), 0.72)
    waves = s.texture(0.02, 5, 22, stretch=5)
    s.ground(horizon, sea, (0.08, 0.07, 0.24), texture=waves)
    glint = shade(sun, 1.2)
    for k, (dy, rx) in enumerate(
        [(0.04, 0.8), (0.11, 0.6), (0.19, 0.75), (0.29, 0.45)]
    ):
        s.ellipse(horizon + dy, x, 0.016 + 0.004 * k, rx * r, glint, opacity=FAINT)
    s.x = x


def tree(s: Sketch) -> None:
    """One to three round trees on a green hill."""
    horizon = s.uniform(0.68, 0.76)
    s.sky(s.vary((0.45, 0.70, 0.95)), s.vary((0.85, 0.94, 0.99), 0.03), horizon)
    grass = s.vary((0.50, 0.74, 0.28))
    s.scenery("ground")
    blades = s.texture(0.012, 6, 30)
    s.ground(horizon + 0.06, grass, shade(grass, 0.8), texture=blades)
    top, light = s.uniform(0.3, 0.7), shade(grass, 1.12)
    slope = {"span": (horizon, 1.0), "depth": (0.9, 0.1)}
    s.ellipse(horizon + 0.62, top, 0.64, 1.06, light, grass, **slope)
    s.count = s.number(0.6, 0.25, 0.15)
    s.colour, leaf = s.choose_colour("green", "green", "orange", "red", "pink")
    dark, light = shade(leaf, 0.75), shade(leaf, 1.5)
    size = select_by_count(s.count, 1.0, 0.70, 0.54) * s.uniform(0.85, 1.05)
    places = s.row(s.count, 3, jitter=0.2)
    for k, (x, shown) in enumerate(places):
        foot = horizon + 0.11 + 0.03 * k + s.uniform(-0.02, 0.01)
        h = size * s.uniform(0.92, 1.08)
        crown = foot - 0.34 * h
        s.thing("tree", foot_depth(foot, horizon), shown)
        trunk = (x - 0.045 * h, x + 0.045 * h), (x - 0.06 * h, x + 0.06 * h)
        s.quad(crown, foot, *trunk, (0.42, 0.27, 0.15), (0.30, 0.19, 0.11))
        s.ellipse(crown, x, 0.2 * h, 0.30 * h, shade(leaf, 0.85), shade(leaf, 0.6))
        s.ellipse(crown - 0.16 * h, x, 0.2 * h, 0.23 * h, leaf, dark)
        s.glow(crown - 0.2 * h, x - 0.07 * h, 0.15 * h, 0.17 * h, light)
    s.x = middle(s.count, places[0][0])


def mountain(s: Sketch) -> None:
    """One to three peaks with snow above a dark forest."""
    s.sky(s.vary((0.50, 0.62, 0.88)), s.vary((0.95, 0.87, 0.86), 0.03), 0.75, stretch=3)
    s.count = s.number(0.4, 0.35, 0.25)
    s.colour, rock = s.choose_colour("grey", "blue", "purple", "brown")
    rock = mix(rock, (0.42, 0.42, 0.50), 0.55)
    places = s.row(s.count, 3, jitter=0.2)
    foot = s.uniform(0.80, 0.86)
    snow_low = (0.88, 0.91, 0.97)
    for depth, k in ((0.95, 1), (0.94, 0), (0.93, 2)):
        x, shown = places[k]
        peak = s.uniform(0.16, 0.26) + 0.08 * (s.count > 1) * (k != 1)
        wide = select_by_count(s.count, 0.52, 0.38, 0.30) * s.uniform(0.9, 1.1)
        point, base = (x, x), (x - wide, x + wide)
        s.thing("mountain", depth, shown)
        s.quad(peak, foot, point, base, shade(rock, 1.15), shade(rock, 0.85))
        snow = s.uniform(0.13, 0.18)
        reach = wide * snow / (foot - peak)
        edge = (x - reach, x + reach)
        s.quad(peak, peak + snow, point, edge, WHITE, snow_low)
        for part, drop in ((-0.62, 0.07), (0.0, 0.11), (0.62, 0.07)):
            at = x + part * reach
            edge = (at - 0.36 * reach, at + 0.36 * reach)
            y = peak + snow - 0.002  # no gap between the two edges
            s.quad(y, y + drop, edge, (at, at), snow_low)
        s.quad(peak, foot, point, (x, x + wide), shade(rock, 0.35), opacity=0.3)
    s.scenery("ground")
    forest = s.vary((0.16, 0.36, 0.27), 0.04)
    s.ground(foot - 0.01, forest, shade(forest, 0.6), texture=s.texture(0.018, 6, 30))
    s.x = middle(s.count, places[0][0])


def flower(s: Sketch) -> None:
    """One large flower with six petals on a stem, in front of soft green."""
    s.scenery("ground")
    upper, lower = s.vary((0.80, 0.92, 0.62)), s.vary((0.42, 0.68, 0.34))
    s.fill(upper, lower, texture=s.texture(0.016, 1.5, 6), depth=(0.95, 0.6))
    s.glow(s.uniform(0.1, 0.4), s.uniform(0.0, 0.3), 0.35, 0.35, (0.95, 1.0, 0.80))
    s.glow(s.uniform(0.6, 0.9), s.uniform(0.7, 1.0), 0.35, 0.35, (0.25, 0.50, 0.25))
    s.colour, petal = s.choose_colour(
        "red", "pink", "white", "purple", "orange", "blue"
    )
    x, y = s.uniform(0.40, 0.60), s.uniform(0.35, 0.42)
    size = s.uniform(0.26, 0.33)
    green = s.vary((0.16, 0.45, 0.16))
    lean = s.uniform(-0.1, 0.1)
    s.thing("flower", 0.3)
    foot = x + 1.9 * lean  # below the unit square, for tall pictures
    s.quad(y, 1.5, (x - 0.025, x + 0.025), (foot - 0.04, foot + 0.04), green)
    for side in (-1, 1):
        at = x + 0.75 * lean + 0.13 * side
        turn = -0.55 * side
        s.ellipse(0.84, at, 0.05, 0.15, shade(green, 1.15), shade(green, 0.8), turn)
    turn = s.uniform(0, np.pi / 3)
    outer = shade(petal, 1.12)
    inner = mix(shade(petal, 0.72), outer, 0.4)
    for k in range(6):
        angle = turn + k * np.pi / 3
        at = y + 0.58 * size * np.sin(angle), x + 0.58 * size * np.cos(angle)
        s.ellipse(*at, 0.27 * size, 0.46 * size, outer, inner, angle)
    s.disc(y, x, 0.3 * size, (0.99, 0.85, 0.25), lower=(0.90, 0.62, 0.12))
    s.x = x


def fish(s: Sketch) -> None:
    """One to three fish with bubbles above a sandy floor."""
    s.scenery("water")
    surface, deep = s.vary((0.28, 0.80, 0.82)), s.vary((0.02, 0.28, 0.50))
    s.fill(surface, deep, texture=s.texture(0.016, 2, 9, stretch=2))
    s.scenery("ground")
    sand = s.vary((0.80, 0.72, 0.50), 0.04)
    floor = s.uniform(0.86, 0.91)
    s.ground(floor, sand, shade(sand, 0.75), texture=s.texture(0.016, 6, 30))
    s.count = s.number(0.5, 0.3, 0.2)
    s.colour, skin = s.choose_colour("orange", "yellow", "red", "pink")
    fin, back, belly = shade(skin, 0.72), shade(skin, 1.1), shade(skin, 0.85)
    shine = shade(skin, 1.6)
    body = 0.26 * select_by_count(s.count, 1.0, 0.66, 0.56) * s.uniform(0.88, 1.1)
    stray = 0.14 * (s.count > 1)
    across = s.uniform(0.40, 0.60)
    for k in range(3):
        x = across + s.uniform(-1, 1) * stray
        y = 0.05 + 0.8 / s.count * (k + 0.5 + s.uniform(-0.12, 0.12))
        face = s.sign()
        s.thing("fish", 0.08 - 0.01 * k, (s.count > k).astype(np.float32))
        near, far = x - 0.7 * body * face, x - 1.55 * body * face
        at_left = body * (0.37 + 0.25 * face)
        at_right = body * (0.37 - 0.25 * face)
        s.quad(
            np.minimum(near, far),
            np.maximum(near, far),
            (y - at_left, y + at_left),
            (y - at_right, y + at_right),
            fin,
            sideways=True,
        )
        top = (x - 0.3 * body, x + 0.15 * body)
        s.quad(y - 0.82 * body, y, top, (x - 0.5 * body, x + 0.5 * body), fin)
        s.ellipse(y, x, 0.58 * body, body, back, belly)
        s.glow(y - 0.22 * body, x, 0.3 * body, 0.7 * body, shine)
        eye = y - 0.12 * body, x + 0.58 * body * face
        s.disc(*eye, 0.15 * body, WHITE)
        s.disc(*eye, 0.08 * body, DARK)
    s.scenery("water", 0.05)
    for _ in range(3):
        at = s.uniform(0.05, 0.75), s.uniform(0.05, 0.95)
        s.disc(*at, s.uniform(0.012, 0.028), (0.85, 0.97, 0.98), opacity=FAINT)
    s.x = across


def night(s: Sketch) -> None:
    """A crescent moon and three to nine stars above dark hills."""
    s.scenery("sky")
    s.fill(s.vary((0.03, 0.04, 0.14), 0.02), s.vary((0.16, 0.18, 0.42), 0.04))
    s.count = s.number(1, 1, 1, 1, 1, 1, 1) + 2
    x, y, r = s.uniform(0.28, 0.72), s.uniform(0.32, 0.38), s.uniform(0.14, 0.19)
    s.glow(y, x, 1.9 * r, 1.9 * r, (0.45, 0.47, 0.65), opacity=0.4)
    # Nine places above and below the moon, where stars meet neither it nor each other.
    order = np.argsort(np.stack([s.uniform() for _ in range(9)]), 0)
    heights = np.array([0.06, 0.63, 0.73], np.float32)
    for k in range(9):
        row, column = np.divmod(order[k], 3)
        at_y = heights[row] + s.uniform(-0.02, 0.02)
        at_x = 0.08 + 0.28 * (column + s.uniform(0.1, 0.9))
        s.thing("star", 0.99, (s.count > k).astype(np.float32))
        s.disc(at_y, at_x, s.uniform(0.018, 0.028), (1.0, 0.98, 0.85))
    s.colour, light = s.choose_colour("yellow", "white")
    s.thing("moon", 0.98)
    s.crescent(y, x, r, s.uniform(0.5, 0.75) * r, light)
    s.scenery("ground")
    hill = s.vary((0.05, 0.10, 0.13), 0.02)
    s.ground(0.92, hill, shade(hill, 0.6))
    slope = {"span": (0.8, 1.0), "depth": (0.8, 0.1)}
    s.ellipse(1.35, s.uniform(0.1, 0.4), 0.54, 0.82, hill, shade(hill, 0.6), **slope)
    s.x = x


def cactus(s: Sketch) -> None:
    """One or two cacti with arms in a desert."""
    horizon = s.uniform(0.66, 0.74)
    high, low = s.vary((0.98, 0.74, 0.42)), s.vary((1.00, 0.93, 0.72), 0.03)
    s.sky(high, low, horizon, stretch=3)
    s.accent, sand = s.choose_colour("yellow", "orange", "red")
    sand = mix(sand, (0.85, 0.66, 0.42), 0.6)
    s.scenery("ground", 0.92)
    s.ellipse(horizon + 0.12, s.uniform(0.1, 0.9), 0.2, 0.5, shade(sand, 0.95))
    ripples = s.texture(0.018, 5, 24, stretch=3)
    s.ground(horizon, shade(sand, 1.15), shade(sand, 0.85), texture=ripples)
    s.count = s.number(0.7, 0.3)
    s.colour, green = s.choose_colour("green")
    light, dark = shade(green, 1.1), shade(green, 0.75)
    size = select_by_count(s.count, 1.0, 0.66) * s.uniform(0.88, 1.05)
    places = s.row(s.count, 2, jitter=0.2)
    for k, (x, shown) in enumerate(places):
        foot = horizon + 0.12 + 0.05 * k + s.uniform(-0.02, 0.02)
        h, w, thick = 0.33 * size, 0.07 * size, 0.046 * size
        side = s.sign()
        s.thing("cactus", foot_depth(foot, horizon), shown)
        shadow = (0.35, 0.2, 0.1)
        s.ellipse(foot, x + 0.06, 0.03 * size, 0.22 * size, shadow, opacity=0.35)
        s.box(foot - h, x, h, w, light, dark, corner=w)
        for arm, level, rise in ((side, 0.55, 0.12), (-side, 0.85, 0.10)):
            y = foot - level * h
            reach = 0.095 * size
            at = x + reach * arm
            s.box(y, at, thick, reach + thick, green, dark, corner=thick)
            up = rise * size
            s.box(
                y - up, at + reach * arm, up + thick, thick, light, dark, corner=thick
            )
    s.x = middle(s.count, places[0][0])
