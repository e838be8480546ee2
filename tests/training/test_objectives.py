import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import images, rng
from simple_diffusion.core.types import Codec, Condition
from simple_diffusion.diffusion import (
    loss,
    parameterization,
    process,
    schedules,
    time_distributions,
    weighting,
)
from simple_diffusion.training import objectives
from tests.training import toy

KEY = rng.derive_key(0, 0, "test")
FAMILIES = [process.VP, process.FLOW]


BOX = Condition("box", lambda batch: jnp.asarray(batch.box))


def class_label(drop=0.1):
    return Condition(
        "label",
        of_batch=lambda batch: jnp.asarray(batch.label),
        null=lambda label: jnp.full_like(label, toy.CLASSES),
        drop=drop,
    )


def objective(apply=toy.apply, **changes):
    settings = dict(
        schedule=schedules.cosine(),
        time_distribution=time_distributions.stratified(),
        weight=lambda _: weighting.mse("v", schedules.cosine()),
        loss=loss.mse,
        conditions=(class_label(), BOX),
    )
    return objectives.DiffusionObjective(apply, **(settings | changes))


def blind(params, z_t, logsnr, cond, dropout_key=None):
    """A network that always predicts zero."""
    return jnp.zeros_like(z_t)


def evaluate(named, params, batch, **how):
    """Returns the losses of several objectives from one compilation."""

    def all_losses(params, batch):
        return {
            name: o(params, batch, o.draw(KEY, batch), **how)[0]
            for name, o in named.items()
        }

    return jax.device_get(jax.jit(all_losses)(params, batch))


@pytest.fixture(scope="module")
def params():
    return toy.init(KEY)


def test_an_example_s_loss_does_not_depend_on_its_batch(params):
    def losses(o, batch, draw, keep=slice(None)):
        return o(params, batch, jax.tree.map(lambda v: v[keep], draw))[0]

    @jax.jit
    def whole_and_part(batch, part):
        o = objective()
        draw = o.draw(KEY, batch)
        return losses(o, batch, draw), losses(o, part, draw, jnp.array([6, 2]))

    batch = toy.batch()
    part = jax.tree.map(lambda v: v[np.array([6, 2])], batch)
    whole, some = whole_and_part(batch, part)
    np.testing.assert_allclose(some, np.asarray(whole)[[6, 2]], rtol=1e-5)


def test_draws_differ_between_examples_and_between_keys():
    draw = jax.jit(objective().draw)
    one, other = draw(KEY, toy.batch()), draw(rng.derive_key(0, 1, "test"), toy.batch())
    assert len(np.unique(one.t)) == len(one.t)
    keys = np.concatenate([jax.random.key_data(d.keys) for d in (one, other)])
    assert len(np.unique(keys, axis=0)) == len(keys)
    assert not np.array_equal(one.t, other.t)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_expected_loss_depends_neither_on_schedule_nor_on_the_time_distribution(
    params, family
):
    # A weight inside the range of every schedule; outside nobody can sample it.
    weight = lambda logsnr: -0.5 * jnp.square(logsnr / 2)  # noqa: E731
    cosine, flow = schedules.cosine(-10.0, 10.0), schedules.flow(-10.0, 10.0)
    settings = {
        "cosine": (cosine, time_distributions.uniform()),
        "shifted": (
            schedules.shift_schedule(cosine, 32, 64),
            time_distributions.uniform(),
        ),
        "flow": (flow, time_distributions.uniform()),
        "stratified": (cosine, time_distributions.stratified()),
        "logit-normal": (flow, time_distributions.logit_normal(0.3, 1.2)),
    }
    losses = evaluate(
        {
            name: objective(
                schedule=s,
                time_distribution=distribution,
                weight=lambda _: weight,
                family=family,
            )
            for name, (s, distribution) in settings.items()
        },
        params,
        jax.tree.map(lambda v: np.repeat(v, 256, axis=0), toy.batch()),
    )
    mean = {name: v.mean() for name, v in losses.items()}
    error = {name: v.std() / np.sqrt(len(v)) for name, v in losses.items()}
    for name in settings:
        allowed = 4 * np.hypot(error[name], error["cosine"])
        # The bound is small enough to see a density that is wrong by a third.
        assert allowed < 0.33 * mean["cosine"]
        assert abs(mean[name] - mean["cosine"]) < allowed


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_denoiser_has_the_same_loss_whatever_its_network_predicts(params, family):
    def network(kind):
        def apply(params, z_t, logsnr, cond, dropout_key=None):
            x_hat = toy.apply(params, z_t, logsnr, cond)
            return parameterization.from_x(kind, x_hat, z_t, logsnr, family)

        return apply

    losses = evaluate(
        {
            kind: objective(
                network(kind),
                kind=kind,
                family=family,
                schedule=schedules.cosine(-6.0, 6.0),
            )
            for kind in parameterization.KINDS
        },
        params,
        toy.batch(),
    )
    for kind in parameterization.KINDS:
        # from_x divides by sigma >= 0.05, which leaves three sure digits of float32.
        np.testing.assert_allclose(losses[kind], losses["x"], rtol=1e-3)


