"""The commands and Python blocks of the documentation run, at reduced size.

Commands run in reading order, in one folder, with tiny networks and few steps. Tested
elsewhere are launch scripts (tests/test_launch*.py), benchmarks (tests/benchmarks/) and
installation (tests/test_wheel.py).
"""

import contextlib
import importlib
import json
import runpy
import sys
import tarfile

import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config
from PIL import Image

import simple_diffusion
from simple_diffusion.build import feature_networks, recipes
from simple_diffusion.evaluation import metric_names
from simple_diffusion.modes import convert, prepare
from simple_diffusion.weights import convert_inception, dinov2_layout, weight_files
from tests.build import every_key
from tests.build.text import text_encoder_folders
from tests.docs import check, pages, test_pages
from tests.evaluation.networks import make_dinov2_fixture
from tests.faults import tiny
from tests.modes import small_features
from tests.modes.test_convert import lpips_files, zeros
from tests.pipelines import old_run

pytestmark = pytest.mark.slow
# Beginnings of paths in the documentation -> folders of the test.
PLACES = {"/path/to": "photos", "/data/train": "photos/pictures", "/data": "data"}
TINY = str(pages.ROOT / "tests" / "faults" / "tiny.py")
EXAMPLES = {"train_on_arrays": ["--recipe", TINY, "--steps", "4"]}
# Modules by their beginnings, and a page, whose commands are only parsed.
PARSED_ONLY = ("benchmarks.", "pip", "pre_commit")
SCRIPTS = "launch/README.md"


def localise(argument):
    """Returns an argument with the paths of the documentation replaced."""
    for path, place in PLACES.items():
        if path in argument:
            return argument.replace(path, place, 1)
    return argument


def shrink(config, changed):
    """Reduces a config to seconds of work; keeps the keys that a command sets.

    All recipes get the same network, so that programs are compiled only once: that
    recipes train is tested in tests/configs/.
    """
    kept = {key: get(config, key) for key in changed}
    # Sources that take each other's place in one workdir have unequal classes.
    is_replaced = config.data.source.startswith(("tfds:", "records:", "tar:"))
    with config.unlocked():
        config.model = every_key.tiny_network("uvit")
        config.data.resolution = 16
        config.data.num_classes = 0 if is_replaced else None
        if config.data.source.startswith("tfds:"):
            config.data.source = "scenes"
        if config.data.patches is not None:
            config.data.patches.update(smallest=16, largest=32)
            config.model.position = "rope"
    config.train.update(
        batch_size=8,
        total_steps=4,
        log_every_steps=2,
        checkpoint_every_steps=2,
        sample_every_steps=2,
    )
    config.sample.update(count=8, batch_size=8, steps=2, solver="ddim", also_sizes=())
    config.evaluate.update(
        count=8,
        batch_size=8,
        count_after_training=8,
        reference_features=16,
        reference_count=16,
    )
    config.sweep.update(count=8, guidance=(2.0,), steps=(2,))
    config.restore.update(steps=2)
    for key, value in kept.items():
        section, _, name = key.rpartition(".")
        if isinstance(value, str) and value.startswith("held_out:"):
            value = "held_out:2"
        if name not in ("count", "steps", "guidance"):
            get(config, section)[name] = value
    if config.data.source.startswith("tfds:"):  # which nobody has prepared here
        config.data.update(source="scenes", tfds_fields=None)
    return config


def get(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def run(command, monkeypatch, done):
    """Runs a command of the library; returns whether it is one.

    A command that means the same as one of `done` is not run again.
    """
    arguments = check.main_arguments(command)
    program, *rest = command.words
    if arguments is not None:
        if program not in ("launch/local.sh", "simple-diffusion"):
            return False
        asked, config = check.parse_main([localise(a) for a in arguments])
        if asked in done:
            return True
        done.add(asked)
        config = shrink(config, [key for key, _ in asked.overrides])
        mode = importlib.import_module(f"simple_diffusion.modes.{asked.mode}")
        mode.run(config, asked.workdir)
        return True
    if program not in check.PYTHON or rest[1].startswith(PARSED_ONLY):
        return False
    module, flags = rest[1], [localise(flag) for flag in rest[2:]]
    if module == "simple_diffusion.modes.prepare":
        prepare.main([*flags, "--workers=1"])
    elif module == "simple_diffusion.modes.convert":
        convert.main(flags)
    else:
        name = module.removeprefix("examples.")
        flags += EXAMPLES.get(name, [])
        monkeypatch.setattr(sys, "argv", [module, *flags])
        runpy.run_path(str(pages.ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return True


def make_folder(path):
    path.mkdir(parents=True)
    return path


def write_inputs(folder):
    """Writes the files that the commands read."""
    random = np.random.default_rng(0)
    for k in range(24):
        path = folder / "photos" / "pictures" / "ab"[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 40, 3), np.uint8)).save(path)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(
        folder / "photo.png"
    )
    with tarfile.open(make_folder(folder / "data" / "shards") / "0.tar", "w") as shard:
        for path in sorted((folder / "photos").rglob("*.png")):
            shard.add(path, path.name)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 10:22] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    box = {"class": "car", "box": [0.5, 0.1, 0.9, 0.6]}
    (folder / "boxes.json").write_text(json.dumps([box]))
    weights = {
        "alexnet-owt-7be5be79.pth": lpips_files()["trunk"],
        "alex.pth": lpips_files()["lin"],
        "pt_inception-2015-12-05-6726825d.pth": zeros(
            convert_inception.pytorch_shapes()
        ),
        "dinov2_vitl14_pretrain.pth": make_dinov2_fixture.weights(
            *make_dinov2_fixture.TINY
        ),
    }
    for name, arrays in weights.items():
        weight_files.write(folder / name, arrays)


