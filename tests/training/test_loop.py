import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.training import checkpoint, loop, report, sharding
from tests.training import toy

ROOT = Path(__file__).parents[2]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return workdir, toy.train(workdir, 20)


def reported(workdir):
    """Returns what was reported, without what depends on the clock."""
    clock = {"time", "steps_per_second", "images_per_second", "input_wait"}
    return [
        {k: v for k, v in line.items() if k not in clock}
        for line in report.read_metrics(workdir / "metrics.jsonl")
    ]


def test_a_run_reaches_its_last_step_and_saves_it(uninterrupted):
    workdir, outcome = uninterrupted
    assert outcome.status == loop.COMPLETE
    assert int(outcome.state.step) == int(outcome.state.updates) == 20
    kept = checkpoint.Checkpoints(workdir / "checkpoints").steps()
    assert kept == [10, 15, 20]
    assert [line["step"] for line in reported(workdir)] == [5, 10, 15, 20]


def test_a_complete_run_says_so_and_changes_nothing(uninterrupted):
    workdir, outcome = uninterrupted
    said = []
    again = toy.train(workdir, 20, say=said.append, open_batches=pytest.fail)
    assert again.status == loop.ALREADY_COMPLETE
    assert said == ["the run is complete: step 20 of 20"]
    assert_same(again.state, outcome.state)


