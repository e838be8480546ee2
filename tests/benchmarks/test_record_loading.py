"""The benchmark of prepared records runs, at a size at which figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_records_are_prepared_and_read_beside_the_folder(tmp_path):
    output = tmp_path / "figures.json"
    flags = "--files=6 --side=64 --resolution=16 --batch=2 --rounds=2 --steps=2".split()
    command = [sys.executable, "-m", "benchmarks.record_loading", *flags]
    command += ["--json", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(output.read_text())
    assert [row["name"] for row in found["preparing"]] == ["native", "jpeg", "lossless"]
    assert all(row["count"] == 6 for row in found["preparing"])
    folder, *records = found["reading"]
    assert folder["name"] == "folder" and folder["speed"] == 1
    assert len(records) == 3
    for row in found["reading"]:
        assert len(row["rounds"]) == 1
        assert row["images_per_second"] == pytest.approx(2 / row["rounds"][0])
    assert "| preparing | images/s |" in run.stdout
