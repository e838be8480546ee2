from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data, network
from simple_diffusion.core.types import Weights
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import open_run
from simple_diffusion.pipelines.evaluation import during_training, evaluation, record
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.pipelines.training_grids import TrainingGrids
from tests.faults import tiny
from tests.training import toy


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Returns a function that evaluates some steps whose metric has given values.

    It returns the parameters that samples and losses were computed with, and the steps
    whose checkpoints are kept as the best.
    """
    config = tiny.get_config()
    parameters = []

    def note(config, trained, *rest):
        parameters.append(trained.weights.network)
        return mock.Mock(label=None)

    def note_loss(*args):
        note(*args)
        return iter(())

    comparison = mock.Mock()
    comparison.settings.return_value = {}
    monkeypatch.setattr(evaluation, "open_comparison", lambda *args: comparison)
    monkeypatch.setattr(evaluation, "draw_samples", note)
    monkeypatch.setattr(evaluation, "measure_held_out", note_loss)
    monkeypatch.setattr(evaluation, "extract_features", mock.Mock())
    monkeypatch.setattr(evaluation, "describe", lambda *args: {})
    monkeypatch.setattr(record, "append", lambda *args: None)

    def evaluate(metric, values, best_metric=None, measured=("fd",)):
        config.evaluate.update(
            best_metric=best_metric, metrics_during_training=measured
        )
        dataset, folder = data.open_data(config), epath.Path(tmp_path)
        net = network.build_network(config, dataset.num_classes)
        untrained = Trained(net, Weights(None), toy.ONE_DEVICE, dataset.class_names)
        grids = TrainingGrids(config, folder, untrained)
        evaluations = during_training.TrainingEvaluations(
            config, folder, dataset, untrained, grids
        )
        made = toy.blueprint().create()
        average = jax.tree.map(lambda v: v + 1, made.params)
        state = made.replace(ema=made.ema | {"main": average})
        for k, value in enumerate(values, 1):
            found = [Metric(metric, value, (16, 16))]
            monkeypatch.setattr(evaluation, "measure", lambda *args, v=found: iter(v))
            evaluations.evaluate_during(k, state.replace(step=jnp.int32(k)))
        evaluations.evaluate_final(state)
        evaluations.close()
        kept = [path.name for path in (folder / open_run.BEST).iterdir()]
        return parameters, average, kept

    return evaluate


def test_a_training_evaluates_the_average_of_its_parameters(evaluate):
    parameters, average, _ = evaluate("fd_thumbnail_16", [1.0])
    assert len(parameters) == 3  # samples on the way; samples and loss at the end
    for found in parameters:
        jax.tree.map(np.testing.assert_array_equal, found, average)


def test_the_best_checkpoint_has_the_smallest_distance(evaluate):
    assert evaluate("fd_thumbnail_16", [5.0, 3.0, 4.0])[2] == ["2"]


def test_the_best_checkpoint_has_the_largest_precision(evaluate):
    name, measured = "precision_thumbnail", ("precision_recall",)
    kept = evaluate(f"{name}_16", [0.5, 0.3, 0.7, 0.6], name, measured)[2]
    assert kept == ["3"]
