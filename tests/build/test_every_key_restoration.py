"""What each key of `restore` does: operators, solvers, and the files of the mode."""

import contextlib
import io
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build.restoration import restoration
from simple_diffusion.build.restoration.degradation import parse_degradation
from simple_diffusion.core.types import Codec, Weights
from simple_diffusion.modes import restore
from simple_diffusion.pipelines import open_run, programs
from simple_diffusion.pipelines.restoration import record
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.restoration import latent
from simple_diffusion.training import sharding
from tests.build.every_key import Case, check, set_keys, tiny, write_images
from tests.build.test_every_key_sampling import NAMES, looking

SIZE = (8, 16)


def restored(config):
    """A measurement, its pseudo-inverse, the restoration, and the network's calls."""
    net, calls = looking(config)
    how = restoration.build_restoration(config, net, SIZE)
    x = np.random.default_rng(0).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)
    known = np.ones((2, *SIZE, 1), np.float32)
    known[:, 2:6, 4:9] = 0
    x, known = jnp.asarray(x), jnp.asarray(known)
    zero, index = jnp.zeros(2, jnp.uint32), jnp.arange(2)
    with jax.disable_jit():
        y = how.measure(x, known, zero, index)
        guess = how.guess(y, known)
        label = jnp.zeros(2, jnp.int32)
        found = how.restore(Weights({}), zero, index, label, y, known)
    return np.asarray(y), np.asarray(guess), np.asarray(found), calls, how.network_calls


def known_latents(config):
    """The latent cells that count as known, in an autoencoder of four pixels a cell."""
    seen = []

    def decode(params, z):
        return jnp.repeat(jnp.repeat(z, 4, axis=1), 4, axis=2)

    codec = Codec(lambda params, x: x[:, ::4, ::4], decode, factor=4)
    find = latent.known_cells
    net, _ = looking(config)

    def known_cells(*args, **kwargs):
        seen.append(find(*args, **kwargs))
        return seen[-1]

    with mock.patch.object(latent, "known_cells", known_cells):
        how = restoration.build_restoration(config, net, (32, 32), codec=codec)
        known = jnp.ones((1, 32, 32, 1)).at[:, 13:18, 13:18].set(0)
        zero, y = jnp.zeros(1, jnp.int32), jnp.zeros((1, 32, 32, 3))
        with jax.disable_jit():
            how.restore(Weights({}), zero, zero, zero, y, known)
    return np.asarray(seen[-1])


