"""The step of two players, with toys whose gradients are known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simple_diffusion.core import arrays, images
from simple_diffusion.training import ema, optimizer, state
from simple_diffusion.training.adversarial import objective as objectives
from simple_diffusion.training.adversarial import step as adversarial
from tests.training import toy

FROM = 3  # the first step of the game
OBJECTIVE = objectives.AdversarialObjective(
    reconstruct=lambda params, image, keys: objectives.Encoded(
        jnp.tanh(jnp.einsum("bhwc,cd->bhwd", image, params["encoder"])),
        0.01 * jnp.square(params["encoder"]).sum() * jnp.ones(len(image)),
        jnp.array([3.0, 1.0, 0.0, 0.0]),
    ),
    last=lambda kernel, others, features: (
        jnp.einsum("bhwd,dc->bhwc", features, kernel) + others["bias"][None, None, None]
    ),
    split=lambda params: (params["kernel"], params),
    discriminate=lambda params, image: jnp.tanh(
        jnp.einsum("bhwc,cd->bhwd", jnp.square(image - 0.2), params["w"])
    ),
    perceptual=lambda x, y: jnp.square(x - y).mean((1, 2, 3)),
    perceptual_weight=2.0,
    adversarial_weight=0.5,
    adversarial_from=FROM,
)
AVERAGES = {"main": ema.Exponential(0.5)}


def init(key):
    a, b, c = jax.random.split(key, 3)
    player = {
        "encoder": jax.random.normal(a, (3, 5)),
        "kernel": 0.3 * jax.random.normal(b, (5, 3)),
        "bias": jnp.zeros(3),
    }
    rival = {"w": jax.random.normal(c, (3, 1))}
    return {"autoencoder": player, "discriminator": rival}


def sgd(rate=0.01):
    return optimizer.Optimizer(optax.sgd(rate), lambda count: rate)


def create():
    """Returns the initial state."""
    plan = state.blueprint(
        init,
        sgd(),
        AVERAGES,
        mesh=toy.ONE_DEVICE,
        averaged=lambda params: params["autoencoder"],
    )
    return plan.create()


@functools.cache
def after(steps, **changes):
    """The states and metrics of the first steps, by gradient descent of rate 0.01."""
    objective = dataclasses.replace(OBJECTIVE, **changes)
    step = jax.jit(adversarial.make_adversarial_step(objective, sgd(), AVERAGES))
    states, found = [create()], []
    for number in range(steps):
        new, metrics = step(states[-1], toy.batch(number))
        states.append(new)
        found.append(jax.device_get(metrics))
    return states, found


def gradient_of(before, new):
    return jax.tree.map(lambda a, b: (a - b) / 0.01, before.params, new.params)


def pieces(params, number, reduction="sum"):
    """First term, regularizer and mean(-D(y)), written out."""
    x = images.to_unit_range(jnp.asarray(toy.batch(number).image))
    player, rival = params["autoencoder"], params["discriminator"]
    encoded = OBJECTIVE.reconstruct(player, x, None)
    y = jnp.einsum("bhwd,dc->bhwc", encoded.features, player["kernel"])
    y = y + player["bias"][None, None, None]
    entries = x[0].size if reduction == "sum" else 1
    first = jnp.abs(x - y).mean() + 2.0 * jnp.square(x - y).mean()
    fooled = -OBJECTIVE.discriminate(rival, y).mean()
    real = jax.nn.relu(1 - OBJECTIVE.discriminate(rival, x)).mean()
    fake = jax.nn.relu(1 + OBJECTIVE.discriminate(rival, y)).mean()
    return entries * first, encoded.regularizer[0], fooled, 0.5 * (real + fake)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_weight_is_the_ratio_of_the_gradients_of_the_last_kernel(reduction):
    states, metrics = after(FROM + 1, reduction=reduction)
    params = states[FROM].params
    norms = [
        arrays.tree_norm(
            jax.grad(lambda p, k=k: pieces(p, FROM, reduction)[k])(params)[
                "autoencoder"
            ]["kernel"]
        )
        for k in (0, 2)
    ]
    expected = 0.5 * norms[0] / (norms[1] + 1e-4)
    found = metrics[FROM]["means"]["adversarial_weight"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected > 0.01


def test_each_player_descends_its_own_loss_with_the_weight_as_a_constant():
    states, metrics = after(FROM + 1)
    params = states[FROM].params
    weight = metrics[FROM]["means"]["adversarial_weight"]

    def player(params):
        first, regularizer, fooled, _ = pieces(params, FROM)
        return first + regularizer + weight * fooled

    value, expected = jax.value_and_grad(player)(params)
    rival = jax.grad(lambda p: pieces(p, FROM)[3])(params)
    expected["discriminator"] = rival["discriminator"]
    found = gradient_of(states[FROM], states[FROM + 1])
    # The gradients are differences of parameters in float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3),
        found,
        expected,
    )
    np.testing.assert_allclose(metrics[FROM]["loss"], value, rtol=1e-5)


def test_before_its_first_step_the_game_moves_neither_player():
    states, metrics = after(FROM + 1)
    for number in range(FROM):
        before, new = states[number].params, states[number + 1].params
        assert (before["discriminator"]["w"] == new["discriminator"]["w"]).all()
        assert metrics[number]["means"]["adversarial_weight"] == 0

        def player(params, number=number):
            return sum(pieces(params, number)[:2])

        expected = jax.grad(player)(states[number].params)["autoencoder"]
        found = gradient_of(states[number], states[number + 1])["autoencoder"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3),
            found,
            expected,
        )
    first, second = states[FROM].params, states[FROM + 1].params
    assert (first["discriminator"]["w"] != second["discriminator"]["w"]).any()
    assert metrics[FROM]["means"]["discriminator_loss"] > 0


def test_only_the_autoencoder_is_averaged():
    states, _ = after(2)
    params = [one.params["autoencoder"] for one in states]
    mean = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, params[0], params[1])
    mean = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, mean, params[2])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        states[2].ema["main"],
        mean,
    )


def test_usage_and_perplexity_of_a_codebook_are_those_of_its_counts():
    _, metrics = after(1)
    p = np.array([0.75, 0.25])
    np.testing.assert_allclose(metrics[0]["means"]["codebook_usage"], 0.5)
    perplexity = np.exp(-(p * np.log(p)).sum())
    found = metrics[0]["means"]["codebook_perplexity"]
    np.testing.assert_allclose(found, perplexity, rtol=1e-6)
    even = objectives.codebook_health(jnp.full(7, 2.0))
    np.testing.assert_allclose(even["codebook_perplexity"], 7, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing():
    objective = dataclasses.replace(
        OBJECTIVE, perceptual=lambda x, y: jnp.nan * (x - y).mean((1, 2, 3))
    )
    start = create()
    step = adversarial.make_adversarial_step(objective, sgd(), AVERAGES)
    with jax.debug_nans(False):
        end, metrics = jax.jit(step)(start, toy.batch())
    assert not metrics["finite"] and end.skipped == 1 and end.step == 1
    jax.tree.map(np.testing.assert_array_equal, start.params, end.params)


def test_examples_that_only_pad_a_batch_count_for_nothing():
    start = dataclasses.replace(create(), step=jnp.int32(FROM))
    step = jax.jit(adversarial.make_adversarial_step(OBJECTIVE, sgd(), AVERAGES))
    full = toy.batch(size=8)
    mask = np.arange(8) < 5
    black = full.image * mask[:, None, None, None].astype(np.uint8)
    other = dataclasses.replace(full, image=black)
    (a, metrics), (b, _) = (
        step(start, dataclasses.replace(one, mask=mask)) for one in (full, other)
    )
    assert metrics["examples"] == 5
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-6), a.params, b.params
    )