@contextlib.contextmanager
def without_shape_checks():
    """Saves half of the time of tracing; the same code is checked elsewhere."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Runs all commands in one folder; returns it, how many ran, and failures."""
    folder = tmp_path_factory.mktemp("walk")
    write_inputs(folder)
    (folder / "configs").symlink_to(pages.ROOT / "configs")
    size = dinov2_layout.Size(*make_dinov2_fixture.TINY)
    done, count, failures = set(), 0, []
    with pytest.MonkeyPatch.context() as patch, without_shape_checks():
        patch.chdir(folder)
        patch.setattr(feature_networks, "load_networks", small_features.networks)
        patch.setattr(feature_networks, "check_networks", lambda config: None)
        patch.setattr(feature_networks, "check_weights", lambda config: None)
        patch.setitem(dinov2_layout.MODELS, "dinov2_tiny", size)
        for command in pages.commands():
            if command.page == SCRIPTS:
                continue
            try:
                count += run(command, patch, done)
            except BaseException as error:
                failures.append(f"{command}\n    {type(error).__name__}: {error}")
    return folder, count, failures


def test_the_commands_of_the_documentation_run_in_their_order(walk):
    _, count, failures = walk
    assert not failures, "\n".join(failures)
    assert count >= 25


def test_a_run_holds_the_files_that_the_readme_lists(walk):
    folder = walk[0] / "runs" / "quickstart"
    rows = pages.table(pages.read("README.md"), "What you get")
    for name in test_pages.names(row[0] for row in rows):
        assert (folder / name).exists(), name
    rows = pages.table(pages.read("docs/training.md"), "What a run writes")
    listed = test_pages.names(row[0] for row in rows)
    others = {"metrics", "samples", "exported", "restored", "evaluation", "sweep"}
    written = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert {n for n in written if n.partition("_")[0] not in others} <= {
        name.rstrip("/") for name in listed
    }


def test_every_metric_and_field_that_was_written_has_a_line(walk):
    folder = walk[0]
    described = {
        metric_names.plain_kind(name)
        for heading in test_pages.HEADINGS
        for name in test_pages.column(heading)
    }
    fields = test_pages.column("Fields of `metrics.json`")
    records = list(folder.glob("runs/*/metrics.json"))
    assert len(records) >= 3
    for path in records:
        record = json.loads(path.read_text())
        assert set(record) <= fields, path
        assert {metric_names.plain_kind(n) for n in record["metrics"]} <= described
    for path in folder.glob("runs/*/restored/*/restorations.json"):
        means = json.loads(path.read_text())["means"]
        assert {metric_names.plain_kind(n) for n in means} <= described


@pytest.mark.parametrize(
    "page", sorted({block.page for block in pages.blocks("python")})
)
def test_the_python_blocks_of_a_page_run(page, monkeypatch, tmp_path):
    workdir = old_run.extract(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(workdir)
    photo = np.load(workdir / "samples" / "samples.npz")["arr_0"][0]
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    text_encoder_folders.write_t5(tmp_path / "t5-v1_1-xxl")
    monkeypatch.chdir(tmp_path)
    config = tiny.get_config()
    config.train.update(checkpoint_every_steps=50, log_every_steps=50)
    monkeypatch.setattr(recipes, "load", lambda name: config)
    scope = {}
    for block in pages.blocks("python"):
        if block.page == page:
            exec(block.text, scope)
    if "restored" in scope:
        assert scope["images"].shape == (2, 16, 16, 3)
        assert scope["restored"].images.shape == (4, 16, 16, 3)
        known = mask == 0
        assert (scope["restored"].images[:, known] == photo[known]).all()
        exported = simple_diffusion.load("exported")
        assert repr(exported) == repr(scope["model"])
    if "result" in scope:
        assert scope["result"].status == "complete"
    if "batches" in scope:
        assert [b.features.shape for b in scope["batches"]] == [(2, 128, 32)]
    if "boats" in scope:
        assert scope["boats"].shape == (2, 16, 16, 3)
