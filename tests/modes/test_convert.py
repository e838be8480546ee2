"""The command that converts published weights, with each of its networks."""

import subprocess
import sys

import numpy as np
import pytest

from simple_diffusion.modes import convert
from simple_diffusion.weights import (
    convert_inception,
    convert_lpips,
    dinov2_layout,
    inception_layout,
    lpips_layout,
    weight_files,
)
from tests.evaluation.networks import make_dinov2_fixture

INPUTS = {"lpips": ["trunk", "lin"], "inception": ["weights"], "dinov2": ["weights"]}


def arguments(network, folder):
    files = [(name, folder / f"{name}.npz") for name in INPUTS[network]]
    flags = [part for name, path in files for part in (f"--{name}", str(path))]
    return [network, *flags, "--output", str(folder / "out.npz")]


def zeros(shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def lpips_files():
    names = convert_lpips.pytorch_names("alex")
    shapes = lpips_layout.shapes("alex")
    arrays = zeros(
        {names[k]: convert_lpips.pytorch_shape(k, shapes[k]) for k in shapes}
    )
    lins = {name: v for name, v in arrays.items() if name.startswith("lin")}
    return {"trunk": {k: v for k, v in arrays.items() if k not in lins}, "lin": lins}


def test_lpips_is_converted(tmp_path, capsys):
    for name, arrays in lpips_files().items():
        weight_files.write(tmp_path / f"{name}.npz", arrays)
    convert.main(arguments("lpips", tmp_path))
    assert (
        weight_files.read(tmp_path / "out.npz").keys()
        >= lpips_layout.shapes("alex").keys()
    )
    assert capsys.readouterr().out == f"{tmp_path}/out.npz: LPIPS with AlexNet\n"


def test_inception_is_converted(tmp_path, capsys):
    weights = zeros(convert_inception.pytorch_shapes())
    weight_files.write(tmp_path / "weights.npz", weights)
    convert.main(arguments("inception", tmp_path))
    assert (
        weight_files.read(tmp_path / "out.npz").keys()
        == inception_layout.shapes().keys()
    )
    printed = capsys.readouterr().out
    assert printed == f"{tmp_path}/out.npz: the Inception network of FID\n"


def test_dinov2_is_converted(tmp_path, capsys, monkeypatch):
    size = dinov2_layout.Size(*make_dinov2_fixture.TINY)
    monkeypatch.setitem(dinov2_layout.MODELS, "dinov2_tiny", size)
    weights = make_dinov2_fixture.weights(*size)
    weight_files.write(tmp_path / "weights.npz", weights)
    convert.main(arguments("dinov2", tmp_path))
    found = weight_files.read(tmp_path / "out.npz")
    assert found.keys() >= dinov2_layout.shapes("dinov2_tiny").keys()
    assert capsys.readouterr().out == f"{tmp_path}/out.npz: dinov2_tiny\n"


@pytest.mark.parametrize("network", INPUTS)
def test_a_missing_or_wrong_file_is_an_error_of_one_line_that_names_it(
    network, tmp_path, capsys
):
    first = INPUTS[network][0]
    with pytest.raises(SystemExit) as end:
        convert.main(arguments(network, tmp_path))
    assert str(end.value).startswith("error: ")
    assert f"{first}.npz" in str(end.value) and "\n" not in str(end.value)
    for name in INPUTS[network]:
        weight_files.write(tmp_path / f"{name}.npz", {"other": np.zeros(3)})
    with pytest.raises(SystemExit) as end:
        convert.main(arguments(network, tmp_path))
    assert str(end.value).startswith("error: ")
    assert f"{first}.npz" in str(end.value) and "\n" not in str(end.value)
    assert not (tmp_path / "out.npz").exists()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("network", INPUTS)
def test_a_flag_that_is_missing_is_named(network, capsys):
    with pytest.raises(SystemExit) as end:
        convert.main([network, "--output", "out.npz"])
    assert end.value.code == 2
    assert f"--{INPUTS[network][0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["convert", "prepare"])
def test_help_does_not_wait_for_jax(command):
    code = f"""
import sys
from simple_diffusion.modes import {command}
try:
    {command}.main(["--help"])
finally:
    assert not {{"jax", "tensorflow"}} & sys.modules.keys()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"simple_diffusion.modes.{command}" in run.stdout


def test_an_error_ends_the_program_with_exit_code_1(tmp_path):
    program = [sys.executable, "-m", "simple_diffusion.modes.convert"]
    run = subprocess.run(
        [*program, *arguments("dinov2", tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
