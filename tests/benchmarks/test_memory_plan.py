"""What a step would need, and what is said about it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import memory_plan

ROOT = Path(__file__).parents[2]
GIB = 2**30


def row(remat, state=4, saved=2, temp=6, **more):
    """Returns the figures of one policy, in GiB."""
    figures = dict(argument=state, output=state, alias=state, temp=temp)
    figures |= dict(state=state, saved=saved)
    return {"remat": remat, **{k: v * GIB for k, v in figures.items()}, **more}


def test_the_state_is_counted_once_since_its_memory_is_reused():
    assert memory_plan.total(row("full", state=4, temp=6)) == 10 * GIB


@pytest.mark.parametrize("is_exact", [False, True])
def test_what_the_compiler_can_place_fits_and_twice_the_memory_in_saved_maps_does_not(
    is_exact,
):
    assert memory_plan.verdict(row("full"), 10, is_exact) == "yes"
    assert memory_plan.verdict(row("none", saved=14), 10, is_exact) == "no"
    refused = row("none", refused="RESOURCE_EXHAUSTED")
    assert memory_plan.verdict(refused, 100, is_exact) == "no"


def test_between_the_bounds_only_the_accelerators_own_compiler_can_tell():
    assert memory_plan.verdict(row("full"), 9, is_exact=False) == "open"
    assert memory_plan.verdict(row("full"), 9, is_exact=True) == "no"


def test_of_the_policies_that_fit_the_one_with_least_arithmetic_is_named():
    rows = [row("full", temp=1), row("dots", temp=5), row("none", temp=20, saved=16)]
    said = memory_plan.conclusion(rows, 10, is_exact=False)
    assert said == "It fits with --config.model.remat=dots."
    said = memory_plan.conclusion(rows, 9.5, is_exact=False)
    assert "It fits with --config.model.remat=dots." in said
    said = memory_plan.conclusion(rows, 8, is_exact=False)
    assert "remat=full." in said and "Open: dots." in said
    assert "does not fit" in memory_plan.conclusion(rows, 4, is_exact=True)


@pytest.mark.slow
def test_the_state_is_what_its_shardings_say_and_remat_saves_less(tmp_path):
    output = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.memory_plan"]
    command += "--config configs/quickstart.py --devices 4 --batch 8".split()
    command += "--mesh data=1,fsdp=4 --remat none full --hbm 1".split()
    command += "--set data.num_classes=12 model.trunk_channels=256".split()
    command += ["--json", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    none, full = json.loads(output.read_text())["rows"]
    assert none["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert none["at_once"] == 2
    # The program takes the state and a batch: two images of 32x32, two boxes, labels.
    batch = 2 * (32 * 32 * 3 + 4 * 4 + 4 + 1)
    for figures in (none, full):
        assert abs(figures["argument"] - figures["state"] - batch) <= 64  # padding
        assert figures["saved"] < figures["temp"]
    assert none["state"] == full["state"]
    assert full["saved"] < none["saved"] / 2
    assert "It fits with --config.model.remat=none." in run.stdout
