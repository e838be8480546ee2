"""The benchmarks of restoration: laws of their arithmetic, and that they run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from scipy import ndimage

from benchmarks import recipe, restoration, restoration_priors, restoration_runs
from simple_diffusion.build import network, training
from simple_diffusion.build.restoration.degradation import parse_degradation
from simple_diffusion.build.restoration.restoration import (
    build_restoration as build_restoration,
)
from simple_diffusion.core import images, rng
from simple_diffusion.data.scenes import scenes
from simple_diffusion.diffusion.process import FLOW, VP
from simple_diffusion.pipelines import open_run, runs
from simple_diffusion.restoration import operators
from simple_diffusion.training import checkpoint, sharding, state
from tests.faults import tiny

ROOT = Path(__file__).parents[2]
RECIPE = "tests/faults/tiny.py"


def config_with(keys: dict[str, Any]) -> Any:
    return ConfigDict(recipe.changed(recipe.load(RECIPE), keys))


def run(script: str, *flags: str, output: Path) -> tuple[dict, str]:
    command = [sys.executable, "-m", f"benchmarks.{script}", *flags]
    command += ["--json", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(output.read_text()), run.stdout


def test_the_nearest_fill_takes_a_known_pixel_that_none_is_nearer_than():
    rng = np.random.default_rng(0)
    known = (rng.random((3, 9, 7, 1)) < 0.2).astype(np.float32)
    place = np.moveaxis(np.indices((9, 7)), 0, 2).astype(np.float32)
    y = np.broadcast_to(place, (3, 9, 7, 2)) * known  # where each pixel stands
    filled = restoration_runs.nearest(y, known)
    for mask, image in zip(known[..., 0] > 0, filled, strict=True):
        np.testing.assert_array_equal(image[mask], place[mask])
        sources = image.reshape(-1, 2).astype(int)
        assert mask[sources[:, 0], sources[:, 1]].all()
        distance = np.linalg.norm(image - place, axis=2)
        wanted: Any = ndimage.distance_transform_edt(~mask)
        np.testing.assert_allclose(distance, wanted, atol=1e-5)


def test_bicubic_enlargement_keeps_ramps_inside_and_does_not_round():
    ramp = np.linspace(-0.31, 0.37, 8, dtype=np.float32)[None, :, None, None]
    y = np.broadcast_to(ramp, (2, 8, 8, 3))
    large = restoration_runs.bicubic(y, np.ones((2, 16, 16, 1)))
    step = (0.37 + 0.31) / 7
    wanted = -0.31 + step * ((np.arange(16) + 0.5) / 2 - 0.5)
    # Two pixels at each border see beyond it, four after enlargement.
    np.testing.assert_allclose(large[1, 4:-4, 5, 2], wanted[4:-4], atol=1e-6)


def test_the_spread_of_draws_from_the_law_of_the_originals_is_one():
    rng = np.random.default_rng(0)
    mean = rng.uniform(-0.3, 0.3, (400, 4, 4, 3))

    def draws(std):
        return mean + std * rng.standard_normal(mean.shape)

    originals = np.asarray(images.to_uint8(draws(0.1)))
    both = np.stack([draws(0.1), draws(0.1)], axis=1).reshape(-1, 4, 4, 3)
    # 19,200 numbers: the ratio is known to 1 %.
    assert restoration.spread(both, originals) == pytest.approx(1, abs=0.03)
    same = np.repeat(draws(0.1), 2, axis=0)
    assert restoration.spread(same, originals) == 0
    assert restoration.spread(mean, originals) is None


def test_the_picture_shows_each_class_before_any_twice():
    labels = np.array([2, 2, 0, 2, 1, 0])
    nothing: Any = None
    bench = restoration_runs.Bench({}, nothing, None, 0, nothing, labels, 2)
    np.testing.assert_array_equal(restoration.scenes(bench, 4), [0, 2, 4, 1])
    np.testing.assert_array_equal(
        restoration.scenes(bench, 8), [0, 2, 4, 1, 3, 5, 0, 2]
    )


@pytest.mark.parametrize("name", restoration.tasks((32, 32)))
def test_every_task_is_measured_and_its_plain_method_gives_images(name):
    task = restoration.tasks((32, 32))[name]
    keys = {f"restore.{key}": value for key, value in task.keys.items()}
    for more in ({}, restoration.PUBLISHED):
        config = config_with(keys | more)
        known = jnp.ones((2, 32, 32, 1)).at[:, 5:9, 2:7].set(0)
        operator = parse_degradation(config).operator((32, 32), known)
        x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), minval=-1)
        y = operator.forward(x)
        assert operator.pinv(y).shape == x.shape
        assert bool(config.restore.hole_mask) == parse_degradation(config).needs_mask
        if task.baseline is not None:
            plain = task.baseline(np.asarray(y), np.asarray(known))
            assert plain.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", restoration.VARIANTS)
def test_every_variant_is_a_way_to_restore(name):
    keys = {"restore.hole_mask": "box:6x6", **restoration.VARIANTS[name]}
    config = config_with(keys)
    how = build_restoration(config, network.build_network(config, 12), (16, 16))
    calls = {"25 steps": 25, "50 steps": 50, "heun": 99, "travel (10, 3)": 280}
    assert how.network_calls == calls.get(name, 100)


def test_the_denoiser_of_a_prior_is_its_conditional_mean():
    prior = restoration_priors.smooth(side=4)
    alpha, sigma = 0.6, 0.8
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    logsnr = jnp.full(2, 2 * np.log(alpha / sigma), jnp.float32)
    single = jax.tree.map(jnp.float32, prior)
    denoise = restoration_priors.denoiser(single, VP)
    covariance = restoration_priors.covariance(prior)
    seen = alpha**2 * covariance + sigma**2 * np.eye(16)
    away = np.asarray(z).reshape(2, -1) - alpha * prior.mean
    wanted = prior.mean + alpha * away @ np.linalg.solve(seen, covariance)
    got = np.asarray(denoise(z, logsnr)).reshape(2, -1)
    np.testing.assert_allclose(got, wanted, atol=1e-5)  # float32, sums of 16
    # In the scale of flow the same z is larger by 1 / (alpha + sigma).
    flow = restoration_priors.denoiser(single, FLOW)
    got = np.asarray(flow(z / (alpha + sigma), logsnr)).reshape(2, -1)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("sigma_y", [0.2, 0.0])
@pytest.mark.parametrize("kind", ["half", "average"])
def test_the_exact_posterior_is_the_product_of_prior_and_likelihood(kind, sigma_y):
    prior, side = restoration_priors.smooth(side=4), 4
    known = np.ones((1, 4, 4, 1))
    known[:, :, 2:] = 0
    operator = {
        "half": operators.inpaint(known),
        "average": operators.average((4, 4), 2),
    }[kind]
    matrix = restoration_priors.dense(operator, side)
    y = matrix @ np.linspace(1, -1, 16)
    mean, covariance = restoration_priors.posterior(prior, matrix, y, sigma_y)
    # By precisions, which add. Without noise the limit: too little to count.
    noise = sigma_y or 1e-4
    before = np.linalg.inv(restoration_priors.covariance(prior))
    precision = before + matrix.T @ matrix / noise**2
    wanted = np.linalg.solve(precision, before @ prior.mean + matrix.T @ y / noise**2)
    atol = 1e-9 if sigma_y else 1e-5
    np.testing.assert_allclose(mean, wanted, atol=atol)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), atol=atol)
    if not sigma_y:
        np.testing.assert_allclose(matrix @ mean, y, atol=1e-9)


def test_samples_are_compared_in_units_of_the_law():
    rng, n = np.random.default_rng(0), 20_000
    mean, covariance = np.array([1.0, -2.0, 0.5]), np.diag([4.0, 1.0, 9.0])
    part = np.diag([1.0, 1.0, 0.0])
    draws = rng.standard_normal((n, 3)) * [2.0, 1.0, 3.0]
    right = restoration_priors.compare(mean + draws, mean, covariance, part)
    # Five times the standard error, sqrt(2 / n) of a variance.
    np.testing.assert_allclose(right, [0.0, 1.0, 0.0], atol=0.05)
    # What is off outside the subspace does not count.
    away = mean + 0.5 * draws + [3.0, 4.0, 100.0]
    wrong = restoration_priors.compare(away, mean, covariance, part)
    np.testing.assert_allclose(wrong, [5 / 5**0.5, 0.25, 0.75], atol=0.05)


@pytest.mark.parametrize("eta, name", [(0.85, "eta .85"), (1.0, "eta 1")])
def test_the_variance_of_ddnm_tends_to_the_limit_that_is_stated(eta, name):
    prior = jax.tree.map(jnp.float32, restoration_priors.independent())
    operator = operators.average((8, 8), 2)
    y = operator.forward(jnp.zeros((1, 8, 8, 1)))
    keys = rng.derive_example_keys(jax.random.key(0), jnp.arange(512))
    family, make = restoration_priors.table()[f"ddnm, {name}"]
    run = restoration_priors.program(family, make, operator, 300, noisy=False)
    samples = np.asarray(run(prior, y, keys), np.float64)
    matrix = restoration_priors.dense(operator)
    null = np.eye(64) - 4 * matrix.T @ matrix  # all singular values are 1/2
    found = np.trace(null @ np.cov(samples, rowvar=False)) / (48 * 0.5**2)
    # The sum of 48 variances of 512 draws is known to 0.9 %; the limit is approached as
    # 1 / steps, at 300 from 2 % below.
    assert found == pytest.approx((1 + np.sqrt(1 - eta**2)) / 2, abs=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workdir whose model was never trained: quicker, and as good here."""
    config: Any = tiny.get_config()
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    runs.save_config(config, folder, scenes.CLASS_NAMES)
    net = network.build_network(config, len(scenes.CLASS_NAMES))
    optimizer, averages = (
        training.build_optimizer(config, 10),
        training.build_averages(config),
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = state.blueprint(net.init, optimizer, averages, mesh=mesh)
    saved = checkpoint.Checkpoints(folder / open_run.CHECKPOINTS)
    saved.save(1, plan.create())
    saved.close()
    return folder


@pytest.mark.slow
def test_restoration_is_measured_beside_plain_methods(folder, tmp_path):
    flags = f"--workdir={folder} --config={RECIPE} --count=3 --samples=2 --batch=4"
    flags += f" --tasks 0 5 --figure={tmp_path / 'sheet.png'} --variants heun"
    record, said = run("restoration", *flags.split(), output=tmp_path / "figures.json")
    box, blur = record["tasks"].values()
    assert set(box) == {"pseudo-inverse", "plain", "published", "ours"}
    assert "plain" not in blur
    assert blur["published"]["own_measurement"]
    assert not box["published"]["own_measurement"]
    # Exact operators in float32, and images of order 1.
    for method in ("pseudo-inverse", "ours", "published"):
        assert box[method]["consistency"] < 1e-6
        assert blur[method]["consistency"] < 1e-4
    assert len(box["ours"]["psnr_each"]) == 6 and len(box["plain"]["psnr_each"]) == 3
    # Before training the network says 0, whatever it sees: all that is restored is the
    # pseudo-inverse, and nothing varies.
    for found in (box, blur):
        ours, guess = found["ours"], found["pseudo-inverse"]
        assert ours["spread"] == pytest.approx(0, abs=1e-5)
        assert ours["psnr"] == pytest.approx(guess["psnr"], abs=0.01)
        assert ours["ssim"] == pytest.approx(guess["ssim"], abs=1e-3)
    first, second = record["variants"].values()
    assert first["heun"]["network_calls"] == second["heun"]["network_calls"] == 99
    assert "| in-painting, 6x6 in the middle |" in said
    # One row of two images for each of the two tasks that are shown: 16 pixels and 2
    # between, four of them and a gap of 2, enlarged three times.
    sheet = images.read_png(tmp_path / "sheet.png")
    assert sheet.shape == (3 * (2 * 18 + 2), 3 * (2 * (4 * 18 + 2) + 2), 3)


@pytest.mark.slow
def test_priors_are_compared_with_the_exact_posterior(tmp_path):
    flags = ["--count=64", "--steps", "2"]
    found, said = run("restoration_priors", *flags, output=tmp_path / "figures.json")
    rows = found["rows"]
    exact = [row for row in rows if row["method"] == "exact draws"]
    # A trace of more than 1 degree of freedom, from 64 draws.
    assert all(0.5 < row["variance"] < 2 for row in exact)
    assert {row["part"] for row in rows if row["sigma_y"]} == {"null space", "measured"}
    assert "smooth field, averages of 2x2, sigma_y 0.2:" in said
