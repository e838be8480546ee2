"""What each key of `sample` and `export` does, as a network that looks on sees it."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import image_geometry, network, sampling, training
from simple_diffusion.configs import base
from simple_diffusion.core import rng
from simple_diffusion.core.types import Request, Weights
from simple_diffusion.modes import export
from simple_diffusion.pipelines import open_run
from simple_diffusion.pipelines import sampling as sampling_pipeline
from simple_diffusion.pipelines.requests.plan import read_plan
from simple_diffusion.training import checkpoint
from tests.build.every_key import Case, check, tiny, write_images

NAMES = ("sun", "tree", "car")


def looking(config, answer=None):
    """A network that notes its calls; what it answers depends on all it is told."""
    calls = []

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        if isinstance(z_t, jax.core.Tracer):  # of a check of the size
            return z_t
        call = z_t.shape, logsnr[0], cond.label, cond.box, cond.full_size
        calls.append(jax.tree.map(np.asarray, call))
        if answer is not None:
            return answer(z_t)
        # Of all pixels, too: one affects the others, as in any network.
        told = 0.3 * cond.label + jnp.tanh(0.1 * logsnr) + z_t.mean((1, 2, 3))
        if cond.box is not None:
            told = told + cond.box @ jnp.array([0.1, 0.2, 0.3, 0.4])
        return 0.5 * z_t + told[:, None, None, None]

    net = network.build_network(config, len(NAMES))
    return dataclasses.replace(net, apply=apply, init=lambda key: {}), calls


def drawing(config):
    """The images of a batch, all calls of the network, and what is said of them."""
    net, calls = looking(config)
    plan = read_plan(config, net, NAMES)
    how = sampling.build_sampling(config, net)
    labels = jnp.asarray(plan.request.label[: plan.batch_size])
    index, seed = jnp.arange(len(labels)), jnp.full(len(labels), how.seed, jnp.uint32)
    with jax.disable_jit():
        drawn = how.draw(Weights({}), seed, index, Request(labels))
    count = len(plan.request.label)
    said = how.size, how.network_calls, how.guidance, how.windows, count
    return np.asarray(drawn), calls, said


def output(config):
    """The folder that mode `sample` writes into."""
    return str(sampling_pipeline.choose_output(config, epath.Path("workdir")))


def extra_sizes(config):
    """The sizes of the samplers that `TrainingGrids` draws its last grids with."""
    net, _ = looking(config)
    found = sampling.build_extra_sizes(config, net)
    return {name: how.size for name, how in found.items()}


def parameters(config):
    """Which parameters are read to sample, and to guide by."""
    mesh, read = training.build_mesh(config), []

    def restore(folder, abstract, average=None, step=None):
        read.append((epath.Path(folder).name, average, step))
        return step, {}

    net, _ = looking(config)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(checkpoint, "restore_params", restore),
        mock.patch.object(open_run.runs, "load_config", lambda folder: tiny()),
    ):
        workdir = epath.Path(folder)
        (workdir / "best" / "3").mkdir(parents=True)
        open_run.load_weights(workdir, net, mesh, config)
        open_run.load_weak(config, len(NAMES), mesh)
    return read


def exported(config):
    """Where and how mode `export` saves a model."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(open_run, "open_run") as opened,
    ):
        opened.return_value.save.return_value = pathlib.Path("there")
        opened.return_value.step = 1
        export.run(config, folder)
        (output,), options = opened.return_value.save.call_args
        return str(output).replace(folder, "workdir"), options


ANY_SIZE = {"data.patches": base.patches(8, 16), "model.position": "rope"}
WIDE = ANY_SIZE | {"sample.size": "8x16"}
LARGE = ANY_SIZE | {"sample.size": "16x16"}
COARSE = LARGE | {"sample.coarse_size": "8x8"}
# Three windows of each of two images.
WINDOWS = WIDE | {"sample.window": 8, "sample.window_stride": 4, "sample.steps": 2}
GUIDED = {"sample.guidance": 2.0}
WEAKER = {"sample.guidance_workdir": "{folder}"}

