import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import diffusion, image_geometry, network, sampling
from simple_diffusion.configs import base, networks
from simple_diffusion.core.types import Request, Weights
from simple_diffusion.diffusion import discrete, process
from simple_diffusion.pipelines.requests.plan import read_plan


def tiny(num_classes=3):
    config = base.default()
    config.data.resolution = 8
    config.model = networks.unet()
    config.model.update(
        channels=(8, 8),
        blocks=(1, 1),
        heads=(1, 1),
        attention_resolutions=(4,),
        base_channels=4,
        emb_channels=8,
    )
    return config, network.build_network(config, num_classes)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [(None, [0, 1, 2]), ("tree", [1]), ("tree, 0,sun", [1, 0, 0]), ("2,2", [2, 2])],
)
def test_classes_are_chosen_by_name_or_number(text, chosen):
    assert sampling.parse_classes(text, ("sun", "tree", "car"), 3) == chosen


@pytest.mark.parametrize("text", ["moon", "3", "-1", ""])
def test_a_class_that_does_not_exist_lists_those_that_do(text):
    with pytest.raises(ValueError, match="sample.classes.*0 to 2.*sun, tree, car"):
        sampling.parse_classes(text, ("sun", "tree", "car"), 3)


def test_labels_cycle_through_the_classes():
    config, net = tiny()
    config.sample.count = 5
    plan = read_plan(config, net, ("a", "b", "c"))
    assert plan.request.label.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("text", ["64", "-1x8", "8x", "axb", "8x8x8"])
def test_an_invalid_size_names_the_key(text):
    with pytest.raises(ValueError, match="sample.size=.*HxW"):
        image_geometry.parse_size(text, (64, 64))


def test_an_indivisible_size_names_the_multiple():
    config, net = tiny()
    config.sample.size = "9x8"
    with pytest.raises(ValueError, match="sample.size=9x8.*multiples of 2"):
        sampling.build_sampling(config, net)


def test_an_indivisible_resolution_names_the_key():
    config, _ = tiny()
    config.data.resolution = 9
    with pytest.raises(ValueError, match="data.resolution=9.*multiples of 2"):
        network.build_network(config, 3)


def test_a_model_without_classes_is_sampled_without_guidance():
    config, net = tiny(num_classes=0)
    params = net.init(jax.random.key(0))
    index, label = jnp.arange(2), jnp.zeros(2, jnp.int32)
    config.sample.update(steps=2, guidance=1.0)
    arguments = Weights(params), 0 * index, index, Request(label)
    plain = sampling.build_sampling(config, net).draw(*arguments)
    config.sample.guidance = 3.0
    sampler = sampling.build_sampling(config, net)
    assert sampler.guidance == 1.0  # which the record must contain
    guided = sampler.draw(*arguments)
    np.testing.assert_array_equal(plain, guided)


def test_a_weaker_model_of_another_scale_is_an_error():
    config, net = tiny()
    weak = dataclasses.replace(net, family=process.FLOW)
    with pytest.raises(ValueError, match="family=flow, this one vp"):
        sampling.build_sampling(config, net, weak)


@pytest.mark.parametrize("key", ["solver", "grid", "clip"])
def test_an_unknown_option_lists_the_known_ones(key):
    config, net = tiny()
    config.sample[key] = "magic"
    with pytest.raises(ValueError, match=f"sample.{key}='magic' must be one of"):
        sampling.build_sampling(config, net)


def test_steps_of_a_table_need_a_discrete_schedule():
    config, net = tiny()
    config.sample.update(grid="leading", steps=5)
    with pytest.raises(ValueError, match="sample.grid=leading chooses steps of diff"):
        sampling.build_sampling(config, net)
    with config.unlocked():
        config.diffusion.schedule = base.discrete()
    geometry = image_geometry.build_geometry(config, net, None, 5)
    table = np.array(discrete.from_betas(0.00085, 0.012).table, np.float32)
    np.testing.assert_allclose(geometry.grid, table[[801, 601, 401, 201, 1]])
    config.sample.steps = 1001
    with pytest.raises(
        ValueError, match="sample.steps=1001: .* schedule that has 1000"
    ):
        sampling.build_sampling(config, net)


@pytest.mark.parametrize(
    ("solver", "calls"), [("ancestral", 7), ("ddim", 7), ("dpmpp_2m", 7), ("heun", 13)]
)
def test_counted_network_calls_are_those_of_the_solver(solver, calls):
    config, net = tiny()
    config.sample.solver, config.sample.steps = solver, 7
    assert sampling.build_sampling(config, net).network_calls == calls


def test_a_level_table_with_a_missing_entry_names_the_column():
    config, _ = tiny()
    config.model.blocks = (1, 1, 1)
    with pytest.raises(ValueError, match="3 in model.blocks"):
        network.build_network(config, 3)


def anyres(**model):
    """A tiny model of patches of 8 pixels, of images of 8 to 16."""
    config, _ = tiny()
    config.data.patches = base.patches(8, 16)
    config.model.update(place_bands=2, scale_embedding=True, **model)
    return config, network.build_network(config, 3)


