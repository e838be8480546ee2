"""Exports: what is written, what is read back, and what is refused."""

import hashlib
import json
import shutil
import sys
import types

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from etils import epath

import simple_diffusion
from simple_diffusion.modes import export as export_mode
from simple_diffusion.pipelines import export, runs
from tests.pipelines import old_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return old_run.extract(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def model(workdir):
    return simple_diffusion.load(workdir)


@pytest.fixture
def folder(model, tmp_path):
    return model.save(tmp_path / "export")


def test_an_export_holds_the_parameters_as_they_are(model, folder):
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    named = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)
    }
    assert stored.keys() == named.keys()
    for name, array in named.items():
        assert stored[name].dtype == np.float32
        np.testing.assert_array_equal(stored[name], array)
    again = simple_diffusion.load(folder)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (model.params, again.params)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.step, again.classes) == (model.step, model.classes)
    assert again.config.to_json_best_effort() == model.config.to_json_best_effort()
    assert again.metrics == model.metrics


def test_the_process_is_described_for_whoever_reads_the_files(folder):
    process = json.loads((folder / "process.json").read_text())
    assert process["prediction"] == "x" and process["family"] == "vp"
    assert process["schedule"]["name"] == "shifted_cosine"
    assert process["size"] == [16, 16] and process["channels"] == 3
    assert process["num_classes"] == process["null_class"] == 12
    assert process["value_range"] == [-1.0, 1.0]
    assert json.loads((folder / "classes.json").read_text())[3] == "boat"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected


def test_half_the_bytes_are_nearly_the_same_model(model, folder, tmp_path):
    half = model.save(tmp_path / "half", dtype="bfloat16")
    sizes = [(f / "model.safetensors").stat().st_size for f in (half, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    rounded = simple_diffusion.load(half)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (model.params, rounded.params)), strict=True
    ):
        # bfloat16 keeps eight bits.
        np.testing.assert_allclose(ours, theirs, rtol=2**-8, atol=1e-30)
    with pytest.raises(ValueError, match="dtype='int8' must be one of: float32, bfl"):
        model.save(tmp_path / "third", dtype="int8")


def test_the_card_is_metadata_that_the_hub_understands(folder):
    text = (folder / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    data = yaml.safe_load(header)
    assert data["library_name"] == "simple_diffusion"
    card = huggingface_hub.ModelCard(text)
    assert card.data.eval_results[0].metric_type
    assert "simple_diffusion.load" in body and "16x16" in body


def test_the_mode_writes_what_the_method_writes(workdir, folder):
    config = runs.load_config(epath.Path(workdir))
    written = export_mode.run(config, str(workdir))
    assert written.name == "export"
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in written.iterdir()} == names
    for name in names - {"README.md", "SHA256SUMS", "config.json"}:
        assert (written / name).read_bytes() == (folder / name).read_bytes()
    config.export.output = "gs://bucket/export"
    with pytest.raises(ValueError, match="export.output=gs://bucket/export"):
        export_mode.run(config, str(workdir))


def test_a_folder_with_other_files_is_left_alone(model, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no export"):
        model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda f: (f / "classes.json").write_text("[]"), "classes.json is damaged"),
        (lambda f: (f / "process.json").write_text("{"), "process.json cannot be read"),
        (
            lambda f: (f / "process.json").write_text('{"format": 99}'),
            "format 99.*upgrade",
        ),
    ],
    ids=["no parameters", "no sums", "changed", "no json", "newer"],
)
def test_damage_is_named(folder, damage, match):
    damage(folder)
    with pytest.raises(ValueError, match=match):
        simple_diffusion.load(folder)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path)
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = [line for line in lines if not line.endswith(path.name)]
    text = "\n".join([*kept, f"{digest}  {path.name}"]) + "\n"
    (folder / "SHA256SUMS").write_text(text)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop(next(iter(a))), "lacks "),
        (lambda a: a.update(extra=np.zeros(3, np.float32)), "has unexpected extra"),
        (
            lambda a: a.update({next(iter(a)): np.zeros((1, 2), np.float32)}),
            r"has other shapes: .* is \[1, 2\], not",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_arrays_of_another_network_are_named(folder, change, match):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=match):
        simple_diffusion.load(folder)


def test_an_export_has_one_set_of_weights(folder):
    with pytest.raises(ValueError, match="weights=params.*load the run instead"):
        simple_diffusion.load(folder, weights="params")


def test_a_model_on_the_hub_is_downloaded_and_loaded(folder, tmp_path, monkeypatch):
    asked = []

    def download(name, revision=None):
        asked.append((name, revision))
        return str(shutil.copytree(folder, tmp_path / f"hub{len(asked)}"))

    fake = types.SimpleNamespace(snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert simple_diffusion.load("hf:someone/boats@v2").step == 8
    simple_diffusion.load("hf:someone/boats")
    assert asked == [("someone/boats", "v2"), ("someone/boats", None)]


def test_without_the_extra_the_hub_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install.*simple_diffusion\[hub\]"):
        simple_diffusion.load("hf:someone/boats")


def test_an_export_is_written_anew_without_leftovers(model, folder):
    assert (folder / "samples.png").exists()
    bare = export.Exported(model.config, model.trained, "ema", {}, None)
    export.save(bare, folder)
    assert not (folder / "samples.png").exists()
    assert not (folder / "metrics.json").exists()
    assert simple_diffusion.load(folder).metrics == {}