SAMPLE = {
    "seed": Case(1, drawing),
    "count": Case(3, drawing),
    "output": Case("{folder}/out", output),
    "batch_size": Case(1, drawing),
    "size": Case("16x16", drawing),
    "also_sizes": Case(("16x16",), extra_sizes),
    "frame": Case("cut", drawing, WIDE),
    "extrapolate": Case(True, drawing, ANY_SIZE | {"sample.size": "32x32"}),
    "coarse_size": Case("8x8", drawing, LARGE),
    "coarse_time": Case(1.0, drawing, COARSE),
    "window": Case(8, drawing, WIDE),
    "window_stride": Case(8, drawing, WINDOWS),
    "window_batch": Case(3, drawing, WINDOWS),
    "window_taper": Case(0.1, drawing, WINDOWS),
    "classes": Case("tree", drawing),
    "solver": Case("heun", drawing),
    "grid": Case("karras", drawing),
    "steps": Case(4, drawing),
    "gamma": Case(1.0, drawing),
    "eta": Case(1.0, drawing, {"sample.solver": "ddim"}),
    "guidance": Case(2.0, drawing),
    "guidance_low": Case(0.0, drawing, GUIDED),
    "guidance_high": Case(0.0, drawing, GUIDED),
    "guidance_workdir": Case("{folder}", parameters),
    "guidance_step": Case(5, parameters, WEAKER),
    "clip": Case("none", drawing),
    "weights": Case("power_0.05", parameters),
    "checkpoint_step": Case(5, parameters),
    "best_checkpoint": Case(True, parameters),
}
EXPORT = {
    "output": Case("{folder}", exported),
    "dtype": Case("bfloat16", exported),
}
CASES = {f"sample.{key}": case for key, case in SAMPLE.items()}
CASES |= {f"export.{key}": case for key, case in EXPORT.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), count=2)


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key, folder):
    check(key, CASES[key], folder)


def test_a_network_is_called_for_two_classes_inside_the_interval_of_guidance_only():
    config = tiny()
    config.sample.update(steps=6, guidance=2.0, guidance_low=-1.0, guidance_high=3.0)
    net, _ = looking(config)
    grid = image_geometry.build_geometry(config, net, None, 6).grid
    assert 0 < ((grid >= -1) & (grid < 3)).sum() < 6
    _, calls, _ = drawing(config)
    assert len(calls) == 6
    for shape, logsnr, label, *_ in calls:
        if -1 <= logsnr < 3:
            assert shape[0] == 4 and label.tolist() == [0, 3, 1, 3]
        else:
            assert shape[0] == 2 and label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("clip", "low", "high"),
    [("none", 2.5, 5.0), ("static", 1.0, 1.0), ("dynamic", 0.5, 1.0)],
)
def test_an_estimate_out_of_range_is_clipped_as_the_config_says(clip, low, high):
    config = tiny()
    config.diffusion.prediction = "x"
    config.sample.update(clip=clip, steps=2)
    half = jnp.where(jnp.arange(8) < 4, 2.5, 5.0)[None, None, :, None]
    net, _ = looking(config, lambda z_t: jnp.broadcast_to(half, z_t.shape))
    seen = []

    def progress(done, steps, x_hat):
        seen.append(np.asarray(x_hat))

    how = sampling.build_sampling(config, net, progress=progress)
    zero = jnp.zeros(1, jnp.int32)
    with jax.disable_jit():
        how.draw(Weights({}), zero, zero, Request(zero))
    np.testing.assert_allclose(seen[-1][:, :, :4], low, rtol=1e-6)
    np.testing.assert_allclose(seen[-1][:, :, 4:], high, rtol=1e-6)


def test_noise_after_the_first_counts_for_ddim_if_eta_says_so():
    drawn = {}
    for eta in (0.0, 1.0):
        for other in (False, True):
            config = tiny()
            config.sample.update(solver="ddim", eta=eta)
            drawn[eta, other] = last_of(config, other)
    np.testing.assert_array_equal(drawn[0.0, False], drawn[0.0, True])
    assert (drawn[1.0, False] != drawn[1.0, True]).any()


def last_of(config, other):
    """The images of a batch, with other noise after the first if asked for."""
    fold_in = rng.fold_in_all

    def at(keys, index):
        return fold_in(keys, index + 100 if other and index > 0 else index)

    with mock.patch.object(rng, "fold_in_all", at):
        return drawing(config)[0]
