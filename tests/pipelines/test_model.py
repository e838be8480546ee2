"""The Python API, with a small run of version 0.1.0."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import simple_diffusion
from simple_diffusion.configs import base
from simple_diffusion.core.types import Conditioning
from simple_diffusion.modes import restore, sample
from simple_diffusion.pipelines import keywords, programs, runs
from simple_diffusion.pipelines.model import Model
from simple_diffusion.pipelines.requests import readers
from simple_diffusion.training import sharding
from tests.pipelines import old_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return old_run.extract(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def model(workdir):
    return simple_diffusion.load(workdir)


@pytest.fixture(scope="module")
def photo(workdir):
    return np.load(workdir / "samples" / "samples.npz")["arr_0"][0]


@pytest.fixture(scope="module")
def hole():
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    return mask


def test_a_loaded_model_shows_what_it_is(model, workdir):
    assert model.classes[3] == "boat" and len(model.classes) == 12
    assert (model.step, model.size) == (8, (16, 16))
    assert model.config.train.total_steps == 8
    assert "uvit at 16x16, 12 classes, step 8" in repr(model)
    recorded = json.loads((workdir / "metrics.json").read_text())["metrics"]
    assert model.metrics["metrics"] == recorded
    z_t, logsnr = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1)
    cond = Conditioning(label=jnp.zeros(1, int))
    assert model.apply(model.params, z_t, logsnr, cond).shape == z_t.shape


def test_samples_equal_those_of_the_old_version(model, workdir):
    old = np.load(workdir / "samples" / "samples.npz")
    drawn = model.sample()
    assert drawn.dtype == np.uint8 and drawn.shape == (12, 16, 16, 3)
    # Another compiler may round differently before uint8.
    assert np.abs(drawn.astype(int) - old["arr_0"]).max() <= 1


def test_samples_are_those_of_the_command_line_bit_for_bit(model, workdir):
    config = runs.load_config(epath.Path(workdir))
    config.sample.update(classes="boat,7", count=3, seed=5, guidance=3.0, steps=3)
    result = sample.run(config, str(workdir))
    keys = dict(count=3, seed=5, guidance=3.0, steps=3)
    drawn = model.sample(["boat", 7], **keys)
    np.testing.assert_array_equal(drawn, result.images)
    assert result.labels.tolist() == [3, 7, 3]


def test_restorations_are_those_of_the_command_line_bit_for_bit(
    model, workdir, photo, hole, tmp_path
):
    for name, pixels in (("photo", photo), ("mask", hole.astype(np.uint8) * 255)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    config = runs.load_config(epath.Path(workdir))
    config.restore.update(task="inpaint", samples=2, steps=4)
    config.restore.input = str(tmp_path / "photo.png")
    config.restore.hole_mask = str(tmp_path / "mask.png")
    result = restore.run(config, str(workdir))
    paths = [result.folder / p for p in result.files["photo"] if "images/" in p]
    files = np.stack([np.asarray(Image.open(path)) for path in paths])
    found = model.restore(
        tmp_path / "photo.png", "inpaint", hole_mask=hole, samples=2, steps=4
    )
    np.testing.assert_array_equal(found.images, files)


def test_restoring_an_array_keeps_what_is_known_and_fills_the_rest(model, photo, hole):
    found = model.restore(photo, "inpaint", hole_mask=hole, samples=4, steps=4)
    assert found.images.shape == (4, 16, 16, 3)
    assert (found.images[:, ~hole] == photo[~hole]).all()
    assert (found.images[0] != found.images[1]).any()
    assert found.residual.shape == (4,) and found.residual.max() < 1e-5
    assert (found.inputs[~hole] == photo[~hole]).all()
    assert np.ptp(found.inputs[hole]) == 0  # nothing of the photo is left in the hole


@pytest.mark.slow
def test_a_list_of_inputs_gives_a_list_of_restorations(model, photo, hole):
    many = model.restore(
        [photo, Image.fromarray(photo[::-1])], "inpaint", hole_mask=hole, steps=2
    )
    assert [one.images.shape for one in many] == [(1, 16, 16, 3)] * 2
    assert (many[1].images[0][~hole] == photo[::-1][~hole]).all()
    one = model.restore(photo, "colourise", degrade=True, steps=2, as_pil=True)
    assert one.images[0].size == (16, 16) and one.images[0].mode == "RGB"
    assert one.metrics["psnr"] and (one.original == photo).all()


@pytest.mark.slow
def test_a_measurement_is_an_array(model, photo):
    how = dict(sensing="blocks", block_side=8, steps=2)
    first = model.restore(photo, "sense", degrade=True, **how)
    again = model.restore(first.measurement, "sense", size="16x16", **how)
    assert again.residual.max() < 1e-4
    assert again.original is None


@pytest.fixture(scope="module")
def on_one_device(model):
    """The same model, on one of the eight devices."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    weights = jax.device_put(model.trained.weights, jax.devices()[0])
    trained = dataclasses.replace(model.trained, mesh=mesh, weights=weights)
    return Model(model.config, trained)


