import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Conditioning
from simple_diffusion.diffusion import parameterization, process
from simple_diffusion.sampling import grids, guidance, loop, solvers
from tests.vectors import vector

Z = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
LOGSNR = jnp.array([-2.0, 0.5, 1.5])
COND = Conditioning(label=jnp.array([0, 1, 2]), box=jnp.ones((3, 4)))
NULL = Conditioning(label=jnp.array([9, 9, 9]), box=jnp.zeros((3, 4)))


def strong(z_t, logsnr):
    return jnp.tanh(z_t) + logsnr.reshape(-1, 1, 1, 1)


def weak(z_t, logsnr):
    return 0.5 * jnp.sin(z_t)


def broken(z_t, logsnr):
    """Raises through the NaN check of the tests if its result is ever computed."""
    return z_t * np.float32(np.nan)


class Network:
    """Binds a denoiser whose result depends on label and box, and counts its calls."""

    def __init__(self):
        self.batches = []

    def bind(self, cond):
        def denoise(z_t, logsnr):
            self.batches.append(z_t.shape[0])
            label = cond.label.astype(jnp.float32) + jnp.sum(cond.box, axis=1)
            return jnp.tanh(z_t + (label * logsnr).reshape(-1, 1, 1, 1))

        return denoise


def test_weight_one_is_the_strong_function_and_nothing_else():
    np.testing.assert_array_equal(
        guidance.guide(strong, broken, 1.0)(Z, LOGSNR), strong(Z, LOGSNR)
    )


def test_weight_zero_is_the_weak_function():
    got = guidance.guide(strong, weak, 0.0)(Z, LOGSNR)
    np.testing.assert_allclose(got, weak(Z, LOGSNR), rtol=0, atol=1e-6)


