import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.evaluation import metric_names
from simple_diffusion.modes import evaluate, sample, sweep, train
from simple_diffusion.pipelines import programs
from simple_diffusion.training import checkpoint, report, state
from tests.modes import test_modes

pytestmark = pytest.mark.slow  # whole runs


def tiny():
    config = test_modes.tiny()
    config.ema.power = ()
    config.ema.snapshot_every_steps = 0
    config.sample.update(count=8, batch_size=8, steps=2)
    config.evaluate.update(count=8, batch_size=8, metrics=("fd", "kd"))
    config.evaluate.count_during_training = 8
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps that is evaluated every two steps."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny()
    config.train.update(
        total_steps=6,
        evaluate_every_steps=2,
        checkpoint_every_steps=2,
        sample_every_steps=0,
    )
    train.run(config, str(folder))
    return folder


def history(folder):
    return report.read_metrics(folder / "evaluations.jsonl")


def test_a_training_is_evaluated_during_the_run(trained):
    records = history(trained)
    assert [r["step"] for r in records] == [2, 4, 6, 6]  # and at its end
    assert all(np.isfinite(r["metrics"]["fd_thumbnail_8"]) for r in records[:3])
    assert "held_out_loss" in records[-1]["metrics"]
    last = json.loads((trained / "metrics.json").read_text())
    assert last == records[-1]


def test_the_best_checkpoint_is_stored_and_can_be_sampled(trained):
    values = [r["metrics"]["fd_thumbnail_8"] for r in history(trained)[:3]]
    best = [2, 4, 6][metric_names.best_index("fd_thumbnail_8", values)]
    assert [p.name for p in (trained / "best").iterdir()] == [str(best)]
    config = tiny()
    config.sample.best_checkpoint = True
    metrics = evaluate.run(config, str(trained))
    # The same noise, classes and reference as in training: the same number.
    assert metrics["fd_thumbnail_8"] == pytest.approx(min(values), rel=1e-6)
    assert history(trained)[-1]["step"] == best


def test_there_is_one_checkpoint_at_a_time(trained, tmp_path):
    config = tiny()
    config.sample.update(best_checkpoint=True, checkpoint_step=2)
    with pytest.raises(ValueError, match="two ways to name a checkpoint"):
        sample.run(config, str(trained))


def test_evaluations_of_lost_steps_are_repeated(trained, tmp_path, monkeypatch):
    before = history(trained)[:3]
    config = tiny()
    config.train.update(
        total_steps=4,
        evaluate_every_steps=2,
        checkpoint_every_steps=2,
        sample_every_steps=0,
    )
    train.run(config, str(tmp_path))
    assert [r["step"] for r in history(tmp_path)] == [2, 4, 4]
    # As if the run had been killed between its evaluation and its last checkpoint.
    checkpoints = tmp_path / "checkpoints" / "4"
    checkpoints.rename(tmp_path / "lost")
    config.train.total_steps = 6
    train.run(config, str(tmp_path))
    again = history(tmp_path)
    assert [r["step"] for r in again] == [2, 4, 6, 6]
    if jax.devices()[0].platform == "cpu":
        kept = [r["metrics"]["fd_thumbnail_8"] for r in again[:3]]
        assert kept == pytest.approx([r["metrics"]["fd_thumbnail_8"] for r in before])


def test_a_metric_that_is_not_measured_cannot_decide(tmp_path):
    config = tiny()
    config.evaluate.best_metric = "recall_thumbnail"
    with pytest.raises(
        ValueError, match="best_metric=recall_thumbnail.*must be one of: fd_thumb"
    ):
        train.run(config, str(tmp_path))
    # The features of the classifier have no FID: the name is that of their metrics.
    config.evaluate.update(best_metric="fid", networks=("source",))
    says = "must be one of: fd_scenes, accuracy_scenes"
    with pytest.raises(ValueError, match=f"best_metric=fid is not measured.*{says}$"):
        train.run(config, str(tmp_path))


