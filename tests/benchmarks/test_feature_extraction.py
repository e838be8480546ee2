"""The benchmark of feature extraction runs, at a size at which figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import feature_extraction, feature_weights

ROOT = Path(__file__).parents[2]


class Worker:
    def __init__(self, name, features):
        self.name, self.facts = name, {"features": features}


def test_who_has_other_features_is_not_compared():
    ours = Worker("ours", [3.0, 1.0])
    feature_extraction.check([ours, Worker("peer", [3.001, 1.0])])
    with pytest.raises(ValueError, match="peer, eager has other features"):
        feature_extraction.check([ours, Worker("peer, eager", [3.0, 1.1])])


def test_a_weight_depends_on_its_name_and_shape_alone():
    one, other = (
        feature_weights.weight(f"{k}.conv.weight", (64, 32, 3, 3)) for k in "ab"
    )
    again = feature_weights.weight("a.conv.weight", (64, 32, 3, 3))
    np.testing.assert_array_equal(one, again)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05
    np.testing.assert_allclose(one.std(), np.sqrt(2 / (32 * 9)), rtol=0.05)


@pytest.mark.slow
def test_features_are_extracted_by_the_converted_network(tmp_path):
    output = tmp_path / "figures.json"
    flags = "--resolution=32 --batch=1 --rounds=1 --steps=1".split()
    command = [sys.executable, "-m", "benchmarks.feature_extraction", *flags]
    command += ["--json", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (ours,) = json.loads(output.read_text())["rows"]
    assert ours["images_per_second"] == pytest.approx(1 / ours["rounds"][0])
    assert max(ours["features"]) > 1
    assert "| ours |" in run.stdout
