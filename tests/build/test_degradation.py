"""What the keys of `restore` say of the operator."""

import jax.numpy as jnp
import numpy as np

from simple_diffusion.build.restoration.degradation import parse_degradation
from tests.build.test_restoration import settings


def test_an_anisotropic_blur_is_wide_along_the_rows():
    config = settings(task="deblur", kernel="anisotropic", blur_taps=None)
    everywhere = jnp.ones((1, 16, 16, 1))
    operator = parse_degradation(config).operator((16, 16), everywhere)
    point = jnp.zeros((1, 16, 16, 3)).at[0, 8, 8].set(1.0)
    blurred = np.asarray(operator.forward(point))[0, ..., 0]
    assert abs(blurred[8, 11]) > 5 * abs(blurred[11, 8])
