"""Scene classes of things that people made: house, boat, car, balloon, snowman.

As in `nature`, each function draws pictures of one class.
"""

import numpy as np

from simple_diffusion.data.scenes.nature import (
    DARK,
    WHITE,
    foot_depth,
    middle,
    select_by_count,
)
from simple_diffusion.data.scenes.sketch import FAINT, Sketch, mix, shade


def house(s: Sketch) -> None:
    """A house with a pitched roof, a door, two windows and a chimney, on a lawn."""
    horizon = s.uniform(0.70, 0.78)
    s.sky(s.vary((0.55, 0.76, 0.95)), s.vary((0.90, 0.95, 0.98), 0.03), horizon)
    grass = s.vary((0.36, 0.62, 0.26))
    s.scenery("ground")
    s.ground(horizon, grass, shade(grass, 0.75), texture=s.texture(0.012, 6, 30))
    s.colour, wall = s.choose_colour("white", "yellow", "pink", "blue")
    s.accent, roof = s.choose_colour("red", "brown", "grey")
    wall = mix(wall, WHITE, 0.25)
    x, wide, high = s.uniform(0.40, 0.60), s.uniform(0.24, 0.31), s.uniform(0.26, 0.34)
    foot = horizon + s.uniform(0.05, 0.09)
    eaves = foot - high
    ridge = eaves - s.uniform(0.20, 0.27)
    side = s.sign()
    s.thing("house", foot_depth(foot, horizon))
    stack = x + 0.55 * side * wide
    s.box(eaves - 0.13, stack, 0.11, 0.045, shade(roof, 0.7), shade(roof, 0.6))
    walls = (x - wide, x + wide)
    s.quad(eaves, foot, walls, walls, wall, shade(wall, 0.9))
    top, out = (x - 0.3 * wide, x + 0.3 * wide), (x - wide - 0.06, x + wide + 0.06)
    s.quad(ridge, eaves + 0.02, top, out, shade(roof, 1.1), shade(roof, 0.85))
    door = shade(roof, 0.5)
    s.box(foot - 0.1, x - 0.02 * side, 0.1, 0.05, door)
    for dx in (-0.58, 0.58):
        at = eaves + 0.42 * high, x + dx * wide
        s.box(*at, 0.062, 0.062, WHITE)
        s.box(*at, 0.045, 0.045, (0.30, 0.45, 0.62), (0.52, 0.70, 0.85))
    s.x = x


def boat(s: Sketch) -> None:
    """One or two sailing boats with two sails on a bright sea."""
    horizon = s.uniform(0.58, 0.66)
    s.sky(s.vary((0.56, 0.80, 0.96)), s.vary((0.93, 0.97, 0.98), 0.03), horizon)
    s.scenery("water")
    sea = s.vary((0.16, 0.52, 0.74))
    deep = mix(sea, (0.03, 0.22, 0.48), 0.8)
    s.ground(horizon, sea, deep, texture=s.texture(0.02, 5, 24, stretch=5))
    s.count = s.number(0.75, 0.25)
    s.colour, sail = s.choose_colour("white", "red", "yellow")
    s.accent, hull = s.choose_colour("brown", "blue", "black")
    size = select_by_count(s.count, 1.0, 0.62) * s.uniform(0.88, 1.08)
    lean = s.sign()
    places = s.row(s.count, 2, jitter=0.2)
    for k, (x, shown) in enumerate(places):
        deck = horizon + 0.10 + 0.06 * k + s.uniform(-0.02, 0.02)
        keel = deck + 0.11 * size
        s.thing("boat", foot_depth(keel, horizon), shown)
        upper = (x - 0.32 * size, x + 0.32 * size)
        lower = (x - 0.21 * size, x + 0.21 * size)
        s.quad(deck, keel, upper, lower, shade(hull, 1.1), shade(hull, 0.75))
        top, mast = deck - 0.58 * size, x - 0.03 * size * lean
        pole = (mast - 0.012 * size, mast + 0.012 * size)
        s.quad(top, deck, pole, pole, (0.35, 0.22, 0.12))
        for side, wide, peak, light in ((1, 0.29, 0.03, 1.1), (-1, 0.20, 0.12, 0.93)):
            toward = size * side * lean
            edge = mast + 0.025 * toward
            corner = edge + wide * toward
            foot = (np.minimum(edge, corner), np.maximum(edge, corner))
            s.quad(
                top + peak * size,
                deck - 0.045 * size,
                (edge, edge),
                foot,
                shade(sail, light),
                shade(sail, 0.86),
            )
    s.x = middle(s.count, places[0][0])


