"""The benchmarks run, at a size at which their figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import condition_cost, recipe

ROOT = Path(__file__).parents[2]
SMALL = "--resolution=16 --width=16 --depth=1 --batch=2 --rounds=1".split()


def figures(script: str, *flags: str, output: Path, small=SMALL) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{script}", *small, *flags]
    command += ["--json", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(output.read_text())


@pytest.mark.slow
def test_the_training_step_is_measured_beside_a_matrix_product(tmp_path):
    flags = ["--ours=paper", "--steps=1", "--matmul=64"]
    found = figures("train_step", *flags, output=tmp_path / "figures.json")
    product, ours = found["rows"]
    assert product["flops"] == 2 * 64**3
    # XLA's count leaves out what it can simplify away, such as products with padding.
    assert 0.8 < ours["xla_flops"] / ours["flops"] < 1.2
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"])


@pytest.mark.slow
def test_sampling_is_measured_beside_bare_calls(tmp_path):
    flags = ["--solvers", "ddim", "--calls=2"]
    found = figures("sampling_overhead", *flags, output=tmp_path / "figures.json")
    assert set(found["seconds"]) == {"bare network", "ddim"}
    assert all(min(values) > 0 for values in found["seconds"].values())


@pytest.mark.slow
def test_patches_are_loaded_from_files_of_the_size_that_is_said(tmp_path):
    flags = "--files=4 --side=64 --resolution=16 --largest=32 --batch=2".split()
    flags += ["--rounds=1", "--steps=2"]
    output = tmp_path / "figures.json"
    found = figures("patch_loading", *flags, output=output, small=())
    (ours,) = found["rows"]
    assert ours["patches_per_second"] == pytest.approx(2 / ours["rounds"][0])
    # Noise at quality 90 takes about a third of a byte per pixel, and headers 600.
    assert 64 * 64 / 8 < found["about"]["mean_bytes"] < 64 * 64


@pytest.mark.slow
def test_a_step_is_measured_with_and_without_a_condition(tmp_path):
    sizes = ["data.resolution=32", "model.channels=(8, 8, 16)"]
    sizes += ["model.trunk_channels=32", "model.trunk_heads=2", "model.trunk_blocks=2"]
    sizes += ["model.scan_unroll=2", "model.emb_channels=16", "model.remat='none'"]
    sizes += [f"conditions.text_features.{key}=8" for key in ("features", "length")]
    flags = ["--set", *sizes, "conditions.text_features.width=8"]
    flags += ["--steps=1", "--rounds=1"]
    output = tmp_path / "figures.json"
    found = figures("condition_cost", *flags, output=output, small=())
    assert set(found["seconds"]) == {"without", "with text_features"}
    without, text = found["operations"]["recipe"].values()
    # Maps of queries and output in 36 blocks, and of keys and values of the tokens.
    assert 1.1 < text / without < 1.5


def test_a_condition_that_the_recipe_lacks_is_an_error():
    tree = recipe.load("configs/text2image256.py")
    with pytest.raises(ValueError, match="--condition layout: the recipe has text_f"):
        condition_cost.variants(tree, "layout")
