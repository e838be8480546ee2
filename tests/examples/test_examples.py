"""The examples run, at reduced size, and do what they say."""

import ast
import inspect
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simple_diffusion
from tests.pipelines import old_run

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "faults" / "tiny.py")
PAD, FACTOR = 2, 4  # of a sheet of 16x16 images, see pipelines/image_grids.py


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return old_run.extract(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def photo(workdir):
    return np.load(workdir / "samples" / "samples.npz")["arr_0"][0]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example with flags; returns its globals and what it printed."""

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, flags)])
        # Another test may have imported it, of which runpy would warn.
        monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)
        scope = runpy.run_module(f"examples.{name}", run_name="__main__")
        return scope, capsys.readouterr().out

    return run


def read_sheet(path, columns):
    """Returns the 16x16 images of a sheet that an example wrote."""
    sheet = np.asarray(Image.open(path))[::FACTOR, ::FACTOR]
    rows = (sheet.shape[0] - PAD) // (16 + PAD)
    assert sheet.shape == (PAD + rows * 18, PAD + columns * 18, 3)
    cells = [
        sheet[PAD + 18 * y : 18 * y + 18, PAD + 18 * x : 18 * x + 18]
        for y in range(rows)
        for x in range(columns)
    ]
    return np.stack(cells)


@pytest.mark.slow
def test_sample_writes_what_the_model_draws(run, workdir, tmp_path):
    path = tmp_path / "samples.png"
    flags = ("--classes", "boat,house", "--count", 4, "--seed", 3, "--guidance", 3)
    _, out = run("sample", workdir, *flags, "--output", path)
    model = simple_diffusion.load(workdir)
    expected = model.sample(["boat", "house"], count=4, seed=3, guidance=3.0)
    np.testing.assert_array_equal(read_sheet(path, columns=2), expected)
    assert "step 2/2" in out and "4 images" in out


def test_restore_fills_the_hole_and_keeps_every_other_pixel(
    run, workdir, photo, tmp_path
):
    mask = np.zeros((16, 16), np.uint8)
    mask[2:10, 5:12] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    path = tmp_path / "restored.png"
    flags = ("--mask", tmp_path / "mask.png", "--samples", 2, "--steps", 4)
    _, out = run("restore", workdir, tmp_path / "photo.png", *flags, "--output", path)
    shown, first, second = read_sheet(path, columns=3)
    for image in (shown, first, second):
        np.testing.assert_array_equal(image[mask == 0], photo[mask == 0])
    assert np.ptp(shown[mask > 0]) == 0
    assert (first != second).any() and np.ptp(first[mask > 0]) > 0
    residuals = out.partition("residual: ")[2].splitlines()[0].split(", ")
    assert len(residuals) == 2 and max(map(float, residuals)) < 1e-5


@pytest.mark.slow
def test_the_own_solver_is_ddim_up_to_rounding(run, workdir, tmp_path):
    path = tmp_path / "own.png"
    flags = ("--classes", "boat,house,3", "--steps", 8, "--output", path)
    _, out = run("own_solver", workdir, *flags)
    # A step of Euler in tau is a step of DDIM. Both divide by sigma, which is small at
    # the last levels: float32 leaves 1e-5 of the range [-1, 1].
    difference = float(out.partition("from ddim: ")[2].split()[0])
    assert difference < 2e-5
    images = read_sheet(path, columns=3).astype(int)
    assert np.abs(images[:3] - images[3:]).max() <= 1
    assert (images[0] != images[1]).any()


def test_training_on_arrays_takes_thirty_lines():
    source = (ROOT / "examples" / "train_on_arrays.py").read_text()
    tree = ast.parse(source)
    (train,) = (n for n in tree.body if getattr(n, "name", None) == "train")
    lines = ast.unparse(train.body[1:]).splitlines()  # without comments and docstring
    assert len(lines) <= 30
    written = source.splitlines()[train.body[1].lineno - 1 : train.end_lineno]
    code = [line for line in written if line.split("#")[0].strip()]
    assert len(code) <= 30, len(code)


@pytest.mark.slow
def test_training_on_arrays_learns_and_saves(run, tmp_path):
    flags = ("--recipe", TINY, "--steps", 200, "--output", tmp_path / "export")
    _, out = run("train_on_arrays", *flags)
    losses = [float(line.split()[-1]) for line in out.splitlines() if "loss" in line]
    # Means over 20 steps of 8 images.
    assert len(losses) == 10 and losses[-1] < 0.5 * losses[0]
    model = simple_diffusion.load(tmp_path / "export")
    assert (model.classes, model.step) == (("disc", "square"), 200)
    assert model.sample(["disc", "square"]).shape == (2, 16, 16, 3)
    with Image.open(tmp_path / "export" / "samples.png") as picture:
        assert picture.size == ((PAD + 4 * 18) * FACTOR,) * 2


@pytest.mark.slow
def test_training_on_arrays_takes_the_users_own(run, tmp_path):
    images = np.zeros((20, 16, 16, 3), np.uint8)
    labels = np.arange(20) % 3
    images[labels == 1] = 128
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    flags = ("--data", tmp_path / "mine.npz", "--recipe", TINY, "--steps", 3)
    run("train_on_arrays", *flags, "--output", tmp_path / "export")
    model = simple_diffusion.load(tmp_path / "export")
    assert model.classes == ("class 0", "class 1", "class 2")


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("QUICKSTART_RECIPE", TINY)
    monkeypatch.setenv("QUICKSTART_STEPS", "8")
    monkeypatch.setenv("QUICKSTART_WORKDIR", str(tmp_path / "run"))
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    scope = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]  # pictures do not belong into the history
            exec("".join(cell["source"]), scope)
    assert scope["result"].status == "complete"
    assert scope["samples"].shape == (12, 16, 16, 3)
    found, hole, photo = (scope[name] for name in ("restoration", "hole", "photo"))
    assert hole.sum() == 64
    assert (found.images[:, ~hole] == photo[~hole]).all()
    assert (found.images[0] != found.images[1]).any()
    # Where there is little noise, the input says nearly all.
    x, x_hat = scope["x"], scope["x_hat"]
    errors = np.square(np.asarray(x_hat) - np.asarray(x)).mean((1, 2, 3))
    assert errors[0] < errors[-1]
    mine, again = scope["model"].sample("boat"), scope["again"].sample("boat")
    np.testing.assert_array_equal(mine, again)
    assert "show" in scope and inspect.getdoc(scope["show"])
