"""The command line as a user meets it when something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from simple_diffusion import command_line, main
from simple_diffusion.build import recipes
from simple_diffusion.pipelines import runs

ROOT = Path(__file__).parents[1]


def command(*arguments):
    return command_line.parse(arguments)


def run(*flags):
    line = [sys.executable, "-m", "simple_diffusion.main", *flags]
    done = subprocess.run(
        line,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def workdir(tmp_path):
    """A workdir with the config of a run of some overrides, on two devices."""
    config = recipes.load("quickstart")
    config.train.seed = 7
    config.mesh.fsdp = 2
    folder = epath.Path(tmp_path / "run")
    folder.mkdir()
    runs.save_config(config, folder, ("a", "b"))
    return folder


def fail(capsys, *arguments):
    """Returns the message of a command that ends before its mode begins."""
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    message = ended.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert capsys.readouterr() == ("", "")
    return message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "quickstart", "--config.train.batchsize=3"], "train.batch_size?"),
        (["train", "quickstart", "--config.train.batch_size=many"], "a whole number"),
        (["train", "quickstart", "--config.data.flip=maybe"], "True or False"),
        (["train", "quickstart:paper"], "recipe quickstart:paper: it has no variants"),
        (["train", "configs/quickstart.py:paper"], "it has no variants"),
        (["train", "anyres_scenes:papr"], "must be one of ours, paper"),
        (["train", "configs/imagenet64.py:papr"], "must be one of unet, uvit, sid2"),
        (["train", "quickstat"], "digits, imagenet128, imagenet256"),
        (["train", "configs/quickstat.py"], "there is no recipe at /"),
        (["train", "runs/no/config.json"], "there is no config at /"),
        (["train"], "holds no run (config.json is missing): name a recipe"),
        (["sample"], "holds no run (config.json is missing): train first; or name"),
    ],
)
def test_a_wrong_recipe_or_key_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert said in fail(capsys, *words, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_damaged_config_is_named(tmp_path, capsys):
    for text in ("[1, 2]", '{"data": 3', '{"data": {"source": "scenes"}, "no": 3'):
        (tmp_path / "config.json").write_text(text)
        path = tmp_path / "config.json"
        said = fail(capsys, "train", str(path), "--workdir=x")
        assert f"--config={path} is no config.json of a run" in said


@pytest.mark.parametrize("mode", ["sample", "evaluate", "restore", "sweep", "export"])
def test_the_config_of_the_run_is_enough(mode, workdir):
    config = main.read_config(command(mode, f"--workdir={workdir}"))
    assert config.train.seed == 7
    assert (config.mesh.data, config.mesh.fsdp) == (-1, 1)  # here are other devices
    changed = command(mode, f"--workdir={workdir}", "--config.sample.steps=3")
    changed = main.read_config(changed)
    assert (changed.train.seed, changed.sample.steps) == (7, 3)
    with pytest.raises(ValueError, match="no key sample.step; did you mean sample.st"):
        main.read_config(
            command(mode, f"--workdir={workdir}", "--config.sample.step=3")
        )


def test_a_recipe_replaces_the_config_of_the_run(workdir):
    words = ["sample", "quickstart", f"--workdir={workdir}"]
    assert main.read_config(command(*words)).train.seed == 0


def test_a_training_continues_with_the_config_of_its_run(workdir):
    config = main.read_config(command("train", f"--workdir={workdir}"))
    assert (config.train.seed, config.mesh.fsdp) == (7, 2)


def test_a_run_can_be_the_recipe_of_another(workdir):
    words = ["train", f"{workdir}/config.json", "--workdir=other"]
    config = main.read_config(command(*words, "--config.train.total_steps=9"))
    assert (config.train.seed, config.train.total_steps) == (7, 9)
    with pytest.raises(AttributeError):  # it is as strict as a recipe
        config.train.batchsize = 3


def test_a_report_needs_no_run(tmp_path):
    config = main.read_config(command("report", f"--workdir={tmp_path}"))
    assert config == recipes.defaults()


def test_the_home_folder_is_found_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    config = recipes.load("quickstart")
    runs.save_config(config, epath.Path(tmp_path / "run"), ())
    found = main.read_config(
        command(
            "restore",
            "--workdir=~/run",
            "--config.data.source=folder:~/pictures",
            "--config.restore.input=~/photo.png",
            "--config.restore.hole_mask=~/mask.png",
            "--config.restore.output=~/restored",
            "--config.evaluate.inception_weights=~/inception.npz",
            "--config.evaluate.reference=npz:~/reference.npz",
            "--config.sample.guidance_workdir=~/weak",
        )
    )
    assert found.data.source == f"folder:{tmp_path}/pictures"
    assert found.evaluate.reference == f"npz:{tmp_path}/reference.npz"
    assert found.sample.guidance_workdir == f"{tmp_path}/weak"
    assert "~" not in json.dumps(json.loads(found.to_json_best_effort()))
    recipe = tmp_path / "mine.py"
    recipe.write_text("from simple_diffusion.configs.quickstart import get_config")
    assert main.read_config(command("train", "~/mine.py", "--workdir=x")) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--config.data.source=folder:/no/such/folder"],
            "data.source=folder:/no/such",
        ),
        (
            ["--config.model.name=vit"],
            "model.name='vit' must be one of: residual_uvit, unet, uvit",
        ),
        (["--config=imagenet512"], "ILSVRC2012_img_train.tar"),
        (["--mode=sample"], "holds no trained model"),
        (["--mode=restore"], "holds no trained model"),
    ],
)
def test_what_is_wrong_is_said_in_words_and_not_in_a_traceback(flags, said, tmp_path):
    if not any(flag.startswith("--config=") for flag in flags):
        flags = ["--config", "configs/quickstart.py", *flags]
    code, output = run(f"--workdir={tmp_path / 'run'}", *flags)
    assert code == 1
    assert said in output
    assert "Traceback" not in output


def test_a_wrong_flag_needs_no_heavy_import():
    code = "import sys; from simple_diffusion import main; main.run(['--wrkdir=x'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "did you mean --workdir?" in done.stderr
    for heavy in ("jax", "numpy", "ml_collections", "absl"):
        assert f" {heavy}\n" not in done.stderr
