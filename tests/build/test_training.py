import jax
import jax.numpy as jnp
import pytest

from simple_diffusion.build import recipes, training
from simple_diffusion.configs import base


def config(**train):
    made = base.default()
    made.train.update(train)
    return made


@pytest.mark.parametrize(
    "keys", [{"total_steps": 30}, {"total_epochs": 1.5}, {"total_examples": 300}]
)
def test_a_duration_may_be_given_in_steps_epochs_or_examples(keys):
    # 200 examples in an epoch, 10 in a batch.
    made = config(**({"total_steps": 0, "batch_size": 10} | keys))
    assert training.read_plan(made, epoch=200).total == 30


def test_a_part_of_a_batch_counts_as_a_step():
    made = config(total_steps=0, total_examples=301, batch_size=10)
    assert training.read_plan(made, epoch=200).total == 31


def test_a_duration_given_twice_names_both_keys():
    with pytest.raises(ValueError, match=r"total_steps=500000 and train.total_epochs"):
        training.read_plan(config(total_epochs=2.0), epoch=100)


def test_a_missing_duration_is_an_error():
    with pytest.raises(ValueError, match="train.total_steps, _epochs or _examples"):
        training.read_plan(config(total_steps=0), epoch=100)


def test_an_endless_source_has_no_epochs():
    with pytest.raises(ValueError, match="train.total_epochs=2.0.*endless"):
        training.read_plan(config(total_steps=0, total_epochs=2.0), epoch=2**40)


def test_a_batch_that_cannot_be_cut_names_both_keys():
    with pytest.raises(ValueError, match="batch_size=10 .* train.accumulate=4"):
        training.read_plan(config(batch_size=10, accumulate=4), epoch=100)


def test_a_batch_that_the_devices_cannot_share_names_the_axes():
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match="train.batch_size=12 .* 8 devices"):
        training.check_batch(12, training.build_mesh(config()))


def test_parts_of_a_batch_that_the_devices_cannot_share_name_the_keys():
    devices = training.build_mesh(config())
    training.check_batch(32, devices, accumulate=4)
    with pytest.raises(ValueError, match="train.accumulate=4 parts gives 6 images"):
        training.check_batch(24, devices, accumulate=4)


def test_rows_that_the_devices_cannot_share_name_the_keys():
    made = config()
    made.mesh.update(data=1, tensor=-1, split_rows=True)
    made.data.resolution = 60
    with pytest.raises(ValueError, match="data.resolution=60 .* mesh.tensor=8"):
        training.build_mesh(made)
    made.data.resolution = 64
    place = training.batch_shardings(made, training.build_mesh(made))
    assert place(4).shard_shape((1, 64, 64, 3)) == (1, 8, 64, 3)
    made.mesh.split_rows = False
    assert training.batch_shardings(made, training.build_mesh(made))(
        4
    ).is_fully_replicated


def test_slices_come_from_the_config():
    made = config()
    made.mesh.slices = 2
    with pytest.raises(ValueError, match="mesh.slices=2 does not divide"):
        training.build_mesh(made)


def test_a_weight_decay_that_nothing_uses_is_an_error():
    made = config()
    made.optimizer.weight_decay = 0.1
    with pytest.raises(ValueError, match="optimizer.weight_decay=0.1 .*adamw"):
        training.build_optimizer(made, 100)


@pytest.mark.parametrize("decay", ["constant", "cosine", "rsqrt"])
@pytest.mark.parametrize("total", [1, 2, 9, 40])
def test_a_warm_up_that_does_not_fit_is_a_tenth_of_the_run(decay, total):
    made = config()
    made.optimizer.decay = decay
    rate = training.build_optimizer(made, total).learning_rate
    rates = [float(rate(k)) for k in range(total)]
    # The peak is reached by the update that ends the warm-up, or the one after it.
    peak = made.optimizer.learning_rate
    assert max(rates) == pytest.approx(peak)
    assert rates.index(max(rates)) <= total // 10
    assert min(rates) > 0


def test_a_warm_up_that_fits_is_not_changed():
    made = config()
    made.optimizer.warmup_steps = 39
    assert training.fit_warmup(made, 40) == 39
    assert training.fit_warmup(made, 39) == 3


def describe(made, epoch=100):
    return training.describe_fit(made, training.read_plan(made, epoch), epoch)


def test_a_run_is_shortened_by_its_total_alone_and_the_log_says_what_was_cut():
    made = recipes.load("quickstart")
    assert describe(made) == []
    made.train.total_steps = 40
    plan = training.read_plan(made, epoch=100)
    assert (plan.log_every, plan.checkpoint_every, plan.sample_every) == (40, 40, 40)
    assert plan.evaluate_every is None and plan.snapshot_every == 0
    assert describe(made) == [
        "cut to the 40 steps of this run: optimizer.warmup_steps from 100 to 4, "
        "train.log_every from 50 steps to 40, train.checkpoint_every from 500 steps to "
        "40, train.sample_every from 500 steps to 40"
    ]


def test_an_interval_in_epochs_is_cut_as_well():
    made = config(total_steps=30, batch_size=10)
    made.optimizer.warmup_steps = 0
    made.ema.update(warmup=True, snapshot_every_steps=31)
    made.train.update(log_every_steps=0, log_every_epochs=4.0)
    made.train.update(checkpoint_every_steps=30, sample_every_steps=10)
    (line,) = describe(made)
    assert line.endswith(
        ": train.log_every from 40 steps to 30, ema.snapshot_every_steps from 31 steps "
        "to 30"
    )


def test_an_average_that_is_too_slow_for_the_run_is_warned_of():
    made = config(total_steps=20_000)
    # (1 - 1e-4) ^ 20000 = 0.135
    (warning,) = describe(made)
    assert "ema.decay=0.9999 is too slow for 20000 steps: 14% of" in warning
    for section, values in (
        ("train", {"total_steps": 30_000}),
        ("ema", {"warmup": True}),
        ("ema", {"decay": 0.999}),
    ):
        other = config(total_steps=20_000)
        other[section].update(values)
        assert describe(other) == []


def test_each_power_average_has_a_name_of_its_own():
    made = config()
    made.ema.power = (0.05, 0.1)
    averages = training.build_averages(made)
    assert list(averages) == ["main", "power_0.05", "power_0.1"]
    # After two updates a short average follows the parameters more closely.
    rates = [float(averages[n](jnp.int32(2))) for n in ("power_0.05", "power_0.1")]
    assert rates[0] > rates[1]