def test_images_as_long_as_those_of_the_training_keep_their_noise():
    config, _ = anyres()
    config.data.patches.aspect = 2.0
    net = network.build_network(config, 3)

    def network_size(text):
        return image_geometry.build_geometry(config, net, text, 4).network_size

    # Sides up to 16, and twice as long.
    assert network_size("16x32") == (16, 32)
    assert network_size("32x128") == (8, 32)
    assert network_size("32x32") == (16, 16)


def seen_by_the_network(config, net, monkeypatch):
    """Runs a network that only records; returns its box and full-image size."""
    seen = {}

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen.setdefault("shape", z_t.shape)
        seen["whole"], seen["box"] = cond.full_size, cond.box
        return jnp.zeros_like(z_t)

    looking = dataclasses.replace(net, apply=apply)
    monkeypatch.setattr(image_geometry, "check_size", lambda *_: None)  # it divides all
    sampler = sampling.build_sampling(config, looking)
    index, label = jnp.arange(2), jnp.zeros(2, jnp.int32)
    with jax.disable_jit():
        sampler.draw(Weights({}), 0 * index, index, Request(label))
    return seen


@pytest.mark.parametrize(
    ("frame", "box", "whole"),
    [("whole", (0, 0, 1, 1), (8, 16)), ("cut", (0.25, 0, 0.75, 1), (16, 16))],
)
def test_a_wide_image_is_a_full_image_or_the_middle_of_a_square(
    frame, box, whole, monkeypatch
):
    config, net = anyres()
    config.sample.update(size="8x16", frame=frame, steps=2)
    seen = seen_by_the_network(config, net, monkeypatch)
    assert seen["whole"] == whole
    np.testing.assert_allclose(seen["box"], np.tile([box], (len(seen["box"]), 1)))


def test_a_model_without_positions_gets_no_box(monkeypatch):
    config, net = tiny()
    config.sample.update(size="8x16", steps=2)
    seen = seen_by_the_network(config, net, monkeypatch)
    assert seen["whole"] is None and seen["box"] is None


@pytest.mark.parametrize(("shifts", "steps"), [(True, 2 * np.log(8 / 16)), (False, 0)])
def test_noise_levels_follow_the_resolution(shifts, steps):
    config, _ = anyres()
    config.diffusion.shift_by_resolution = shifts
    t = jnp.linspace(0.1, 0.9, 5)
    own, larger = diffusion.build_schedule(config), diffusion.build_schedule(config, 16)
    np.testing.assert_allclose(larger(t) - own(t), steps, atol=1e-5)


@pytest.mark.parametrize("guided", [1.0, 2.0])
def test_windows_as_large_as_the_image_change_nothing(guided):
    config, net = anyres()
    params = lively(net)
    config.sample.update(size="16x16", steps=2, guidance=guided)
    index, label = jnp.arange(2), jnp.array([0, 2])
    whole = sampling.build_sampling(config, net)
    config.sample.window = 16
    windows = sampling.build_sampling(config, net)
    assert (whole.windows, windows.windows) == (None, 1)
    a, b = (
        jax.jit(s.draw)(Weights(params), 0 * index, index, Request(label))
        for s in (whole, windows)
    )
    np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)


def test_windows_are_counted_and_must_fit_the_network():
    config, net = anyres()
    config.sample.update(size="16x24", window=8, window_stride=4)
    assert sampling.build_sampling(config, net).windows == 3 * 5
    config.sample.window = 7
    with pytest.raises(ValueError, match="sample.window=7x7.*multiples of 2.*8x8"):
        sampling.build_sampling(config, net)
    config.sample.window = 0
    with pytest.raises(ValueError, match="sample.window=0"):
        sampling.build_sampling(config, net)


@pytest.mark.parametrize(
    ("key", "value"),
    [("safa_gate", "tanh"), ("padding", "mirror"), ("scale_input", "sqrt")],
)
def test_an_unknown_option_of_the_network_names_its_key(key, value):
    with pytest.raises(ValueError, match=f"model.{key}='{value}' must be one of"):
        anyres(**{key: value})


def test_which_models_use_positions():
    assert not tiny()[1].knows_place
    assert anyres()[1].knows_place
    # Only patches have positions: without them every image is a full image.
    config, _ = anyres()
    config.data.patches = None
    assert not network.build_network(config, 3).knows_place


def lively(net):
    params = net.init(jax.random.key(0))
    return jax.tree.map(
        lambda v: v + 0.05 * jnp.sin(jnp.arange(v.size).reshape(v.shape)), params
    )


def test_a_coarse_image_gives_its_structure_to_a_larger_one():
    config, net = anyres()
    params, index, label = lively(net), jnp.arange(2), jnp.array([0, 2])
    config.sample.update(steps=10, size="8x8")
    arguments = Weights(params), 0 * index, index, Request(label)
    small = jax.jit(sampling.build_sampling(config, net).draw)(*arguments)
    config.sample.update(size="16x16", coarse_size="8x8", coarse_time=0.05)
    sampler = sampling.build_sampling(config, net)
    # So late that the noise hides almost nothing of the small image. (Sampled directly
    # from noise, the large image is 80 grey levels away.)
    large = jax.jit(sampler.draw)(*arguments)
    shape = (2, 16, 16, 3)
    enlarged = jax.image.resize(small.astype(jnp.float32), shape, "cubic")
    assert float(jnp.abs(large - jnp.clip(enlarged, 0, 255)).mean()) < 8
    assert sampler.network_calls == 10 + 1