def test_the_published_v_loss_has_no_factor_left():
    """Uniform t and the v weight of the same schedule: the plain mean square of v."""
    o, batch = (
        objective(blind, time_distribution=time_distributions.uniform()),
        toy.batch(),
    )

    @jax.jit
    def both(batch):
        draw = o.draw(KEY, batch)
        losses, aux = o({}, batch, draw)
        alpha, sigma = process.VP.alpha_sigma(aux["logsnr"])
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(draw.keys)
        eps = rng.normal_per_example(keys[:, 0], (toy.SIZE, toy.SIZE, 3))
        x = batch.image.astype(jnp.float32) / 127.5 - 1
        v = alpha[:, None, None, None] * eps - sigma[:, None, None, None] * x
        return losses, jnp.mean(v**2, axis=(1, 2, 3)), aux["logsnr"], draw.t

    losses, expected, logsnr, t = both(batch)
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    np.testing.assert_allclose(logsnr, schedules.cosine()(t), rtol=1e-4)


def seen_by_the_network(repeats=1, train=True, **settings):
    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen["label"] = cond.label
        seen["dropout"] = dropout_key is not None
        seen["shape"] = z_t.shape
        return z_t

    seen = {}
    o = objective(apply, **settings)
    batch = jax.tree.map(lambda v: np.repeat(v, repeats, axis=0), toy.batch())

    def labels(batch):
        o({}, batch, o.draw(KEY, batch), train=train)
        return seen["label"]

    seen["label"] = jax.jit(labels)(batch)
    return batch.label, seen


def test_labels_are_dropped_to_the_null_class_at_the_rate_asked_for():
    given, seen = seen_by_the_network(512, conditions=(class_label(0.1),))
    label = np.asarray(seen["label"])
    dropped = label == toy.CLASSES
    # 4096 draws: standard error 0.005.
    assert abs(dropped.mean() - 0.1) < 0.02
    np.testing.assert_array_equal(label[~dropped], given[~dropped])
    assert seen["dropout"]


def test_evaluation_drops_neither_labels_nor_units():
    given, seen = seen_by_the_network(train=False, conditions=(class_label(0.9),))
    np.testing.assert_array_equal(seen["label"], given)
    assert not seen["dropout"]


def test_a_network_without_classes_sees_no_label():
    assert seen_by_the_network(conditions=(BOX,))[1]["label"] is None


def test_the_loss_is_measured_in_the_space_of_the_codec():
    half = Codec(encode=lambda params, x: params * x[:, ::2, ::2], decode=None)
    assert seen_by_the_network(codec=half, codec_params=0.5)[1]["shape"] == (8, 4, 4, 3)


def test_the_loss_is_finite_to_the_ends_of_the_schedule(params):
    wide = schedules.cosine(-20.0, 20.0)
    weights = {"sigmoid": weighting.sigmoid(-3.0), "eps": weighting.mse("eps", wide)}
    named = {
        k: objective(schedule=wide, weight=lambda _, w=w: w) for k, w in weights.items()
    }

    @jax.jit
    def losses(batch):
        t = jnp.array([0.0, 1e-7, 1e-3, 0.5, 0.999, 1 - 1e-7, 1.0, 1.0])
        draws = {k: o.draw(KEY, batch).replace(t=t) for k, o in named.items()}
        return [o(params, batch, draws[k])[0] for k, o in named.items()]

    for got in losses(toy.batch()):
        assert np.isfinite(got).all() and (np.asarray(got) < 1e4).all()


