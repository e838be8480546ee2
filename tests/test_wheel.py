"""The wheel: what is in it, and that it works where the checkout is out of reach."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import simple_diffusion

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(file):
    lines = (ROOT / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_plain_install_and_its_extras_are_the_requirements_of_launch():
    names = ("train", "report", "hub", "text")
    parts = [PROJECT["dependencies"], *(EXTRAS[name] for name in names)]
    stated = [requirement for part in parts for requirement in part]
    assert sorted(stated) == sorted(requirements("requirements.txt"))
    assert EXTRAS["all"] == ["simple_diffusion[train,report,hub,text]"]


def test_sampling_and_the_command_line_start_without_the_extras():
    flax = {
        re.split("[^a-z-]", r)[0] for r in importlib.metadata.requires("flax") or ()
    }
    parts = EXTRAS["train"] + EXTRAS["report"] + EXTRAS["text"]
    extras = {re.split("[>=]", r)[0] for r in parts}
    absent = {name.replace("-", "_") for name in extras - flax | {"huggingface_hub"}}
    # The names under which the distributions are imported.
    absent |= {"sklearn", "tensorflow"}
    modules = ["main", "build.keys.overrides", "training.loop", "pipelines.load"]
    modules += ["modes.sample", "modes.restore"]
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({absent!r}))
for module in {modules!r}:
    importlib.import_module("simple_diffusion." + module)
"""
    status, _, errors = run("-c", code, cwd=ROOT)
    assert status == 0, errors


@pytest.mark.parametrize("accelerator", ["cuda", "tpu"])
def test_the_extra_of_an_accelerator_is_what_launch_installs_for_it(accelerator):
    script = (ROOT / "launch/environment.sh").read_text()
    installed = re.search(rf"^ *{accelerator}\) extra=\((.*)\)", script, re.MULTILINE)
    assert installed
    assert EXTRAS[accelerator] == installed[1].replace('"', "").split()


def run(*command, cwd, **variables):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, so that nothing is left in it."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("simple_diffusion", "configs", "tests", "benchmarks", "launch"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    built = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    code, *output = run("-m", "pip", "wheel", *options, "-w", built, source, cwd=source)
    assert code == 0, output
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs Python with the installed wheel, in a folder that has other `configs`."""
    target = tmp_path_factory.mktemp("target")
    options = ["--quiet", "--no-deps", "--no-index", "--target", target]
    code, *output = run("-m", "pip", "install", *options, wheel, cwd=target)
    assert code == 0, output
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").mkdir()
    for name in ("__init__.py", "base.py", "quickstart.py"):
        text = "raise RuntimeError('these are the configs of another project')\n"
        (folder / "configs" / name).write_text(text)

    def python(*arguments, path=target):
        return run(*arguments, cwd=folder, PYTHONPATH=str(path))

    return python


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_recipes_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"simple_diffusion-{simple_diffusion.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"simple_diffusion", info}
    modules = {n for n in names if n.endswith(".py")}
    package = {str(p.relative_to(ROOT)) for p in ROOT.glob("simple_diffusion/**/*.py")}
    recipes = {f"simple_diffusion/configs/{p.name}" for p in ROOT.glob("configs/*.py")}
    assert modules == package - {"simple_diffusion/configs.py"} | recipes
    assert "simple_diffusion/py.typed" in names


@pytest.mark.slow
def test_the_installed_package_loads_its_own_recipes_in_any_folder(installed):
    code = """
import simple_diffusion
from simple_diffusion.build import recipes
print(simple_diffusion.__file__, simple_diffusion.__version__)
print(recipes.load("quickstart").data.source, recipes.resolve("imagenet512:uvit"))
"""
    status, output, errors = installed("-c", code)
    assert status == 0, errors
    assert str(ROOT) not in output
    file, version, source, recipe = output.split()
    folder = Path(file).parent
    assert (version, source) == (simple_diffusion.__version__, "scenes")
    assert recipe == f"{folder / 'configs' / 'imagenet512.py'}:uvit"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["simple_diffusion.main", "simple_diffusion"])
def test_the_installed_command_line_knows_recipes_by_name(installed, module):
    flags = ["--config", "quickstart", "--config.train.batchsize=3", "--workdir=run"]
    status, output, errors = installed("-m", module, *flags)
    assert status == 1
    assert "did you mean train.batch_size?" in errors
    assert "Traceback" not in errors
    assert len((output + errors).strip().splitlines()) == 1


@pytest.mark.slow
def test_the_console_script_is_the_command_line(installed):
    code = "from simple_diffusion.__main__ import run; run()"
    script = {"simple-diffusion": "simple_diffusion.__main__:run"}
    assert PROJECT["scripts"] == script
    status, output, _ = installed("-c", code, "--help")
    assert status == 0
    assert "--workdir" in output and "--mode" in output


def test_importing_the_package_starts_no_heavy_library():
    code = """
import sys, simple_diffusion
print(simple_diffusion.__version__, "load" in dir(simple_diffusion))
heavy = {"jax", "flax", "numpy", "orbax", "tensorflow", "optax", "ml_collections"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    status, output, errors = run("-c", code, cwd=ROOT)
    assert status == 0, errors
    assert output.splitlines() == [f"{simple_diffusion.__version__} True", "[]"]


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        simple_diffusion.lode  # noqa: B018