def mode(config):
    """What mode `restore` reads, restores and writes; the restorations are black."""
    net, _ = looking(config)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batches = []

    def compile_program(function, mesh, batch_size, windows):
        def call(weights, seed, index, label, y, known):
            batches.append((label, y.shape, known))
            return np.zeros((*known.shape[:3], 3), np.float32)

        return programs.Program(batch_size, call)

    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for place, name, value in (
            (open_run, "open_run", mock.Mock()),
            (restore.runs, "load_classes", lambda folder: NAMES),
            (restore.network, "build_network", lambda config, classes: net),
            (programs, "compile_program", compile_program),
            (record.lpips_network, "load", mock.Mock(side_effect=LoadedLpips)),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        trained = Trained(net, Weights({}), mesh, NAMES, 1)
        restore.open_run.open_run.return_value.trained = trained
        stack.enter_context(contextlib.redirect_stdout(output))
        try:
            found = restore.run(config, folder)
        except LoadedLpips as loaded:
            return str(loaded)
        place = str(found.folder).replace(folder, "workdir")
        return place, sorted(found.files.items()), sorted(found.metrics), batches


class LoadedLpips(Exception):
    """The weights of LPIPS are about to be read."""


INPAINT = {"restore.input": "{folder}/a", "restore.hole_mask": "box:2x2"}
INPAINT |= {"restore.steps": 3, "sample.batch_size": 8}


def _task(name, **keys):
    given = {"restore.task": name, "restore.hole_mask": None, "restore.factor": 2}
    given |= {f"restore.{key}": value for key, value in keys.items()}
    return INPAINT | given


LARGER = _task("super_resolution")
BLUR = _task("deblur", blur_taps=3)
SENSE = _task("sense", ratio=0.5)
BLOCKS = _task("sense", sensing="blocks", block_side=4, ratio=0.5)
TRAVEL = {"restore.travel_length": 2, "restore.travel_repeat": 2, "restore.steps": 6}
RESTORE = {
    "task": Case("colourise", restored),
    "input": Case("{folder}/b", mode),
    "hole_mask": Case("box:4x4", mode),
    "degrade": Case(True, mode),
    "size": Case("8x8", mode),
    "output": Case("{folder}/out", mode),
    "samples": Case(2, mode),
    "classes": Case("tree", mode),
    "factor": Case(4, restored, LARGER),
    "downsampling": Case("bicubic", restored, LARGER),
    "kernel": Case("gaussian", restored, BLUR),
    "blur_sigma": Case((1.0, 2.0), restored, BLUR | {"restore.kernel": "gaussian"}),
    "blur_taps": Case(5, restored, BLUR),
    "blur_threshold": Case(0.5, restored, BLUR),
    "sensing": Case("group_means", restored, SENSE),
    "ratio": Case(0.25, restored, SENSE),
    "block_side": Case(8, restored, BLOCKS),
    "operator_seed": Case(1, restored, SENSE),
    "sigma_y": Case(0.1, restored),
    "solver": Case("heun", restored),
    "steps": Case(4, restored),
    "eta": Case(0.0, restored),
    "fresh": Case("ddim", restored),
    "clip": Case("static", restored),
    "travel_length": Case(3, restored, TRAVEL),
    "travel_repeat": Case(3, restored, TRAVEL),
    "travel_from_estimate": Case(False, restored, TRAVEL),
    "dilate": Case((1, 0), restored),
    "mask_mode": Case("block_max", known_latents),
    "compat": Case(True, restored, BLUR),
    "lpips_weights": Case("lpips.npz", mode, {"restore.degrade": True}),
}
CASES = {
    f"restore.{key}": case._replace(given=INPAINT | dict(case.given))
    for key, case in RESTORE.items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), count=2)


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key, folder):
    check(key, CASES[key], folder)


def test_each_kind_of_sensing_measures_other_numbers():
    seen = []
    for kind in ("hadamard", "group_means", "blocks"):
        config = tiny()
        set_keys(config, BLOCKS | {"restore.sensing": kind})
        operator = parse_degradation(config).operator(SIZE, jnp.ones((1, *SIZE, 1)))
        x = np.random.default_rng(0).normal(size=(1, *SIZE, 3)).astype(np.float32)
        seen.append(np.sort(np.ravel(operator.forward(jnp.asarray(x)))))
        assert seen[-1].size == 0.5 * x.size
    for k in range(3):
        assert not np.allclose(seen[k], seen[k - 1], atol=0.01)


def test_a_higher_threshold_discards_more_of_a_blurred_spectrum():
    config = tiny()
    config.restore.update(task="deblur", kernel="gaussian", blur_sigma=(1.0, 1.0))
    known, lost = jnp.ones((1, *SIZE, 1)), {}
    flat = jnp.eye(np.prod(SIZE)).reshape(-1, *SIZE, 1)
    for threshold in (0.03, 0.5):
        config.restore.blur_threshold = threshold
        operator = parse_degradation(config).operator(SIZE, known)
        # The range of the pseudo-inverse: a projection, whose rank is its trace.
        projected = operator.pinv(operator.forward(flat)).reshape(len(flat), -1)
        lost[threshold] = len(flat) - round(float(jnp.trace(projected)))
    assert 0 < lost[0.03] < lost[0.5] < len(flat)


def test_output_folders_are_not_inputs(folder):
    assert sorted(p.name for p in Path(folder).iterdir() if p.is_dir())[:2] == [
        "a",
        "b",
    ]