def car(s: Sketch) -> None:
    """A car seen from the side on a grey road."""
    horizon = s.uniform(0.50, 0.56)
    s.sky(s.vary((0.72, 0.85, 0.93)), s.vary((0.96, 0.95, 0.90), 0.03), horizon)
    s.scenery("ground")
    field = s.vary((0.62, 0.74, 0.36))
    s.ground(horizon, field, shade(field, 0.85), texture=s.texture(0.012, 6, 30))
    s.scenery("road")
    edge = s.uniform(0.64, 0.68)
    road = s.vary((0.40, 0.41, 0.44), 0.04)
    tar = s.texture(0.010, 8, 40)
    s.ground(edge, road, shade(road, 0.8), span=(horizon, 1.0), texture=tar)
    s.scenery("road", 0.08)
    along = s.uniform(-0.03, 0.03)
    for k in range(-1, 4):  # further than the unit square, for wide pictures
        at = along + (0.1 + 0.4 * k)
        line = (at - 0.08, at + 0.08), (at - 0.1, at + 0.1)
        s.quad(0.91, 0.945, *line, (0.92, 0.90, 0.80))
    s.colour, paint = s.choose_colour("red", "blue", "yellow", "green", "white")
    x, size = s.uniform(0.42, 0.58), s.uniform(0.88, 1.05)
    face = s.sign()
    foot = edge + s.uniform(0.12, 0.17)
    half, wheel = 0.40 * size, 0.095 * size
    sill = foot - 0.75 * wheel
    belt = sill - 0.17 * size
    back = x - 0.06 * size * face
    top = belt - 0.15 * size
    s.thing("car", 0.06)
    s.ellipse(foot, x, 0.03, 1.02 * half, (0.08, 0.08, 0.1), opacity=0.4)
    for grow, tint in ((0.0, paint), (-0.035, (0.22, 0.32, 0.42))):
        roof, base = (0.15 + grow) * size, (0.27 + grow) * size
        s.quad(
            top - grow * size,
            belt + 0.01,
            (back - roof, back + roof),
            (back - base, back + base),
            shade(tint, 1.15),
            tint,
        )
    s.box(0.5 * (top + belt), back, 0.075 * size, 0.014, paint)
    light, dark = shade(paint, 1.1), shade(paint, 0.75)
    s.box(belt + 0.085 * size, x, 0.085 * size, half, light, dark, corner=0.06 * size)
    lamp = belt + 0.06 * size, x + 0.365 * size * face
    s.disc(*lamp, 0.026, (1.0, 0.95, 0.65))
    for dx in (-0.22, 0.22):
        at = foot - wheel, x + dx * size
        s.disc(*at, wheel, DARK)
        s.disc(*at, 0.5 * wheel, (0.75, 0.76, 0.78))
    s.x = x


