import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simple_diffusion.core import arrays, rng
from simple_diffusion.training import ema, loop, optimizer, sharding, state, step
from tests.training import toy


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.fixture(scope="module")
def initial():
    return toy.blueprint().create()


@pytest.fixture(scope="module")
def jitted():
    return jax.jit(toy.train_step())


def test_training_lowers_the_loss(jitted, initial):
    state, losses = initial, []
    for k in range(60):
        state, metrics = jitted(state, toy.batch(k % 4, 8))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


@pytest.fixture(scope="module")
def in_four_parts():
    return jax.jit(toy.train_step(accumulate=4))


def test_microbatches_add_up_to_the_whole_batch(jitted, in_four_parts, initial):
    whole, whole_metrics = jitted(initial, toy.batch())
    cut, cut_metrics = in_four_parts(initial, toy.batch())
    # The same float32 terms in another order; Adam's first update divides by the root
    # of the square of the gradient and so keeps its relative error.
    assert_trees_close(cut.params, whole.params, rtol=1e-4, atol=1e-6)
    assert_trees_close(cut_metrics, whole_metrics, rtol=1e-4, atol=1e-6)


def test_a_batch_that_cannot_be_cut_says_so(initial):
    with pytest.raises(ValueError, match="batch of 8 cannot be cut into 3 micro"):
        jax.eval_shape(toy.train_step(accumulate=3), initial, toy.batch())


def test_padding_changes_neither_loss_nor_gradient(jitted, in_four_parts, initial):
    batch = toy.batch().replace(mask=np.arange(8) < 5)
    image, label = batch.image.copy(), batch.label.copy()
    image[5:], label[5:] = 0, 0
    junk = batch.replace(image=image, label=label)
    # In four parts of two the padding falls unevenly on the microbatches.
    want, metrics = jitted(initial, batch)
    for train_step in (jitted, in_four_parts):
        got, _ = train_step(initial, junk)
        assert_trees_close(got.params, want.params, rtol=1e-4, atol=1e-6)
    assert metrics["loss_bin_count"].sum() == 5


def train_on(mesh, parts=1, steps=3):
    rules = ((r"outer/kernel$", sharding.tensor(-2, min_size=0)), *toy.RULES)
    plan = toy.blueprint(mesh, rules)
    train_step = loop.jit_step(toy.train_step(accumulate=parts), plan.shardings, mesh)
    state, placed = plan.create(), sharding.batch_sharding(mesh)
    for k in range(steps):
        state, metrics = train_step(state, jax.device_put(toy.batch(k, 16), placed))
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def on_one_device():
    return train_on(sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("axes", "parts"), [((8, 1, 1), 1), ((2, 4, 1), 2), ((2, 2, 2), 1)]
)
def test_every_mesh_trains_to_the_same_state(axes, parts, on_one_device):
    state, metrics = train_on(sharding.make_mesh(*axes), parts)
    expected, expected_metrics = on_one_device
    # Sums over devices in another order: 1e-7 relative in the gradient, which Adam's
    # division by its own size may carry into any parameter.
    assert_trees_close(state.params, expected.params, atol=2e-5)
    assert_trees_close(state.ema, expected.ema, atol=2e-5)
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-5)


def test_randomness_is_a_function_of_the_step(jitted, initial):
    first = jitted(initial, toy.batch())
    assert_trees_equal(first, jitted(initial, toy.batch()))
    _, later = jitted(initial.replace(step=initial.step + 1), toy.batch())
    assert first[1]["loss"] != later["loss"]


def test_the_bins_of_the_loss_sum_to_the_loss(jitted, initial):
    _, metrics = jitted(initial, toy.batch())
    total, count = metrics["loss_bin_sum"].sum(), metrics["loss_bin_count"].sum()
    assert count == 8
    np.testing.assert_allclose(total / count, metrics["loss"], rtol=1e-5)


