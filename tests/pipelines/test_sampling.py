"""What sampling says about the keys that bound its memory."""

import re

import pytest

from simple_diffusion.configs import base
from simple_diffusion.pipelines import sampling


@pytest.mark.parametrize(
    "windows, batch_size, says",
    [
        (None, 1, "^set sample.window=64, .* or a smaller restore.size=HxW$"),
        (None, 8, "^lower sample.batch_size=8, set sample.window=64"),
        (5, 8, "^lower sample.window=32 or sample.window_batch=16, or .* restore.size"),
    ],
)
def test_advice_names_the_keys_that_have_an_effect(windows, batch_size, says):
    config = base.default()
    config.sample.window = 32
    got = sampling.advise(config, windows, "restore.size", batch_size)
    assert re.search(says, got)
