import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import diffusion
from simple_diffusion.build.codec import PIXELS
from simple_diffusion.build.network import Network
from simple_diffusion.build.restoration import restoration
from simple_diffusion.build.restoration.degradation import parse_degradation
from simple_diffusion.configs import base
from simple_diffusion.core import rng
from simple_diffusion.core.types import Codec, Weights
from simple_diffusion.diffusion import process
from simple_diffusion.restoration import ddnm, travel
from simple_diffusion.sampling import grids
from tests.gaussian import Gaussian

SIZE = (8, 16)


def gaussian(family=process.VP, channels=3, num_classes=0):
    """A model that is the exact denoise function of independent Gaussian pixels."""
    denoise = Gaussian().denoiser(family)

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        return denoise(z_t, logsnr)

    return Network(
        apply=apply,
        init=lambda key: {},
        size=(8, 8, channels),
        num_classes=num_classes,
        kind="x",
        family=family,
        knows_place=False,
    )


def settings(**changes):
    config = base.default()
    config.data.resolution = 8
    config.diffusion.schedule = base.cosine()
    config.restore.update(input="x.png", hole_mask="box:2x2", steps=10, factor=2)
    config.restore.update(ratio=0.5, block_side=4)
    if changes.setdefault("blur_taps", 3) is None:
        del changes["blur_taps"]
    config.restore.update(**changes)
    return config


def half():
    known = np.ones((4, *SIZE, 1), np.float32)
    known[:, 2:6, 4:9] = 0
    return known


def restored(config, net=None, codec=PIXELS, n=4):
    net = gaussian() if net is None else net
    how = restoration.build_restoration(config, net, SIZE, codec=codec)
    x = jax.random.uniform(jax.random.key(0), (n, *SIZE, 3), minval=-1.0)
    seed, index = jnp.zeros(n, jnp.uint32), jnp.arange(n)
    label = jnp.full(n, net.num_classes)
    known = jnp.asarray(half()[:n])
    y = how.measure(x, known, seed, index)
    found = jax.jit(how.restore)(Weights({}), seed, index, label, y, known)
    return how, x, y, known, found


TASKS = [
    dict(task="inpaint"),
    dict(task="super_resolution"),
    dict(task="super_resolution", downsampling="bicubic"),
    dict(task="colourise"),
    dict(task="deblur"),
    dict(task="deblur", kernel="gaussian"),
    dict(task="deblur", kernel="anisotropic", blur_sigma=(1.0, 4.0)),
    dict(task="sense"),
    dict(task="sense", sensing="blocks"),
    dict(task="inpaint+colourise"),
    dict(task="super_resolution+colourise", downsampling="bicubic"),
    dict(task="inpaint+super_resolution+colourise"),
]


@pytest.mark.parametrize("changes", TASKS, ids=lambda c: "-".join(map(str, c.values())))
def test_every_task_reproduces_its_measurement(changes):
    how, _, y, known, found = restored(settings(**changes))
    assert y.shape[1:] == how.measured
    assert found.shape == (4, *SIZE, 3)
    assert float(how.residual(found, y, known).max()) < 1e-5
    # Nor does it equal the pseudo-inverse.
    assert float(jnp.abs(found - how.guess(y, known)).max()) > 0.1


@pytest.mark.parametrize(
    "solver", ["ddnm", "ddnm_simplified", "ancestral", "ddim", "heun", "dpmpp_2m"]
)
@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=lambda f: f.name)
def test_every_solver_keeps_known_pixels_to_the_bit(solver, family):
    config = settings(solver=solver, travel_length=3, travel_repeat=2)
    _, x, _, known, found = restored(config, gaussian(family))
    inside = np.broadcast_to(np.asarray(known) == 1, found.shape)
    np.testing.assert_array_equal(np.asarray(found)[inside], np.asarray(x)[inside])
    assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize("task", ["denoise", "super_resolution", "sense"])