def test_each_loss_is_counted_in_the_bin_of_its_logsnr():
    logsnr = jnp.array([-100.0, -12.0, -0.01, 0.0, 2.9, 11.9, 12.0, 100.0])
    losses = jnp.arange(1.0, 9.0)
    total, count = step.loss_per_bin(losses, logsnr, jnp.ones(8))
    got = {
        name: (float(s), int(n))
        for name, s, n in zip(step.bin_names(), total, count, strict=True)
        if n
    }
    assert got == {
        "..-12": (1.0, 1),
        "-12..-9": (2.0, 1),
        "-3..0": (3.0, 1),
        "0..3": (9.0, 2),
        "9..12": (6.0, 1),
        "12..": (15.0, 2),
    }


def test_the_reported_norms_are_those_of_the_arrays(jitted, initial):
    after, metrics = jitted(initial, toy.batch())
    change = jax.tree.map(jnp.subtract, after.params, initial.params)
    for name, tree in {"update_norm": change, "param_norm": after.params}.items():
        np.testing.assert_allclose(metrics[name], arrays.tree_norm(tree), rtol=1e-4)
    np.testing.assert_allclose(metrics["learning_rate"], 1e-2 / 3, rtol=1e-6)


def test_the_gradient_norm_is_reported_as_it_was_before_clipping(jitted):
    tight = toy.blueprint(clip=1e-3).create()
    _, clipped = jax.jit(toy.train_step(clip=1e-3))(tight, toy.batch())
    _, metrics = jitted(toy.blueprint().create(), toy.batch())
    assert metrics["grad_norm"] > 1e-2
    np.testing.assert_allclose(clipped["grad_norm"], metrics["grad_norm"], rtol=1e-6)


def poisoned(where):
    """Returns an objective whose loss, or only its gradient, is NaN at label 99."""
    objective = toy.Regression()

    class Poisoned:
        draw = objective.draw

        def __call__(self, params, batch, draw, train=True):
            losses, aux = objective(params, batch, draw, train)
            bad = jnp.any(batch.label == 99)
            if where == "loss":
                return jnp.where(bad, jnp.nan, losses), aux
            # sqrt at 0 times 0: the value is zero, its gradient 0 * inf.
            zero = 0.0 * jnp.sum(params["inner"]["bias"])
            root = jnp.sqrt(jnp.where(bad, zero, 1.0)) * 0.0
            return losses + root, aux

    return Poisoned()


@pytest.mark.parametrize(
    ("where", "metric", "parts"), [("loss", "loss", 1), ("grad", "grad_norm", 2)]
)
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(where, metric, parts):
    with jax.debug_nans(False):
        train_step = jax.jit(toy.train_step(poisoned(where), accumulate=parts))
        before, metrics = train_step(toy.blueprint().create(), toy.batch(0))
        assert metrics["finite"]
        bad_batch = toy.batch(1).replace(label=np.full(8, 99, np.int32))
        after, metrics = train_step(before, bad_batch)
        metrics = jax.device_get(metrics)
        again, recovered = train_step(after, toy.batch(2))
    assert not metrics["finite"]
    assert step.first_bad_metric(metrics) == metric
    for field in ("params", "ema", "opt_state"):
        assert_trees_equal(getattr(after, field), getattr(before, field))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_row)) == (2, 1, 1)
    # The learning rate goes by updates, not by steps.
    assert metrics["learning_rate"] == recovered["learning_rate"]
    assert (
        recovered["finite"] and step.first_bad_metric(jax.device_get(recovered)) is None
    )
    assert (int(again.updates), int(again.skipped_in_row)) == (2, 0)


class Line:
    """One parameter w and the loss w * label: each step can be computed by hand.

    The logsnr is 2 * label, and the gradient is NaN in a batch with the label 99.
    """

    def __init__(self):
        self.keys = []

    def draw(self, key, batch):
        self.keys.append(key)
        return jnp.zeros(batch.label.shape[0])

    def __call__(self, params, batch, draw, train=True):
        label = jnp.asarray(batch.label, jnp.float32)
        slope = jnp.where(jnp.any(batch.label == 99), jnp.nan, label)
        return params["w"] * slope, {"logsnr": 2 * label}


# Plain gradient descent with a learning rate of 1/2.
DESCENT = optimizer.Optimizer(optax.sgd(0.5), lambda update: jnp.float32(0.5))
DECAYS = {
    "main": ema.Exponential(0.75),
    "warm": ema.Exponential(0.75, warm_up=True),
}


