"""From weight files and images to FID, without any stand-ins."""

import json

import jax
import numpy as np
import pytest

from benchmarks import feature_weights
from simple_diffusion.evaluation.metrics import frechet, kernel_distance, scores
from simple_diffusion.evaluation.networks import inception
from simple_diffusion.modes import evaluate
from simple_diffusion.weights import convert_inception, weight_files
from tests.modes import test_modes
from tests.modes.small_features import write_folder


@pytest.mark.slow
def test_metrics_are_those_of_the_features_of_each_network(tmp_path):
    weights = tmp_path / "inception.npz"
    shapes = convert_inception.pytorch_shapes()
    port = {name: feature_weights.weight(name, s) for name, s in shapes.items()}
    weight_files.write(tmp_path / "port.npz", port)
    convert_inception.convert(str(tmp_path / "port.npz"), str(weights))
    images = np.random.default_rng(0).integers(0, 256, (22, 24, 24, 3), np.uint8)
    images[12:] //= 2
    config = test_modes.tiny()
    config.evaluate.update(
        samples=write_folder(tmp_path / "samples", images[:12]),
        reference=write_folder(tmp_path / "real", images[12:]),
        networks=("inception", "thumbnail"),
        inception_weights=str(weights),
        metrics=("fd", "sfid", "kd", "score", "memorisation"),
    )
    metrics = evaluate.run(config, str(tmp_path / "run"))
    network = inception.load(weights)
    out = jax.jit(network.apply)(network.params, images)
    features, spatial, logits = (np.asarray(v) for v in out)
    expected = {
        "fid_12": frechet.distance_of_features,
        "kid_12": lambda x, y: kernel_distance.distance(x, y).value,
    }
    with pytest.warns(UserWarning, match="biased upwards"):
        for name, distance in expected.items():
            value = distance(features[:12], features[12:])
            assert metrics[name] == pytest.approx(value, rel=1e-4), name
        sfid = frechet.distance_of_features(spatial[:12], spatial[12:])
    assert metrics["sfid_12"] == pytest.approx(sfid, rel=1e-3)
    score = scores.inception_score(logits[:12], splits=10).value
    assert metrics["inception_score_12"] == pytest.approx(score, rel=1e-4)
    assert metrics["fd_thumbnail_12"] > 0
    assert "sfid_thumbnail_12" not in metrics
    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert record["networks"]["inception"] == {
        "digest": network.digest,
        "resize": "tf1_bilinear",
    }
    assert record["counts"]["fid_12"] == [12, 10]
    assert any("fd of inception: 10 features for 2048" in n for n in record["notes"])