def balloon(s: Sketch) -> None:
    """One or two striped hot-air balloons among clouds."""
    s.sky(s.vary((0.20, 0.48, 0.88)), s.vary((0.66, 0.85, 0.98)), 1.0)
    for k in range(2):
        y, x = s.uniform(0.10, 0.35) + 0.5 * k, s.uniform(0.05, 0.95)
        s.thing("cloud", 0.97)
        for dy, dx, ry, rx in ((0, -0.1, 0.05, 0.11), (-0.03, 0, 0.075, 0.10)):
            s.ellipse(y + dy, x + dx, ry, rx, WHITE, (0.91, 0.94, 0.98), opacity=0.9)
        s.ellipse(y, x + 0.1, 0.045, 0.10, WHITE, (0.91, 0.94, 0.98), opacity=0.9)
    s.count = s.number(0.75, 0.25)
    s.colour, main = s.choose_colour("red", "orange", "purple", "green")
    s.accent, stripe = s.choose_colour("yellow", "white")
    light, dark = shade(main, 1.1), shade(main, 0.75)
    size = select_by_count(s.count, 1.0, 0.62) * s.uniform(0.88, 1.05)
    places = s.row(s.count, 2, jitter=0.2)
    for k, (x, shown) in enumerate(places):
        y = s.uniform(0.36, 0.44) + s.uniform(-0.1, 0.1) * (s.count > 1)
        r = 0.30 * size
        floor = y + 1.55 * r
        s.thing("balloon", 0.5 - 0.1 * k, shown)
        for side in (-1, 1):
            ends = (x + 0.42 * side * r, x + 0.20 * side * r)
            rope = [(at - 0.012 * size, at + 0.012 * size) for at in ends]
            s.quad(y + 0.8 * r, floor, rope[0], rope[1], (0.30, 0.22, 0.15))
        wide, narrow = (x - 0.78 * r, x + 0.78 * r), (x - 0.3 * r, x + 0.3 * r)
        s.quad(y + 0.62 * r, y + 1.18 * r, wide, narrow, dark, shade(main, 0.6))
        s.disc(y, x, r, light, lower=dark)
        low = y + 0.09 * r
        pale = shade(stripe, 1.1), shade(stripe, 0.75)
        s.ellipse(low, x, 1.09 * r, 0.62 * r, *pale)
        s.ellipse(low, x, 1.09 * r, 0.26 * r, light, dark)
        s.glow(y - 0.3 * r, x - 0.35 * r, 0.55 * r, 0.45 * r, WHITE, opacity=0.35)
        basket, dim = (0.55, 0.36, 0.18), (0.36, 0.22, 0.10)
        s.box(floor + 0.1 * r, x, 0.17 * r, 0.24 * r, basket, dim, corner=0.04 * r)
    s.x = middle(s.count, places[0][0])


def snowman(s: Sketch) -> None:
    """A snowman with a hat and a scarf on snow, under a winter sky."""
    horizon = s.uniform(0.70, 0.77)
    s.sky(s.vary((0.30, 0.42, 0.60)), s.vary((0.62, 0.72, 0.84)), horizon)
    s.scenery("ground")
    drifts = s.texture(0.01, 4, 20, stretch=2)
    s.ground(horizon, (0.95, 0.97, 1.0), (0.78, 0.85, 0.95), texture=drifts)
    s.scenery("sky", 0.9)
    for _ in range(3):
        flake = s.uniform(0.05, 0.6), s.uniform(0.0, 1.0)
        s.disc(*flake, 0.014, WHITE, opacity=FAINT)
    s.colour, scarf = s.choose_colour("red", "blue", "green", "purple", "orange")
    x, a = s.uniform(0.36, 0.64), s.uniform(0.80, 0.93)
    foot = horizon + s.uniform(0.14, 0.19)
    low, chest, head = foot - 0.2 * a, foot - 0.45 * a, foot - 0.645 * a
    s.thing("snowman", foot_depth(foot, horizon))
    s.ellipse(foot, x + 0.05, 0.035, 0.28 * a, (0.35, 0.45, 0.65), opacity=0.4)
    for y, ry, rx in ((low, 0.21, 0.23), (chest, 0.155, 0.165), (head, 0.125, 0.125)):
        s.ellipse(y, x, ry * a, rx * a, (1.0, 1.0, 1.0), (0.80, 0.86, 0.94))
    neck, tail = head + 0.11 * a, x + s.sign() * 0.07 * a
    dim = shade(scarf, 0.82)
    s.box(neck, x, 0.036 * a, 0.13 * a, scarf, dim, corner=0.03 * a)
    s.box(neck + 0.1 * a, tail, 0.09 * a, 0.034 * a, scarf, dim, corner=0.015)
    brim = head - 0.09 * a
    s.box(brim - 0.075 * a, x, 0.085 * a, 0.09 * a, (0.2, 0.2, 0.24), DARK)
    s.box(brim, x, 0.022 * a, 0.15 * a, DARK)
    for side in (-1, 1):
        s.disc(head - 0.02 * a, x + 0.045 * side * a, 0.018 * a, DARK)
    tip = head + 0.03 * a
    nose = (head + 0.005 * a, head + 0.045 * a), (tip, tip)
    s.quad(x - 0.01, x + 0.11 * a, *nose, (0.98, 0.50, 0.10), sideways=True)
    for dy in (-0.01, 0.06):
        s.disc(chest + dy * a, x, 0.018 * a, DARK)
    s.x = x