def line_step(accumulate=1):
    return jax.jit(step.make_train_step(Line(), DESCENT, DECAYS, accumulate=accumulate))


def line_state():
    """Returns a state with w = 8 and averages of 4."""
    plan = state.blueprint(
        lambda key: {"w": jnp.float32(8)}, DESCENT, DECAYS, mesh=toy.ONE_DEVICE
    )
    averages = {name: {"w": jnp.float32(4)} for name in DECAYS}
    return plan.create().replace(ema=averages)


def line_batch(labels, mask=None):
    batch = toy.batch(size=len(labels)).replace(label=np.array(labels, np.int32))
    return batch if mask is None else batch.replace(mask=np.array(mask, bool))


def test_an_average_moves_to_the_new_parameters_and_counts_updates_alone():
    take = line_step()

    def averages(current):
        return [float(current.ema[name]["w"]) for name in DECAYS]

    current, _ = take(line_state(), line_batch([4, 4]))
    assert float(current.params["w"]) == 6  # 8 - 4 / 2
    warm = 4 * 2 / 11 + 6 * 9 / 11  # the decay of update 1 is 2 / 11
    np.testing.assert_allclose(averages(current), [0.75 * 4 + 0.25 * 6, warm], 1e-6)
    with jax.debug_nans(False):
        skipped, metrics = take(current, line_batch([99, 4]))
    assert not metrics["finite"]
    assert averages(skipped) == averages(current)
    # The next update is the second one, although the step is the third.
    current, _ = take(skipped, line_batch([2, 2]))
    assert float(current.params["w"]) == 5
    warm = warm * 3 / 12 + 5 * 9 / 12
    np.testing.assert_allclose(averages(current), [0.75 * 4.5 + 0.25 * 5, warm], 1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_padding_counts_neither_in_the_loss_nor_in_the_gradient(accumulate):
    labels = np.array([1, -2, 3, 5, -4, 6, 2, -1])
    # One, no, two and one real examples in the four microbatches.
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
    after, metrics = line_step(accumulate)(line_state(), line_batch(labels, mask))
    alone, expected = line_step()(line_state(), line_batch(labels[mask]))
    mean = labels[mask].mean()
    for found in (metrics, expected):
        np.testing.assert_allclose(found["loss"], 8 * mean, rtol=1e-6)
        np.testing.assert_allclose(found["grad_norm"], abs(mean), rtol=1e-6)
    assert_trees_close((after, metrics), (alone, expected), rtol=1e-6)
    # Labels 1, 3, 5, 2 have the logsnr 2, 6, 10, 4 and the losses 8, 24, 40, 16.
    filled = {
        name: (float(total), int(count))
        for name, total, count in zip(
            step.bin_names(),
            metrics["loss_bin_sum"],
            metrics["loss_bin_count"],
            strict=True,
        )
        if count
    }
    assert filled == {
        "0..3": (8, 1),
        "3..6": (16, 1),
        "6..9": (24, 1),
        "9..12": (40, 1),
    }


def test_a_batch_of_padding_alone_changes_no_parameter():
    after, metrics = line_step()(line_state(), line_batch([3, 4], [False, False]))
    assert float(after.params["w"]) == 8
    assert float(metrics["loss"]) == 0 and metrics["finite"]


def test_the_random_numbers_of_a_step_follow_from_seed_and_step():
    def key_data(key):
        return tuple(np.asarray(jax.random.key_data(key)).tolist())

    def drawn(seed):
        objective = Line()
        take = step.make_train_step(objective, DESCENT, DECAYS, seed=seed)

        @jax.jit  # of the step, only the key is computed
        def key_of(number):
            take(line_state().replace(step=number), line_batch([1, 2]))
            return objective.keys[-1]

        return [key_data(key_of(jnp.int32(number))) for number in (0, 3)]

    found = [*drawn(0), *drawn(7)]
    numbers = [(0, 0), (0, 3), (7, 0), (7, 3)]
    assert found == [key_data(rng.derive_key(*at, "objective")) for at in numbers]
    assert len(set(found)) == 4