def test_the_cut_of_a_coarse_image_is_its_middle():
    config, net = anyres()
    config.sample.update(size="8x16", coarse_size="8x8", frame="cut", steps=2)
    one = image_geometry.build_geometry(config, net, "8x16", config.sample.steps)
    x = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 3))
    cut = one.enlarge(x, (0.0, 0.0, 1.0, 1.0))
    assert cut.shape == (1, 8, 16, 3)
    want = jax.image.resize(x, (1, 16, 16, 3), "cubic")[:, 4:12]
    np.testing.assert_array_equal(cut, want)


def test_a_coarse_image_that_is_not_smaller_is_skipped():
    config, net = anyres()
    config.sample.update(size="8x8", coarse_size="8x8", steps=4)
    assert sampling.build_sampling(config, net).network_calls == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("coarse_size", "9x9"), ("coarse_size", "8")],
)
def test_bad_settings_of_the_coarse_image_name_their_key(key, value):
    config, net = anyres()
    config.sample.update(size="16x16", coarse_size="8x8")
    config.sample[key] = value
    with pytest.raises(ValueError, match=f"sample.{key}={value!r}".replace("'", ".?")):
        sampling.build_sampling(config, net)


@pytest.mark.parametrize(("extrapolate", "told"), [(False, (8, 16)), (True, (32, 64))])
def test_above_the_largest_training_size_the_network_is_given_that_size(
    extrapolate, told
):
    config, net = anyres()
    config.sample.extrapolate = extrapolate
    one = image_geometry.build_geometry(config, net, "32x64", config.sample.steps)
    assert one.network_size == told
    first = diffusion.build_schedule(config, (told[0] * told[1]) ** 0.5)(
        jnp.float32(1.0)
    )
    np.testing.assert_allclose(one.grid[0], first, rtol=1e-6)
    within = image_geometry.build_geometry(config, net, "12x16", config.sample.steps)
    assert within.network_size == (12, 16)


def test_a_coarse_image_that_was_cut_is_not_cut_again():
    config, net = anyres()
    config.sample.update(frame="cut")
    coarse = image_geometry.build_geometry(config, net, "4x8", config.sample.steps)
    fine = image_geometry.build_geometry(config, net, "8x16", config.sample.steps)
    x = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, 4, 8, 3))
    want = jax.image.resize(x, (1, 8, 16, 3), "cubic")
    np.testing.assert_array_equal(fine.enlarge(x, coarse.box), want)


def test_a_coarse_image_that_shows_too_little_is_an_error():
    config, net = anyres()
    config.sample.update(frame="cut", size="16x16", coarse_size="4x8")
    with pytest.raises(ValueError, match="sample.coarse_size=4x8 shows less"):
        sampling.build_sampling(config, net)


def test_a_size_of_zero_names_the_nearest():
    config, net = tiny()
    config.sample.size = "0x8"
    with pytest.raises(ValueError, match="sample.size=0x8.*nearest is 2x8"):
        sampling.build_sampling(config, net)


def test_an_extra_size_that_does_not_divide_names_its_key():
    config, net = anyres()
    config.sample.also_sizes = ("8x9",)
    with pytest.raises(ValueError, match="sample.also_sizes=8x9"):
        sampling.build_extra_sizes(config, net)


def test_the_default_size_is_the_smallest_full_image_size():
    config, _ = anyres()
    config.data.patches.smallest = 12
    net = network.build_network(config, 3)
    assert sampling.build_sampling(config, net).size == (12, 12)


@pytest.mark.parametrize(
    "model",
    [
        dict(safa=("all", "none")),
        dict(safa=("first_conv",) * 2),
        dict(position="rope"),
        dict(place_bands=2),
        dict(scale_embedding=True),
    ],
)
def test_each_use_of_positions_is_recognised(model):
    config, _ = tiny()
    config.data.patches = base.patches(8, 16)
    assert not network.build_network(config, 3).knows_place
    config.model.update(model)
    assert network.build_network(config, 3).knows_place


def test_a_table_of_positions_is_refused_for_patches():
    config, _ = tiny()
    config.data.patches = base.patches(8, 16)
    config.model = networks.uvit()
    with pytest.raises(ValueError, match="model.position='learned' is a table"):
        network.build_network(config, 3)


def test_a_size_that_the_weaker_model_does_not_support_names_the_key():
    config, net = anyres()
    other, _ = tiny()
    other.data.resolution = 16
    other.model.update(channels=(8, 8, 8, 8), blocks=(1,) * 4, heads=(1,) * 4)
    weak = network.build_network(other, 3)
    config.sample.size = "12x12"
    with pytest.raises(ValueError, match="guidance_workdir.*multiples of 8"):
        sampling.build_sampling(config, net, weak)