def test_a_multiscale_loss_weighs_what_the_plain_one_weighs(params):
    """Both take the same factor: a form that is twice the mean square is twice it."""
    twice = lambda error: 2 * loss.mse(error)  # noqa: E731
    forms = {"one": loss.mse, "two": twice, "multi": loss.multiscale_mse(smallest=4)}
    losses = evaluate(
        {name: objective(loss=form) for name, form in forms.items()},
        params,
        toy.batch(),
    )
    np.testing.assert_allclose(losses["two"], 2 * losses["one"], rtol=1e-5)
    assert (losses["multi"] > losses["one"]).all()


def patches(side=8):
    """Patches of the toy's size from full images of 1, 2 and 1.25 times its side."""
    box = np.tile(
        [[0, 0, 1, 1], [0.5, 0, 1, 0.5], [0, 0.2, 0.8, 1], [0.5, 0, 1, 1]], (2, 1)
    )
    return toy.batch().replace(box=box.astype(np.float32))


def test_the_logsnr_of_a_patch_is_lowered_by_the_size_of_its_full_image(params):
    batch = patches()
    side = batch.image.shape[1]
    o = objective(reference=side)
    draw = o.draw(KEY, batch)
    _, aux = o(params, batch, draw)
    # 2 log(reference / R), R the root of the area of the whole.
    wholes = side * np.array([1, 2, 1.25, 2**0.5] * 2)
    want = schedules.cosine()(draw.t) + 2 * np.log(side / wholes)
    np.testing.assert_allclose(aux["logsnr"], want, atol=1e-4)
    unshifted = objective()(params, batch, draw)[1]["logsnr"]
    np.testing.assert_allclose(unshifted, schedules.cosine()(draw.t), atol=1e-5)


def test_a_weighting_that_belongs_to_the_schedule_moves_with_it():
    """v-MSE at uniform t stays v-MSE at uniform t for every size of full image."""
    batch = patches()
    o = objective(
        blind,
        weight=lambda schedule: weighting.mse("v", schedule),
        kind="v",
        time_distribution=time_distributions.uniform(),
        reference=batch.image.shape[1],
    )
    draw = o.draw(KEY, batch)
    losses, aux = o({}, batch, draw)
    x = images.to_unit_range(jnp.asarray(batch.image))
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(draw.keys)
    eps = rng.normal_per_example(keys[:, 0], x.shape[1:])
    v = parameterization.target("v", x, eps, aux["logsnr"], process.VP)
    np.testing.assert_allclose(losses, loss.mse(v), rtol=1e-4)


def test_the_network_receives_the_box():
    batch = patches()
    seen = {}

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen["box"] = cond.box
        return jnp.zeros_like(z_t)

    o = objective(apply)
    o({}, batch, o.draw(KEY, batch))
    np.testing.assert_array_equal(seen["box"], batch.box)


def test_noise_drops_and_dropout_have_keys_of_their_own(monkeypatch):
    keys = {}
    normal = rng.normal_per_example
    condition = objectives.DiffusionObjective.condition

    def spy_on_noise(drawn, shape):
        keys["noise"] = drawn
        return normal(drawn, shape)

    def spy_on_drops(self, batch, drawn=None):
        keys["drops"] = drawn
        return condition(self, batch, drawn)

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        keys["dropout"] = dropout_key[None]
        return z_t

    monkeypatch.setattr(rng, "normal_per_example", spy_on_noise)
    monkeypatch.setattr(objectives.DiffusionObjective, "condition", spy_on_drops)

    @jax.jit  # only the keys are computed
    def used_keys(batch):
        o = objective(apply)
        o({}, batch, o.draw(KEY, batch))
        return [keys[name] for name in ("noise", "drops", "dropout")]

    used = [jax.random.key_data(drawn) for drawn in used_keys(toy.batch())]
    assert [len(k) for k in used] == [8, 8, 1]
    assert len(np.unique(np.concatenate(used), axis=0)) == 17