@pytest.mark.parametrize("devices", [1, 8])
def test_progress_sees_every_step_and_can_cancel(model, on_one_device, devices):
    model, seen = (on_one_device if devices == 1 else model), []
    model.sample("boat", progress=lambda *now: seen.append(now))
    assert [(done, steps) for done, steps, _ in seen] == [(1, 2), (2, 2)]
    assert seen[0][2].shape == (1, 16, 16, 3)

    class Cancelled(Exception):
        pass

    def cancel(done, steps, x_hat):
        seen.append("cancelled")
        raise Cancelled("by the user")

    seen.clear()
    with pytest.raises(Cancelled, match="by the user"):
        model.sample("boat", progress=cancel)
    assert seen == ["cancelled"]
    # The same program still serves other calls.
    model.sample("boat", progress=lambda *now: seen.append(now))
    assert len(seen) == 3


def test_restoring_reports_progress_too(model, photo, hole):
    seen = []
    model.restore(
        *(photo, "inpaint"),
        hole_mask=hole,
        steps=3,
        progress=lambda done, steps, x_hat: seen.append((done, steps)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_second_call_compiles_nothing(model, monkeypatch, photo, hole):
    model.sample(["boat", "house"], seed=1)
    model.restore(photo, "inpaint", hole_mask=hole, steps=2)

    def fail(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(programs, "compile_program", fail)
    monkeypatch.setattr("simple_diffusion.pipelines.sampling.make_drawer", fail)
    first = model.sample(["sunset", "tree"], seed=2)
    assert (first != model.sample(["sunset", "tree"], seed=3)).any()
    model.restore(photo[::-1], "inpaint", hole_mask=hole, steps=2, seed=4)
    with pytest.raises(AssertionError, match="compiled again"):
        model.sample(["boat", "house"], steps=7)


def test_the_denoiser_is_the_network_guided_as_samples_are(model):
    z_t = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    logsnr = jnp.array([-1.0, 2.0])
    boat = model.denoiser("boat", guidance=1.0, clip="none")(z_t, logsnr)
    none = model.denoiser(guidance=1.0, clip="none")(z_t, logsnr)
    # x = x_weak + guidance (x_strong - x_weak), and clipped last.
    expected = none + 3.0 * (boat - none)
    guided = model.denoiser("boat", guidance=3.0, clip="none")(z_t, logsnr)
    np.testing.assert_allclose(guided, expected, atol=1e-5)
    clipped = model.denoiser("boat", guidance=3.0, clip="static")(z_t, logsnr)
    np.testing.assert_allclose(clipped, jnp.clip(expected, -1, 1), atol=1e-5)
    mixed = model.denoiser(["boat", "house"], guidance=1.0, clip="none")(z_t, logsnr)
    np.testing.assert_allclose(mixed[0], boat[0], atol=1e-5)
    # After eight training steps the classes hardly differ.
    assert float(jnp.abs(mixed[1] - boat[1]).max()) > 5e-5


def test_encode_and_decode_are_inverse_for_pixels(model, photo):
    x = model.encode(photo)
    assert x.shape == (1, 16, 16, 3) and x.dtype == jnp.float32
    np.testing.assert_allclose(x[0], photo / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(model.decode(x)[0], photo)
    assert model.decode(x, as_pil=True)[0].size == (16, 16)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        (dict(stepz=3), "sample.stepz: there is no such keyword; known are .*steps"),
        (dict(steps="many"), "sample.steps='many'"),
        (dict(guidance_low="a"), "sample.guidance_low='a'"),
        (dict(size=(17, 17)), "sample.size=17x17.*nearest is 16x16"),
        (dict(solver="euler"), "sample.solver='euler' must be one of: ancestral"),
        (dict(weights="params"), r"load\(..., weights=...\)"),
        (dict(classes=["bot"]), "sample.classes has 'bot'.*boat"),
        (dict(classes=[12]), "12 classes, 0 to 11"),
        (dict(seed=-1), "sample.seed=-1 must be in the range"),
        (dict(seed=2**32), "sample.seed=4294967296"),
    ],
)
def test_bad_keywords_are_named(model, keys, match):
    with pytest.raises(ValueError, match=match):
        model.sample(**keys)


@pytest.mark.parametrize(
    ("given", "keys", "match"),
    [
        (np.zeros((16, 16, 3)), {}, "uint8 array .* got float64"),
        (np.zeros((16, 16, 3), np.uint8), dict(hole_mask=None), "restore.hole_mask"),
        (
            np.zeros((16, 16, 3), np.uint8),
            dict(hole_mask=np.zeros((8, 8), bool)),
            "8x8 pixels, array_0 has 16x16",
        ),
        (np.zeros((16, 16, 3), np.uint8), dict(sampels=2), "sample.sampels"),
        ([], {}, "at least one input"),
    ],
)
def test_bad_inputs_are_named(model, hole, given, keys, match):
    with pytest.raises(ValueError, match=match):
        model.restore(given, "inpaint", **({"hole_mask": hole, "steps": 2} | keys))


def test_keywords_are_the_keys_of_the_config():
    config = base.default()
    of_sample = set(keywords.SampleKeys.__annotations__)
    # `load` decides which weights are loaded; extra sizes belong to training, and
    # Python writes no files. Classes are an argument of their own.
    elsewhere = {*keywords.OF_LOAD, "classes", "also_sizes", "output"}
    assert of_sample == set(config.sample) - elsewhere
    of_restore = set(keywords.RestoreKeys.__annotations__)
    # The first arguments of `restore`; and files, which Python does not write.
    elsewhere = {"input", "task", "hole_mask", "output", "lpips_weights"}
    both = set(config.restore) - elsewhere
    # A restoration has no conditions but the class.
    asked = {*readers.KEYS, "low_resolution_noise", "guidance_of"}
    of_both = both | (of_sample - {"count", "coarse_size", "coarse_time"} - asked)
    assert of_restore == of_both


@pytest.mark.parametrize("weights", ["params", "power_0.05", "power_0.1"])
def test_other_weights_and_steps_can_be_loaded(workdir, model, weights):
    other = simple_diffusion.load(workdir, weights=weights, step=8)
    assert other.weights_name == weights
    mine, theirs = (
        np.concatenate([np.ravel(v) for v in jax.tree.leaves(m.params)])
        for m in (model, other)
    )
    assert (mine != theirs).any() and np.abs(mine - theirs).max() < 0.5


def test_a_source_that_cannot_be_loaded_is_named(workdir, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        simple_diffusion.load(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no trained model"):
        simple_diffusion.load(tmp_path)
    with pytest.raises(ValueError, match="hf:OWNER/NAME@REVISION"):
        simple_diffusion.load("hf:name")
    with pytest.raises(Exception, match="step 7|7"):
        simple_diffusion.load(workdir, step=7)


@pytest.mark.slow
def test_a_weaker_step_of_the_run_guides(workdir, model):
    weak = simple_diffusion.load(workdir, guidance_workdir=str(workdir))
    # Its own copy: guidance then changes nothing.
    one, three = (weak.sample("boat", guidance=g) for g in (1.0, 3.0))
    assert np.abs(one.astype(int) - three).max() <= 1
    assert weak.trained.weak is not None
