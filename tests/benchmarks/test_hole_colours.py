"""Figures of what fills a hole, on images whose figures are known."""

import numpy as np
import pytest

from benchmarks import hole_colours
from simple_diffusion.restoration import travel


def test_settings_take_about_as_many_network_calls():
    for name, keys in hole_colours.settings(100).items():
        length = keys.get("restore.travel_length", 1)
        way = travel.Travel(length, keys.get("restore.travel_repeat", 1))
        calls = travel.network_calls(keys["restore.steps"], way)
        assert calls == 25 if "25 steps" in name else abs(calls - 100) <= 15, name


def test_the_originals_have_their_own_colours_and_grey_has_none():
    originals = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3))
    own = hole_colours.judge(originals, originals)
    assert (own["colour"], own["contrast"], own["edges"]) == pytest.approx((1, 1, 1))
    grey = hole_colours.judge(np.zeros((8, 8, 8, 3)), originals)  # two of each
    assert (grey["colour"], grey["contrast"], grey["edges"]) == (0, 0, 0)
    # The mean square of uniform numbers is 1/3, of a range of 2.
    assert grey["psnr"] == pytest.approx(10 * np.log10(4 * 3), abs=0.3)


def test_the_hole_is_in_the_middle():
    x = np.zeros((1, 6, 8, 3))
    x[:, 2:4, 3:5] = 1
    assert (hole_colours.inside(x, (2, 2)) == 1).all()