def test_other_weights_lie_on_the_line_through_both():
    got = guidance.guide(strong, weak, 2.5)(Z, LOGSNR)
    a, b = np.asarray(strong(Z, LOGSNR)), np.asarray(weak(Z, LOGSNR))
    np.testing.assert_allclose(got, b + 2.5 * (a - b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("kind", ["eps", "v", "u"])
def test_guiding_x_is_guiding_any_kind(kind, family):
    def to_kind(x_hat):
        return parameterization.from_x(kind, x_hat, Z, LOGSNR, family)

    guided = to_kind(guidance.guide(strong, weak, 3.0)(Z, LOGSNR))
    a, b = to_kind(strong(Z, LOGSNR)), to_kind(weak(Z, LOGSNR))
    np.testing.assert_allclose(guided, b + 3.0 * (a - b), rtol=0, atol=1e-4)


@pytest.mark.parametrize("weight", [2.0, guidance.interval(2.0, -1.0, 1.0)])
def test_one_call_of_twice_the_batch_is_two_calls(weight):
    network = Network()
    one = guidance.classifier_free(network.bind, COND, NULL, weight)
    two = guidance.guide(network.bind(COND), network.bind(NULL), weight)
    np.testing.assert_allclose(one(Z, LOGSNR), two(Z, LOGSNR), rtol=0, atol=1e-6)


def test_classifier_free_guidance_calls_the_network_once():
    network = Network()
    guidance.classifier_free(network.bind, COND, NULL, 2.0)(Z, LOGSNR)
    assert network.batches == [6]


def test_guidance_moves_nothing_between_devices():
    mesh = jax.make_mesh((8,), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    z, logsnr, label = jax.device_put(
        (jnp.ones((16, 4, 4, 1)), jnp.zeros(16), jnp.arange(16)), spread
    )

    def run(z, logsnr, label):
        cond, null = (
            Conditioning(label=v, box=jnp.zeros((16, 4))) for v in (label, 0 * label)
        )
        return guidance.classifier_free(Network().bind, cond, null, 2.0)(z, logsnr)

    program = jax.jit(run, out_shardings=spread).lower(z, logsnr, label).compile()
    text = program.as_text()
    for collective in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert collective not in text


def test_classifier_free_weight_one_is_the_conditional_model_alone():
    network = Network()
    guided = guidance.classifier_free(network.bind, COND, NULL, 1.0)
    got = guided(Z, LOGSNR)
    assert network.batches == [3]
    np.testing.assert_array_equal(got, network.bind(COND)(Z, LOGSNR))


def test_classifier_free_weight_zero_is_the_unconditional_model():
    bind = Network().bind
    got = guidance.classifier_free(bind, COND, NULL, 0.0)(Z, LOGSNR)
    np.testing.assert_allclose(got, bind(NULL)(Z, LOGSNR), rtol=0, atol=1e-6)


@pytest.mark.parametrize("outside", [-1.01, 1.0, 7.0])
def test_outside_the_interval_the_weak_function_is_not_called(outside):
    guided = guidance.guide(strong, broken, guidance.interval(3.0, -1.0, 1.0))
    logsnr = jnp.full(3, outside)
    got = jax.jit(guided)(Z, logsnr)
    np.testing.assert_array_equal(got, jax.jit(strong)(Z, logsnr))


@pytest.mark.parametrize("inside", [-1.0, 0.0, 0.99])
def test_inside_the_interval_it_is_called(inside):
    guided = guidance.guide(strong, broken, guidance.interval(3.0, -1.0, 1.0))
    with pytest.raises(FloatingPointError):
        jax.block_until_ready(jax.jit(guided)(Z, jnp.full(3, inside)))


def test_outside_the_interval_the_null_class_is_not_evaluated():
    def bind(cond):
        poison = jnp.where(cond.label == 9, np.float32(np.nan), 1.0)
        return lambda z_t, logsnr: z_t * poison.reshape(-1, 1, 1, 1)

    weight = guidance.interval(3.0, -1.0, 1.0)
    guided = guidance.classifier_free(bind, COND, NULL, weight)
    np.testing.assert_array_equal(jax.jit(guided)(Z, jnp.full(3, 4.0)), Z)
    with pytest.raises(FloatingPointError):
        jax.block_until_ready(guided(Z, jnp.full(3, 0.0)))


def test_an_interval_decides_for_each_image():
    guided = guidance.guide(strong, weak, guidance.interval(3.0, -1.0, 1.0))
    got = guided(Z, LOGSNR)  # -2, 0.5, 1.5: only the middle one is inside
    a, b = np.asarray(strong(Z, LOGSNR)), np.asarray(weak(Z, LOGSNR))
    wanted = [a[0], b[1] + 3.0 * (a - b)[1], a[2]]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_in_an_interval_a_condition_of_weight_1_does_not_end_the_guidance():
    # Far from where the tanh of the network is flat.
    conds = [
        Conditioning(label=jnp.full(3, k), box=jnp.zeros((3, 4))) for k in (2, 1, 0)
    ]
    weights = [guidance.interval(w, 1.0, 2.0) for w in (2.0, 1.0)]
    found = guidance.compose(Network().bind, conds, weights)(Z, LOGSNR)
    wanted = guidance.compose(Network().bind, conds, (2.0, 1.0))(Z, LOGSNR)
    alone = Network().bind(conds[-1])(Z, LOGSNR)
    # Only the last image is inside.
    np.testing.assert_allclose(found[2], wanted[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:2], alone[:2], rtol=0, atol=1e-6)
    assert np.abs(found[2] - alone[2]).max() > 1e-3


def test_limits_of_an_interval_may_be_given_as_sigma():
    rows = {row["sigma"]: row["logsnr"] for row in vector("schedule.edm_sigma")}
    low, high = (grids.logsnr_from_sigma(s) for s in (2.9, 0.28))
    weight = guidance.interval(2.0, float(low), float(high))
    at = jnp.array([rows[2.9] - 0.01, rows[2.9] + 0.01, rows[0.28] - 0.01, rows[0.28]])
    np.testing.assert_array_equal(weight(at), [1.0, 2.0, 2.0, 1.0])


def test_clipping_leaves_what_is_in_range():
    def quiet(z_t, logsnr):
        return 0.9 * jnp.tanh(z_t)

    wanted = quiet(Z, LOGSNR)
    for clip in (guidance.clip_static, guidance.clip_dynamic):
        np.testing.assert_array_equal(clip(quiet)(Z, LOGSNR), wanted)


def test_static_clipping_is_a_clip():
    got = guidance.clip_static(strong)(Z, LOGSNR)
    np.testing.assert_array_equal(got, np.clip(strong(Z, LOGSNR), -1, 1))


def test_dynamic_clipping_scales_each_image_by_its_own_quantile():
    def loud(z_t, logsnr):
        return z_t * jnp.array([0.3, 3.0, 30.0]).reshape(3, 1, 1, 1)

    got = guidance.clip_dynamic(loud, 0.9)(Z, LOGSNR)
    for image, x in zip(got, np.asarray(loud(Z, LOGSNR)), strict=True):
        limit = max(np.quantile(np.abs(x), 0.9), 1.0)
        np.testing.assert_allclose(image, np.clip(x, -limit, limit) / limit, rtol=1e-5)
    assert np.max(np.abs(got)) <= 1.0


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=["vp", "flow"])
def test_noise_is_estimated_from_the_clipped_image(family):
    def wild(z_t, logsnr):
        return 5.0 * z_t

    logsnr_t, logsnr_s = jnp.float32(-0.5), jnp.float32(1.0)
    solver = solvers.ddim(family)
    keys = jax.random.split(jax.random.key(1), 3)
    z_s, _ = solver.step(
        guidance.clip_static(wild), Z, solver.init(Z), logsnr_t, logsnr_s, keys
    )
    alpha_t, sigma_t = family.alpha_sigma(logsnr_t)
    alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
    clipped = np.clip(5.0 * Z, -1, 1)
    eps_hat = (z_s - alpha_s * clipped) / sigma_s
    np.testing.assert_allclose(alpha_t * clipped + sigma_t * eps_hat, Z, atol=1e-6)


def test_clipping_comes_after_guidance():
    x = guidance.clip_static(guidance.guide(strong, weak, 4.0))(Z, LOGSNR)
    a, b = np.asarray(strong(Z, LOGSNR)), np.asarray(weak(Z, LOGSNR))
    np.testing.assert_allclose(x, np.clip(b + 4 * (a - b), -1, 1), rtol=0, atol=1e-5)


def test_everything_composes_inside_one_jitted_sample():
    denoise = guidance.clip_static(
        guidance.classifier_free(
            Network().bind, COND, NULL, guidance.interval(2.0, -2.0, 2.0)
        )
    )
    keys = jax.random.split(jax.random.key(2), 3)

    def draw(keys):
        grid = grids.karras(6)
        return loop.sample(denoise, solvers.dpmpp_2m(), grid, keys, (4, 4, 2))

    x = jax.jit(draw)(keys)
    assert x.shape == (3, 4, 4, 2) and np.max(np.abs(x)) <= 1.0


THIRD = Conditioning(label=jnp.array([5, 6, 7]), box=0.5 * jnp.ones((3, 4)))


@pytest.mark.parametrize("weights", [(2.0, 3.0), (1.0, 4.0), (0.5, 1.0)])
def test_conditions_are_added_one_after_the_other(weights):
    network = Network()
    conds = NULL, THIRD, COND
    got = guidance.compose(network.bind, conds, weights)(Z, LOGSNR)
    assert network.batches == [9]  # one call of three times the batch
    x = [np.asarray(Network().bind(cond)(Z, LOGSNR)) for cond in conds]
    first, second = weights
    expected = x[0] + first * (x[1] - x[0]) + second * (x[2] - x[1])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_equal_weights_are_one_weight_of_all_conditions():
    both = guidance.compose(Network().bind, (NULL, THIRD, COND), (3.0, 3.0))
    once = guidance.classifier_free(Network().bind, COND, NULL, 3.0)
    np.testing.assert_allclose(both(Z, LOGSNR), once(Z, LOGSNR), rtol=0, atol=1e-5)


def test_weights_of_1_call_the_full_conditioning_alone():
    network = Network()
    got = guidance.compose(network.bind, (NULL, THIRD, COND), (1.0, 1.0))(Z, LOGSNR)
    np.testing.assert_array_equal(got, Network().bind(COND)(Z, LOGSNR))
    assert network.batches == [3]


def test_weights_of_an_interval_decide_for_each_image():
    weights = [guidance.interval(w, -1.0, 1.0) for w in (2.0, 3.0)]
    got = guidance.compose(Network().bind, (NULL, THIRD, COND), weights)(Z, LOGSNR)
    inside = guidance.compose(Network().bind, (NULL, THIRD, COND), (2.0, 3.0))
    plain = Network().bind(COND)(Z, LOGSNR)
    # Of the three levels -2, 0 and 1.5, the second is inside.
    np.testing.assert_allclose(got[1], inside(Z, LOGSNR)[1], rtol=0, atol=1e-5)
    for k in (0, 2):
        np.testing.assert_allclose(got[k], plain[k], rtol=0, atol=1e-6)


def test_each_step_needs_a_weight():
    with pytest.raises(ValueError, match="3 conditionings need 2 weights"):
        guidance.compose(Network().bind, (NULL, THIRD, COND), (1.0,))
