"""Conditions that are maps, in windows."""

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.core.types import Conditioning
from simple_diffusion.sampling import windows

SIZE, WINDOW, STRIDE = (31, 24), 12, 6
Z = jax.random.normal(jax.random.key(10), (2, *SIZE, 2))
LOGSNR = jnp.array([-1.0, 0.5])


def test_maps_among_the_fields_are_cut_and_the_other_fields_are_not():
    seen = []

    def bind_fields(cond):
        def denoise(z_t, logsnr):
            image = cond.fields["depth"][..., None] + cond.fields["map"]
            seen.append(jax.tree.map(jnp.shape, dict(cond.fields)))
            return image + cond.fields["vector"][:, None, None, :1]

        return denoise

    keys = jax.random.split(jax.random.key(0), 3)
    fields = {
        "map": jax.random.normal(keys[0], (2, *SIZE, 2)),
        "depth": jax.random.normal(keys[1], (2, *SIZE)),
        "vector": jax.random.normal(keys[2], (2, 5)),
    }
    fuse = windows.fuse_windows(bind_fields, window=WINDOW, stride=STRIDE, batch=3)
    cond = Conditioning(fields=fields)
    got = fuse(cond)(Z, LOGSNR)
    np.testing.assert_allclose(got, bind_fields(cond)(Z, LOGSNR), atol=1e-5)
    assert seen[0]["map"][1:] == (WINDOW, WINDOW, 2) and seen[0]["vector"][1:] == (5,)