def test_noise_is_stated_for_images_from_0_to_1(task):
    config = settings(task=task, sigma_y=0.1)
    how, x, y, known, found = restored(config)
    clean = restoration.build_restoration(
        settings(task="super_resolution"), gaussian(), SIZE
    )
    if task == "super_resolution":
        noise = y - clean.measure(x, known, jnp.zeros(4, int), jnp.arange(4))
        np.testing.assert_allclose(noise.std(), 0.2, rtol=0.1)
    # The solver uses the same scale.
    operator = parse_degradation(config).operator(SIZE, known)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(4))
    solver = ddnm.ddnm_plus(operator, y, 0.2)
    own = diffusion.build_schedule(config, (SIZE[0] * SIZE[1]) ** 0.5)
    how = Gaussian().denoiser(), solver, lambda x: x, grids.uniform_t(own, 10), keys
    want = travel.restore(*how, (*SIZE, 3))
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_the_measurement_of_an_image_depends_only_on_its_index():
    config = settings(task="denoise", sigma_y=0.1)
    how = restoration.build_restoration(config, gaussian(), SIZE)
    x, known = jnp.zeros((3, *SIZE, 3)), jnp.ones((3, *SIZE, 1))
    every = how.measure(x, known, jnp.zeros(3, int), jnp.array([4, 5, 6]))
    one = how.measure(x[:1], known[:1], jnp.zeros(1, int), jnp.array([5]))
    np.testing.assert_array_equal(every[1], one[0])


@pytest.mark.parametrize(
    ("solver", "length", "repeat", "calls"),
    [("ddnm", 1, 1, 20), ("ddnm", 5, 2, 35), ("heun", 1, 1, 39), ("ddim", 5, 2, 35)],
)
def test_network_calls_are_counted(solver, length, repeat, calls):
    config = settings(
        solver=solver, steps=20, travel_length=length, travel_repeat=repeat
    )
    how = restoration.build_restoration(config, gaussian(), SIZE)
    assert how.network_calls == calls