def offered(folder, metric, values):
    """Returns which of the values, at steps 1, 2 and so on, were stored as the best."""
    best = checkpoint.BestCheckpoint(folder, metric, lower=True)
    kept = [best.save_if_better(k, state_of(k), v) for k, v in enumerate(values, 1)]
    best.close()
    return kept


def state_of(step):
    leaf = jnp.full(3, float(step))
    zero = jnp.zeros((), jnp.int32)
    return state.TrainState(
        step=zero + step,
        params={"w": leaf},
        ema={},
        opt_state={},
        skipped=zero,
        skipped_in_row=zero,
    )


def test_the_best_is_the_lowest_so_far_and_never_nan(tmp_path):
    values = [float("nan"), 3.0, 4.0, 2.0, 2.0]
    assert offered(tmp_path / "best", "fd", values) == [False, True, False, True, False]
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["4"]


def test_a_value_of_another_metric_does_not_decide(tmp_path):
    assert offered(tmp_path / "best", "fd of 10", [1.0]) == [True]
    best = checkpoint.BestCheckpoint(tmp_path / "best", "fd of 20", lower=True)
    assert best.save_if_better(2, state_of(2), 5.0)
    best.close()
    best = checkpoint.BestCheckpoint(tmp_path / "best", "fd of 20", lower=True)
    assert not best.save_if_better(3, state_of(3), 6.0)
    best.close()


def test_a_best_checkpoint_of_lost_steps_is_deleted(tmp_path):
    assert offered(tmp_path / "best", "fd", [3.0, 2.0]) == [True, True]
    checkpoint.BestCheckpoint.delete_after(tmp_path / "best", 2)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["2"]
    checkpoint.BestCheckpoint.delete_after(tmp_path / "best", 1)
    assert list((tmp_path / "best").iterdir()) == []
    assert offered(tmp_path / "best", "fd", [9.0]) == [True]


def test_a_sweep_evaluates_every_combination_once(trained, monkeypatch, capsys):
    config = tiny()
    config.sweep.update(
        count=8, guidance=(1.0, 3.0), steps=(1, 2), intervals=((None, None),)
    )
    points = sweep.run(config, str(trained))
    assert [(p["guidance"], p["steps"]) for p in points] == [
        (1.0, 1),
        (1.0, 2),
        (3.0, 1),
        (3.0, 2),
    ]
    record = json.loads((trained / "sweep" / "sweep.json").read_text())
    assert record["points"] == points
    assert record["count"] == 8
    assert "fd_thumbnail_8" in (trained / "sweep" / "table.md").read_text()
    assert (trained / "sweep" / "sweep.svg").read_text().lstrip().startswith("<")
    values = {p["metrics"]["fd_thumbnail_8"] for p in points}
    assert len(values) == 4
    # The settings of a point are those of the mode evaluate: the same noise.
    plain = tiny()
    plain.sample.update(guidance=3.0, steps=2)
    metrics = evaluate.run(plain, str(trained))
    assert metrics["fd_thumbnail_8"] == points[3]["metrics"]["fd_thumbnail_8"]
    # Repeat with one more point: only that one is sampled.
    draws = []
    draw = programs.Drawer.__call__

    def noted(self, *args, **kwargs):
        draws.append(args)
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(programs.Drawer, "__call__", noted)
    config.sweep.guidance = (1.0, 2.0, 3.0)
    config.sweep.steps = (1,)
    again = sweep.run(config, str(trained))
    assert len(draws) == 1
    assert [again[0], again[2]] == [points[0], points[2]]
    # Points that this sweep does not ask for are kept.
    config.sweep.guidance, config.sweep.steps = (1.0, 3.0), (1, 2)
    assert sweep.run(config, str(trained)) == points
    assert len(draws) == 1
    # With other settings of the comparison it is another point.
    config.evaluate.seed = 1
    config.sweep.guidance, config.sweep.steps = (1.0,), (1,)
    sweep.run(config, str(trained))
    assert len(draws) == 2


def test_an_interval_that_is_not_a_pair_is_named(trained):
    config = tiny()
    config.sweep.intervals = (1.0,)
    with pytest.raises(
        ValueError, match="sweep.intervals has 1.0; each must be a pair"
    ):
        sweep.run(config, str(trained))