@pytest.mark.parametrize(("kind", "code"), [("exit", 7), ("kill", -signal.SIGKILL)])
def test_killed_and_resumed_equals_uninterrupted(kind, code, tmp_path, uninterrupted):
    crash = subprocess.run(
        [sys.executable, "-m", "tests.training.crash", str(tmp_path), kind],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert crash.returncode == code, crash.stderr
    said = []
    outcome = toy.train(tmp_path, 20, say=said.append)
    # Step 10, or 5 if the process was gone before step 10 was written.
    assert re.match("resuming at step (5|10), 20 steps in all", said[0])
    assert_same(outcome.state, uninterrupted[1].state)
    assert reported(tmp_path) == reported(uninterrupted[0])


def test_a_run_resumes_on_another_mesh(tmp_path, uninterrupted):
    toy.train(tmp_path, 10)
    mesh = sharding.make_mesh(2, 2, 2)
    outcome = toy.train(
        tmp_path,
        20,
        plan=toy.blueprint(mesh),
        mesh=mesh,
        open_batches=lambda start: toy.batches(mesh, start),
    )
    kernel = outcome.state.params["inner"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    jax.tree.map(
        # Ten steps of sums in another order, as in the tests of the step.
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        jax.device_get(outcome.state.params),
        jax.device_get(uninterrupted[1].state.params),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_the_run_can_be_resumed(
    number, tmp_path, uninterrupted
):
    before = signal.getsignal(number)
    said = []
    send = loop.Action(7, lambda step, state: os.kill(os.getpid(), number))
    outcome = toy.train(tmp_path, 20, say=said.append, actions=[send])
    assert outcome.status == loop.STOPPED
    assert said[-1] == "stopped by a signal; saved step 8 of 20"
    assert signal.getsignal(number) is before
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").steps() == [5, 8]
    assert_same(toy.train(tmp_path, 20).state, uninterrupted[1].state)


class Poisoned(toy.Regression):
    """Has a loss of NaN wherever a label is 99."""

    def __call__(self, params, batch, draw, train=True):
        losses, aux = super().__call__(params, batch, draw, train)
        return jnp.where(batch.label == 99, jnp.nan, losses), aux


POISONED = toy.train_step(Poisoned())


def poisoned_batches(*bad_steps):
    def open_batches(start):
        for number, batch in enumerate(toy.batches(toy.ONE_DEVICE, start), start + 1):
            if number in bad_steps:
                batch = batch.replace(label=jnp.full_like(batch.label, 99))
            yield batch

    return open_batches


@pytest.mark.parametrize("bad", [8, 10])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_metric(
    bad, tmp_path
):
    with pytest.raises(
        loop.NonFiniteError, match=f"step {bad}: loss is nan"
    ) as stopped:
        toy.train(
            tmp_path,
            20,
            train_step=POISONED,
            open_batches=poisoned_batches(bad),
            actions=[loop.Action(10, lambda step, state: pytest.fail("shown"))],
        )
    assert "checkpoints [5]" in str(stopped.value)
    # Also where the bad step is one that would have been saved.
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").steps() == [5]
    good = toy.train(tmp_path / "good", 5, train_step=POISONED).state
    step, params = checkpoint.restore_params(
        tmp_path / "checkpoints", toy.blueprint().abstract.params, average=None
    )
    assert step == 5
    assert_same(params, good.params)


def test_as_many_bad_steps_in_a_row_as_allowed_are_skipped_and_counted(tmp_path):
    outcome = toy.train(
        tmp_path,
        20,
        train_step=POISONED,
        open_batches=poisoned_batches(7, 8, 12),
        skips_allowed=2,
    )
    assert outcome.status == loop.COMPLETE
    assert (int(outcome.state.skipped), int(outcome.state.updates)) == (3, 17)
    lines = reported(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 2, 3, 3]
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    with pytest.raises(
        loop.NonFiniteError, match="step 9: loss is nan; steps in a row: 3"
    ):
        toy.train(
            tmp_path / "three",
            20,
            train_step=POISONED,
            open_batches=poisoned_batches(7, 8, 9),
            skips_allowed=2,
        )


def test_actions_run_every_so_often_and_after_the_last_step(tmp_path):
    seen = []
    toy.train(
        tmp_path,
        10,
        actions=[
            loop.Action(4, lambda step, state: seen.append((step, int(state.step))))
        ],
    )
    assert seen == [(4, 4), (8, 8), (10, 10)]


def test_batches_are_opened_where_the_run_resumes_and_closed_at_its_end(tmp_path):
    events = []

    def open_batches(start):
        events.append(f"opened at {start}")
        try:
            yield from toy.batches(toy.ONE_DEVICE, start)
        finally:
            events.append("closed")

    toy.train(tmp_path, 5, open_batches=open_batches)
    toy.train(tmp_path, 6, open_batches=open_batches)
    assert events == ["opened at 0", "closed", "opened at 5", "closed"]


def test_data_that_ends_is_an_error_and_nothing_is_lost(tmp_path):
    def seven(start):
        return itertools.islice(toy.batches(toy.ONE_DEVICE), 7)

    with pytest.raises(
        ValueError, match="after step 7, which is saved: the data ended"
    ):
        toy.train(tmp_path, 20, open_batches=seven)
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").steps() == [5, 7]


def test_the_loop_transfers_nothing_implicitly(tmp_path):
    """Batches that are not on the devices yet are refused, not copied in passing."""
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        toy.train(tmp_path, 5, open_batches=lambda start: iter([toy.batch()] * 5))


def test_the_step_compiles_once_and_reuses_the_state():
    plan = toy.blueprint()
    # A function that no other test has compiled.
    fresh = toy.train_step.__wrapped__()
    compiled = loop.jit_step(fresh, plan.shardings, toy.ONE_DEVICE)
    state, data = plan.create(), toy.batches(toy.ONE_DEVICE)
    with jax.debug_nans(False):  # which would switch donation off
        for _ in range(4):
            before = state
            state, _ = compiled(before, next(data))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert compiled._cache_size() == 1


def test_a_trace_of_some_steps_is_written(tmp_path):
    toy.train(tmp_path, 8, profile=loop.Profile(2, str(tmp_path / "trace")))
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_a_trace_is_written_also_when_the_run_ends_inside_it(tmp_path):
    toy.train(tmp_path, 5, profile=loop.Profile(100, str(tmp_path / "trace")))
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