@pytest.mark.parametrize("task", ["super_resolution", "deblur", "sense", "inpaint"])
def test_windows_leave_no_seam_and_reproduce_the_measurement(task):
    """A network with a radius of one pixel: windows equal the full image everywhere."""

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        edge = jnp.pad(z_t, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return 0.2 * z_t + 0.4 * (edge[:, 1:-1, 2:] + edge[:, 1:-1, :-2])

    net = dataclasses.replace(gaussian(), apply=apply)
    config = settings(task=task)
    config.sample.update(window=8, window_stride=4)
    how, _, y, known, found = restored(config, net)
    assert how.windows == 3
    assert float(how.residual(found, y, known).max()) < 1e-5
    _, _, _, _, whole = restored(settings(task=task), net)
    np.testing.assert_allclose(found, whole, atol=1e-4)


def test_a_weaker_model_guides_without_classes():
    zero = dataclasses.replace(
        gaussian(), apply=lambda params, z_t, *_, **__: jnp.zeros_like(z_t)
    )
    config = settings(task="super_resolution", solver="ddim", eta=0.0)
    config.sample.guidance = 2.0
    how = restoration.build_restoration(config, gaussian(), SIZE, zero)
    twice = dataclasses.replace(
        gaussian(), apply=lambda *args, **_: 2 * gaussian().apply(*args)
    )
    plain = settings(task="super_resolution", solver="ddim", eta=0.0)
    want = restoration.build_restoration(plain, twice, SIZE)
    zero = jnp.zeros(1, jnp.int32)
    arguments = zero, zero, zero, jnp.zeros((1, 4, 8, 3))
    known = jnp.ones((1, *SIZE, 1))
    np.testing.assert_allclose(
        how.restore(Weights({}, {}), *arguments, known),
        want.restore(Weights({}), *arguments, known),
        atol=1e-4,
    )


def seen_labels(config, label, names=()):
    """Returns the labels that the network is given."""
    seen = []

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen.append(cond.label)
        return jnp.zeros_like(z_t)

    net = dataclasses.replace(gaussian(num_classes=3), apply=apply)
    plan = restoration.read_plan(config, net, names)
    how = restoration.build_restoration(config, net, SIZE)
    seen.clear()
    known = jnp.ones((1, *SIZE, 1))
    with jax.disable_jit():
        y = jnp.zeros((1, *SIZE, 3))
        zero = jnp.zeros(1, jnp.int32)
        label = jnp.array([label(plan)])
        how.restore(Weights({}), zero, jnp.arange(1), label, y, known)
    return plan, np.concatenate(seen)


def test_without_classes_the_model_gets_the_null_class_and_is_not_guided():
    config = settings(steps=2)
    config.sample.guidance = 3.0
    plan, seen = seen_labels(config, lambda plan: plan.classes[0])
    assert plan.classes == [3]
    assert seen.tolist() == [3, 3]  # once a step, the null class


def test_with_classes_the_model_is_guided():
    config = settings(steps=2, classes="sun,2")
    config.sample.guidance = 3.0
    plan, seen = seen_labels(config, lambda plan: plan.classes[1], ("a", "sun", "c"))
    assert plan.classes == [1, 2]
    assert seen.tolist() == [2, 3, 2, 3]  # the class and the null class together


def patch_codec(kept=4):
    """The two-dimensional DCT of patches of 4x4 pixels, truncated."""
    n = 4
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    axis = np.cos(np.pi * (x + 0.5) * k / n) * np.sqrt(np.where(k == 0, 1, 2) / n)
    order = np.argsort(np.add.outer(np.arange(n), np.arange(n)).ravel(), kind="stable")
    basis = jnp.asarray(np.kron(axis, axis)[order[:kept]], jnp.float32)  # [kept, 16]

    def encode(params, image):
        b, h, w, c = image.shape
        blocks = image.reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 5, 2, 4)
        cells = blocks.reshape(b, h // n, w // n, c, n * n) @ basis.T
        return cells.reshape(b, h // n, w // n, c * kept)

    def decode(params, cells):
        b, h, w, _ = cells.shape
        blocks = cells.reshape(b, h, w, 3, kept) @ basis
        blocks = blocks.reshape(b, h, w, 3, n, n).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(b, h * n, w * n, 3)

    return Codec(encode, decode, factor=n)


def in_latents(n=512, dilate=(0, 0), **changes):
    config = settings(solver="ddim", eta=1.0, steps=64, dilate=dilate, **changes)
    codec, size = patch_codec(), (16, 16)
    how = restoration.build_restoration(
        config, gaussian(channels=12), size, codec=codec
    )
    x = jax.random.uniform(jax.random.key(0), (1, *size, 3), minval=-1.0)
    known = np.ones((1, *size, 1), np.float32)
    known[:, 4:8, 4:8] = 0  # one cell of the latent image
    many = [jnp.repeat(v, n, axis=0) for v in (x * known, known)]
    index, zero = jnp.arange(n), jnp.zeros(n, jnp.int32)
    found = jax.jit(how.restore)(Weights({}), zero, index, zero, *many)
    return codec, x, known, np.asarray(found)


def test_in_latents_the_hole_has_the_distribution_of_the_prior_and_the_rest_is_pasted():
    """An orthonormal codec and independent Gaussian cells: the posterior is exact."""
    codec, x, known, found = in_latents()
    inside = np.broadcast_to(known == 1, found.shape)
    every = np.broadcast_to(x, found.shape)
    np.testing.assert_array_equal(found[inside], every[inside])
    # The hole is one cell: mean m and spread s in each of its numbers.
    cells = np.asarray(codec.encode((), jnp.asarray(found)))[:, 1, 1]
    model = Gaussian()
    np.testing.assert_allclose(cells.mean(), model.mean, atol=0.03)
    np.testing.assert_allclose(cells.std(), model.std, rtol=0.06)


@pytest.mark.parametrize(
    ("dilate", "imposed"),
    # Of 4x4 cells with the hole at (1, 1): two more on each side are all of them.
    [((0, 0), 15), ((1, 0), 12), (None, 0)],
    ids=["not", "low", "by default"],
)
def test_the_hole_grows_in_latents_and_the_known_pixels_stay(dilate, imposed):
    """The initial z of the solver shows how many cells are imposed."""
    config = settings(solver="ddim", eta=1.0, steps=1)
    if dilate is not None:
        config.restore.dilate = dilate

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        return jnp.full_like(z_t, 9.0)

    net = dataclasses.replace(gaussian(channels=12), apply=apply)
    codec, seen = patch_codec(), []

    def decode(params, cells):
        seen.append(cells)
        return codec.decode(params, cells)

    spy = codec._replace(decode=decode)
    how = restoration.build_restoration(config, net, (16, 16), codec=spy)
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3), minval=-1.0)
    known = np.ones((1, 16, 16, 1), np.float32)
    known[:, 4:8, 4:8] = 0
    found = how.restore(
        *(Weights({}), jnp.zeros(1, jnp.int32), jnp.arange(1), jnp.zeros(1, jnp.int32)),
        *(x * known, jnp.asarray(known)),
    )
    filled = (np.asarray(seen[-1]) == 9.0).all(axis=-1)[0]
    assert (~filled).sum() == imposed
    inside = np.broadcast_to(known == 1, found.shape)
    np.testing.assert_array_equal(np.asarray(found)[inside], np.asarray(x)[inside])


