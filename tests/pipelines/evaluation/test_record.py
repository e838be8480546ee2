"""Which evaluation `metrics.json` holds."""

import json
from unittest import mock

import pytest
from etils import epath

from simple_diffusion.build import sampling
from simple_diffusion.configs import base
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines.evaluation import record


def test_weights_of_single_conditions_tell_samples_apart():
    """Features of samples are stored, and used again for equal settings alone."""
    config = base.default()
    sampler = mock.Mock(spec=sampling.Sampling)
    sampler.size, sampler.guidance, sampler.network_calls = (8, 8), 1.0, 4
    without = record.describe_sampling(config, sampler, 7)
    config.sample.guidance_of.text = 3.0
    with_text = record.describe_sampling(config, sampler, 7)
    assert (without["guidance_of"], with_text["guidance_of"]) == ({}, {"text": 3.0})


def evaluated(count, step=7):
    return {
        "step": step,
        "metrics": {f"fd_scenes_{count}": 1.0},
        "counts": {"held_out_loss": [None, 20], f"fd_scenes_{count}": [count, 100]},
    }


@pytest.mark.parametrize(
    "later, stays", [(evaluated(480), True), (evaluated(2400), False),
                     (evaluated(5000), False), (evaluated(480, step=8), False)]
)  # fmt: skip
def test_only_fewer_samples_of_the_same_step_do_not_replace(
    tmp_path, capsys, later, stays
):
    folder = epath.Path(tmp_path)
    assert record.write_metrics(folder, evaluated(2400)).name == "metrics.json"
    path = record.write_metrics(folder, later)
    assert path.name == ("metrics_480.json" if stays else "metrics.json")
    assert json.loads(path.read_text()) == later
    first = json.loads((folder / "metrics.json").read_text())
    assert first == (evaluated(2400) if stays else later)
    said = capsys.readouterr().out
    assert ("of 2400 samples of the same step and stays; these" in said) == stays


def test_a_record_of_an_older_version_is_replaced(tmp_path):
    (tmp_path / "metrics.json").write_text('{"step": 7}')
    path = record.write_metrics(epath.Path(tmp_path), evaluated(2))
    assert path.name == "metrics.json"


def test_baselines_are_recorded_and_printed_beside_their_metric(capsys):
    metrics = [
        Metric("accuracy_object", 0.5, (8, 8), None, None, {"real images": 0.75}),
        Metric("fd_scenes_8", 2.0, (8, 9)),
    ]
    written = record.describe_metrics(record.print_metrics(metrics))
    assert written["baselines"] == {"accuracy_object": {"real images": 0.75}}
    assert written["metrics"] == {"accuracy_object": 0.5, "fd_scenes_8": 2.0}
    said = capsys.readouterr().out
    assert "accuracy_object = 0.5000; real images 0.7500" in said