def test_growing_the_hole_in_pixels_leaves_fewer_known_pixels():
    """A model that copies the left pixel shows which pixels it is given."""

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        return jnp.roll(z_t, 1, axis=2)

    net = dataclasses.replace(gaussian(), apply=apply)
    _, _, _, _, plain = restored(settings(), net)
    _, x, _, known, grown = restored(settings(dilate=(1, 1)), net)
    inside = np.broadcast_to(np.asarray(known) == 1, grown.shape)
    np.testing.assert_array_equal(np.asarray(grown)[inside], np.asarray(x)[inside])
    assert not np.allclose(plain, grown)


@pytest.mark.parametrize("name", [{}, {"mode": "block_max"}])
def test_the_identity_codec_is_in_painting_in_pixels(name):
    mode = {"mask_mode": name["mode"]} if name else {}
    config = settings(dilate=(0, 0), **mode)
    same = Codec(lambda _, x: x, lambda _, x: x)
    _, _, _, _, pixels = restored(config)
    _, _, _, _, cells = restored(config, codec=same)
    np.testing.assert_array_equal(pixels, cells)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(task="unblur"), "'unblur' is unknown; known: denoise, inpaint"),
        (dict(task="colourise+inpaint"), "in the order inpaint, one of super_res"),
        (dict(task="deblur+sense"), "one of super_resolution, deblur, sense"),
        (dict(task="inpaint+deblur"), "no exact inverse of a mask before deblur"),
        (dict(task="inpaint+denoise"), "remove denoise.*restore.sigma_y"),
        (dict(task="denoise"), "restore.task=denoise needs restore.sigma_y > 0"),
        (
            dict(task="inpaint+super_resolution", downsampling="bicubic"),
            "needs restore.downsampling=average",
        ),
        (dict(downsampling="median"), "restore.downsampling='median' must be one of"),
        (dict(task="super_resolution", factor=3), "restore.factor=3 does not divide"),
        (dict(task="super_resolution", factor=32), "restore.factor=32"),
        (dict(task="sense", ratio=0.0), "restore.ratio=0.0"),
        (dict(task="sense", sensing="fourier"), "restore.sensing='fourier'"),
        (dict(task="sense", sensing="blocks", block_side=3), "restore.block_side=3"),
        (dict(task="deblur", kernel="box"), "restore.kernel='box' must be one of"),
        (dict(task="deblur", blur_sigma=(1.0, 1.0)), "not for restore.kernel=uniform"),
        (
            dict(task="deblur", kernel="gaussian", blur_sigma=(1.0,)),
            "restore.blur_sigma=.*two positive numbers",
        ),
        (dict(task="deblur", blur_taps=4), "restore.blur_taps=4"),
        (dict(sigma_y=0.1, solver="heun"), "sigma_y=0.1 needs restore.solver=ddnm"),
        (dict(sigma_y=0.1, fresh="ddim"), "restore.fresh=ddim is for"),
        (dict(solver="ddim", fresh="ddim"), "restore.fresh=ddim is for"),
        (dict(task="deblur", blur_threshold=1e-4), "restore.blur_threshold=0.0001"),
        (dict(task="colourise", dilate=(1, 1)), "restore.dilate is for restore.task="),
        (dict(steps=0), "restore.steps=0 must be at least 1"),
        (dict(travel_length=0), "restore.travel_length=0"),
        (dict(solver="euler"), "restore.solver='euler' must be one of: ddnm"),
        (dict(fresh="new"), "restore.fresh='new' must be one of"),
        (dict(clip="hard"), "restore.clip='hard' must be one of"),
        (dict(dilate=(1,)), "restore.dilate=.*two numbers of cells"),
        (dict(dilate=(-1, 0)), "restore.dilate=.*must not be negative"),
        (dict(mask_mode="mean"), "restore.mask_mode='mean'"),
        (
            dict(
                task="inpaint+super_resolution",
                compat=True,
                sigma_y=0.1,
            ),
            "restore.compat=False",
        ),
        (dict(task="deblur+colourise", compat=True), "restore.compat=False"),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_impossible_settings_are_an_error_that_names_the_key(changes, match):
    with pytest.raises(ValueError, match=match):
        restored(settings(**changes))


def test_only_in_painting_is_linear_in_latents():
    with pytest.raises(ValueError, match="in the latents of an autoencoder only"):
        restored(settings(task="super_resolution"), codec=patch_codec())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(input=""), "restore.input must name an image"),
        (dict(hole_mask=""), "needs restore.hole_mask: an image whose white"),
        (dict(task="colourise"), "restore.hole_mask is for tasks with inpaint"),
        (dict(classes="moon"), "restore.classes has 'moon'; this model has 3 classes"),
        (dict(size="12"), "restore.size='12' must be HxW"),
        (dict(solver="euler"), "restore.solver='euler'"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_a_plan_names_the_key_that_is_wrong(changes, match):
    net = gaussian(num_classes=3)
    with pytest.raises(ValueError, match=match):
        restoration.read_plan(settings(**changes), net, ("a", "b", "c"))


def test_a_blur_of_another_sigma_has_taps_up_to_three_sigma():
    how = dict(task="deblur", kernel="gaussian", blur_sigma=(1.0, 2.0), blur_taps=None)
    with pytest.raises(ValueError, match="restore.blur_taps=13"):
        # Twelve pixels to both sides are more than a mirror of 5 has.
        parse_degradation(settings(**how)).operator((16, 5), jnp.ones((1, 16, 5, 1)))
    parse_degradation(settings(**how)).operator((16, 6), jnp.ones((1, 16, 6, 1)))


@pytest.mark.parametrize(
    ("solver", "weights"),
    [("ddnm", [0.3333, 0.3334, 0.3333]), ("ddnm_simplified", [1 / 3, 1 / 3, 1 / 3])],
)
def test_grey_as_published_has_the_weights_of_its_sampler(solver, weights):
    config = settings(task="colourise", compat=True, solver=solver)
    operator = parse_degradation(config).operator(SIZE, jnp.ones((1, *SIZE, 1)))
    green = jnp.asarray([[0.0, 1.0, 0.0]] * 2)[:, None, None] * jnp.ones((2, *SIZE, 3))
    y = operator.forward(1000.0 * green)
    np.testing.assert_allclose(y, 1000.0 * weights[1], rtol=1e-6)


def test_compat_is_the_published_operator():
    config = settings(task="inpaint+super_resolution", compat=True)
    operator = parse_degradation(config).operator(SIZE, jnp.asarray(half()))
    x = jax.random.uniform(jax.random.key(0), (4, *SIZE, 3))
    y = operator.forward(x)
    assert float(jnp.abs(operator.forward(operator.pinv(y)) - y).max()) > 0.1
