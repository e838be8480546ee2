"""Mode `restore` from the command line: pictures, a sheet and a record."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.core import images
from simple_diffusion.modes import restore, train
from simple_diffusion.pipelines import programs
from simple_diffusion.pipelines.restoration import masks, outputs
from simple_diffusion.training import checkpoint, store
from simple_diffusion.weights import lpips_layout
from tests.modes import test_modes

pytestmark = pytest.mark.slow  # whole runs


def tiny(**changes):
    config = test_modes.tiny()
    config.ema.power = ()
    config.ema.snapshot_every_steps = 0
    config.optimizer.warmup_steps = 1
    config.train.update(total_steps=2, checkpoint_every_steps=2, sample_every_steps=0)
    config.restore.update(steps=3, factor=2, ratio=0.25, block_side=8)
    config.restore.update(**changes)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.run(tiny(), str(folder))
    return folder


def picture(seed, size=(16, 16)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Three pictures, one of them in a subfolder."""
    for seed, name in enumerate(("a", "b", "below/c")):
        images.write_png(tmp_path / "photos" / f"{name}.png", picture(seed))
    return tmp_path / "photos"


def mask(size=(16, 16), hole=(slice(4, 9), slice(5, 12))):
    found = np.zeros((*size, 1), np.uint8)
    found[hole] = 255
    return found


def run(trained, out, **changes):
    return restore.run(tiny(output=str(out), **changes), str(trained))


def restored(result, name, k=0):
    """Returns one restoration of an input."""
    return images.read_png(result.folder / result.files[name][k])


def test_in_painting_keeps_known_pixels_to_the_bit(trained, photos, tmp_path, capsys):
    images.write_png(tmp_path / "mask.png", mask())
    result = run(
        trained,
        tmp_path / "out",
        task="inpaint",
        input=str(photos),
        hole_mask=str(tmp_path / "mask.png"),
        samples=2,
    )
    assert sorted(result.files) == ["a", "b", "below/c"]
    assert result.files["below/c"] == [
        "images/below/c_0.png", "images/below/c_1.png", "inputs/below/c.png",
        "masks/below/c.png",
    ]  # fmt: skip
    known = mask()[..., 0] == 0
    for seed, name in enumerate(("a", "b", "below/c")):
        for k in range(2):
            saved = restored(result, name, k)
            np.testing.assert_array_equal(saved[known], picture(seed)[known])
        assert (restored(result, name, 0) != restored(result, name, 1)).any()
        hole = images.read_png(result.folder / "masks" / f"{name}.png")
        np.testing.assert_array_equal(hole[..., :1], mask())
    said = capsys.readouterr().out
    assert [f"{k}/3  {name}  residual" in said for k, name in
            enumerate(("a", "b", "below/c"), 1)] == [True] * 3  # fmt: skip
    assert " left" not in said  # after the last one, nothing is
    # Without an original there are no metrics of the distance to it.
    assert set(result.metrics) == {"residual", "residual_stored"}
    assert result.metrics["residual_stored"] < 1e-6


def test_a_degraded_photo_is_compared_with_what_it_was(trained, photos, tmp_path):
    out = tmp_path / "out"
    result = run(trained, out, task="super_resolution", input=str(photos), degrade=True)
    record = json.loads((out / "restorations.json").read_text())
    assert record["means"] == pytest.approx(result.metrics)
    assert set(record["inputs"]) == {"a", "b", "below/c"}
    measured = {"residual", "residual_stored", "psnr", "psnr_input", "ssim"}
    assert set(record["inputs"]["a"]) == measured | {"ssim_input", "label"}
    assert record["inputs"]["a"]["label"] == 12  # of 12 classes: none
    assert record["sample"]["weights"] == "ema"
    assert record["restore"]["task"] == "super_resolution"
    assert record["network_calls"] == 3 and record["step"] == 2
    assert result.metrics["residual"] < 1e-5
    low, high = record["intervals"]["psnr"]
    assert low < result.metrics["psnr"] < high
    each = [record["inputs"][name]["psnr"][0] for name in ("a", "b", "below/c")]
    assert min(each) <= low and high <= max(each)
    small = images.read_png(out / "inputs" / "a.png")
    assert small.shape == (8, 8, 3)
    want = picture(0).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - want).max() <= 1
    # Three rows of an input, its restoration and its original, six times enlarged.
    sheet = images.read_png(out / "sheet.png")
    assert sheet.shape == (3 * 98 + 2, 3 * 98 + 2, 3)
    np.testing.assert_array_equal(sheet[2:98:6, 198:294:6], picture(0))
    np.testing.assert_array_equal(sheet[2:98:12, 2:98:12], small)


def test_a_stored_measurement_can_be_an_input(trained, photos, tmp_path):
    first = tmp_path / "first"
    run(trained, first, task="super_resolution", input=str(photos), degrade=True)
    again = run(
        trained, tmp_path / "again", task="super_resolution",
        input=str(first / "inputs" / "b.png"),
    )  # fmt: skip
    found = restored(again, "b")
    assert found.shape == (16, 16, 3)
    blocks = found.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    small = images.read_png(first / "inputs" / "b.png")
    # Only rounding may differ, except where values were clipped to 0 or 255.
    assert np.median(np.abs(blocks - small)) < 1


def test_measurements_are_files_of_numbers(trained, photos, tmp_path):
    first = tmp_path / "first"
    how = dict(task="sense", sensing="hadamard")
    one = run(trained, first, input=str(photos), degrade=True, **how)
    assert np.load(first / "inputs" / "a.npy").shape == (64, 3)
    again = run(
        trained, tmp_path / "again", input=str(first / "inputs"), size="16x16", **how
    )  # fmt: skip
    assert sorted(again.files) == ["a", "b", "below/c"]
    np.testing.assert_array_equal(restored(one, "a"), restored(again, "a"))


def test_a_restoration_depends_only_on_its_own_name(trained, photos, tmp_path):
    how = dict(task="colourise", degrade=True)
    many = run(trained, tmp_path / "a", input=str(photos), samples=2, **how)
    config = tiny(output=str(tmp_path / "b"), input=str(photos / "b.png"), **how)
    config.sample.batch_size = 8
    one = restore.run(config, str(trained))
    found = restored(one, "b").astype(int)
    # Another batch size may round the last bit differently before uint8.
    assert np.abs(restored(many, "b", 0).astype(int) - found).max() <= 1
    assert np.abs(restored(many, "b", 1).astype(int) - found).max() > 1


def test_one_photo_is_not_a_batch_of_copies(trained, photos, tmp_path, monkeypatch):
    sizes = []
    compile_program = programs.compile_program

    def watched(function, mesh, batch_size, windows):
        sizes.append(batch_size)
        return compile_program(function, mesh, batch_size, windows)

    monkeypatch.setattr(programs, "compile_program", watched)
    how = dict(task="colourise", degrade=True, input=str(photos / "a.png"))
    run(trained, tmp_path / "out", samples=2, **how)
    assert sizes == [2]


def test_results_of_an_earlier_run_are_replaced(trained, photos, tmp_path):
    how = dict(task="colourise", degrade=True, input=str(photos))
    run(trained, tmp_path / "out", samples=2, **how)
    (tmp_path / "out" / "images" / "mine.png").write_bytes(b"kept")
    (photos / "b.png").unlink()
    run(trained, tmp_path / "out", **how)
    left = (tmp_path / "out" / "images").rglob("*.png")
    names = sorted(p.relative_to(tmp_path / "out" / "images").as_posix() for p in left)
    assert names == ["a.png", "below/c.png", "mine.png"]


@pytest.mark.parametrize("key", ["input", "hole_mask"])
def test_a_run_does_not_remove_what_it_reads(trained, photos, tmp_path, key):
    out = tmp_path / "out"
    how = dict(task="inpaint", input=str(photos), hole_mask="box:4x4")
    run(trained, out, **how)
    before = sorted(out.rglob("*"))
    again = {"input": str(out / "inputs"), "hole_mask": str(out / "masks")}
    with pytest.raises(ValueError, match=f"overlaps with restore.{key}=.*would mix"):
        run(trained, out, **how | {key: again[key]})
    assert sorted(out.rglob("*")) == before
    # Elsewhere it may.
    run(trained, tmp_path / "other", **how | {key: again[key]})


def test_names_that_would_overwrite_each_other_do_not(trained, tmp_path):
    for name in ("a.png", "a.bmp", "sheet.png"):
        pixels = Image.fromarray(picture(len(name)))
        (tmp_path / "in").mkdir(exist_ok=True)
        pixels.save(tmp_path / "in" / name)
    images.write_png(tmp_path / "in" / "mask.png", mask())
    result = run(
        trained, tmp_path / "out", task="inpaint", input=str(tmp_path / "in"),
        hole_mask=str(tmp_path / "in" / "mask.png"),
    )  # fmt: skip
    # The mask is in the input folder but is not an input.
    assert sorted(result.files) == ["a_bmp", "a_png", "sheet"]


def test_a_stopped_run_keeps_its_finished_restorations(
    trained, photos, tmp_path, monkeypatch
):
    write = outputs.write

    def stopped(folder, lost, one):
        if one.name == "b":
            raise KeyboardInterrupt
        return write(folder, lost, one)

    monkeypatch.setattr(outputs, "write", stopped)
    how = dict(task="colourise", degrade=True, input=str(photos))
    with pytest.raises(KeyboardInterrupt):
        run(trained, tmp_path / "out", **how)
    record = json.loads((tmp_path / "out" / "restorations.json").read_text())
    assert set(record["inputs"]) == {"a"}
    assert (tmp_path / "out" / "images" / "a.png").exists()


def test_a_grey_photograph_is_given_colours(trained, tmp_path):
    grey = np.broadcast_to(picture(0)[..., :1], (16, 16, 1))
    images.write_png(tmp_path / "old.png", grey)
    path = str(tmp_path / "old.png")
    result = run(trained, tmp_path / "out", task="colourise", input=path)
    found = restored(result, "old").astype(float)
    assert np.ptp(found, axis=2).max() > 0
    assert result.metrics["residual"] < 1e-5


def test_images_of_several_sizes_are_restored(trained, tmp_path, capsys):
    sizes = {"a": (16, 16), "b": (16, 24), "c": (16, 16)}
    for name, size in sizes.items():
        images.write_png(tmp_path / "in" / f"{name}.png", picture(0, size))
    result = run(
        trained, tmp_path / "out", task="inpaint", input=str(tmp_path / "in"),
        hole_mask="random:0.5",
    )  # fmt: skip
    assert {n: restored(result, n).shape[:2] for n in result.files} == sizes
    hole = images.read_png(result.folder / "masks" / "a.png")[..., 0]
    assert (hole == 255).sum() == 128 and set(np.unique(hole)) == {0, 255}
    other = images.read_png(result.folder / "masks" / "c.png")[..., 0]
    assert (hole != other).any()
    said = capsys.readouterr().out
    assert said.count("restore.size=16x16 resizes the inputs") == 1  # for 16x24


def test_larger_images_are_restored_in_windows(trained, tmp_path, capsys):
    images.write_png(tmp_path / "wide.png", picture(0, (16, 48)))
    config = tiny(
        output=str(tmp_path / "out"), input=str(tmp_path / "wide.png"), degrade=True,
        task="super_resolution",
    )  # fmt: skip
    config.sample.window = 16
    result = restore.run(config, str(trained))
    assert restored(result, "wide").shape == (16, 48, 3)
    assert result.metrics["residual"] < 1e-5
    said = capsys.readouterr().out
    assert "5 windows an image" in said
    assert "note:" not in said


def test_a_size_brings_photo_and_mask_to_it(trained, tmp_path):
    big, hole = np.zeros((40, 64, 3), np.uint8), np.zeros((40, 64, 1), np.uint8)
    hole[:20, 12:32] = 255  # a quarter of the square in the middle
    images.write_png(tmp_path / "big.png", big)
    images.write_png(tmp_path / "hole.png", hole)
    result = run(
        trained, tmp_path / "out", task="inpaint", input=str(tmp_path / "big.png"),
        hole_mask=str(tmp_path / "hole.png"), size="16x16",
    )  # fmt: skip
    found = images.read_png(result.folder / "masks" / "big.png")[..., 0]
    want = np.zeros((16, 16), np.uint8)
    want[:8, :8] = 255
    np.testing.assert_array_equal(found, want)


def test_held_out_images_and_their_classes(trained, tmp_path):
    result = run(
        trained, tmp_path / "out", task="inpaint", input="held_out:5", degrade=True,
        hole_mask="box:8x8", classes="sunset,house",
    )  # fmt: skip
    assert len(result.files) == 5
    assert all(restored(result, name).shape == (16, 16, 3) for name in result.files)
    assert result.metrics["psnr"] > 0
    record = json.loads((result.folder / "restorations.json").read_text())
    told = [found["label"] for found in record["inputs"].values()]
    assert told == [0, 2, 0, 2, 0]


def test_lpips_is_reported_where_weights_are_given(trained, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        name: np.abs(rng.normal(size=shape)).astype(np.float32) / 50
        for name, shape in lpips_layout.shapes("vgg").items()
    }
    np.savez(tmp_path / "vgg.npz", trunk="vgg", **arrays)
    images.write_png(tmp_path / "a.png", picture(0))
    how = dict(task="inpaint", hole_mask="box:4x4", degrade=True)
    weights = str(tmp_path / "vgg.npz")
    one = run(trained, tmp_path / "out", input=str(tmp_path / "a.png"),
              lpips_weights=weights, **how)  # fmt: skip
    assert one.metrics["lpips_vgg"] > 0
    record = json.loads((one.folder / "restorations.json").read_text())
    assert record["lpips"]["trunk"] == "vgg" and record["lpips"]["sha256"]


def test_one_bad_file_is_reported_and_does_not_stop_the_rest(
    trained, photos, tmp_path, capsys
):
    place = tmp_path / "masks"
    images.write_png(place / "a.png", mask())
    images.write_png(place / "below" / "c.png", mask())
    (photos / "broken.png").write_bytes(b"\x89PNG no more")
    result = run(
        trained, tmp_path / "out", task="inpaint", input=str(photos),
        hole_mask=str(place),
    )  # fmt: skip
    assert sorted(result.files) == ["a", "below/c"]
    assert set(result.failed) == {"b", "broken"}
    said = capsys.readouterr().out
    assert "2 of 4 inputs were not restored:" in said
    assert "holds no mask named b" in said and "broken.png: not an image" in said
    record = json.loads((tmp_path / "out" / "restorations.json").read_text())
    assert set(record["failed"]) == {"b", "broken"}


def test_a_folder_of_which_nothing_can_be_restored_is_an_error(
    trained, photos, tmp_path
):
    with pytest.raises(ValueError, match="none of 3 inputs.*restore.hole_mask"):
        run(
            trained, tmp_path / "out", task="inpaint", input=str(photos),
            hole_mask=str(tmp_path),
        )  # fmt: skip


def grey(path):
    Image.fromarray(picture(0)[..., 0]).save(path)


def soft(path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(task="inpaint", hole_mask="SMALL"), "8x8 pixels, one has 16x16"),
        (dict(task="inpaint", hole_mask="SOFT"), "black .known. and white .*99.*%"),
        (dict(task="inpaint", hole_mask="NONE"), "hole_mask=.*NONE.png does not exi"),
        (dict(task="inpaint", hole_mask="box:17x4"), "box:17x4 does not fit"),
        (dict(task="inpaint", hole_mask="random:2"), "must be random:SHARE"),
        (
            dict(task="inpaint", hole_mask="GREY", input="GREY"),
            "colourise, or store it as RGB",
        ),
        (dict(task="super_resolution", degrade=True, factor=32), "restore.factor=32"),
        (
            dict(task="super_resolution", degrade=True, factor=3),
            "nearest size is 15x15",
        ),
        (dict(task="super_resolution", size="18x17"), "multiple of restore.factor=2"),
        (dict(task="super_resolution", factor=1, size="17x16"), "restore.size=17x16"),
        (dict(task="colourise"), "is in colour.*restore.degrade=True"),
        (dict(task="sense"), "restore.size=HxW must be set"),
        (dict(task="sense", size="16x16"), "restore.degrade=True"),
        (dict(task="sense", size="16x16", input="SHAPE"), r"\[5, 3\]; for an image of"),
        (dict(task="sense", size="16x16", input="TEXT"), "not a NumPy array"),
        (dict(task="inpaint", hole_mask="box:2x2", input="held_out:0"), "at least 1"),
        (dict(task="inpaint", hole_mask="box:2x2", input="held_out:2"), "degrade=True"),
        (dict(task="inpaint", hole_mask="box:2x2", input="NONE"), "does not exist"),
        (dict(task="inpaint", hole_mask="box:2x2", input="EMPTY"), "holds no image"),
        (
            dict(task="inpaint", hole_mask="box:2x2", input="HERE", output="BELOW"),
            "would mix",
        ),
        (
            dict(
                task="inpaint", hole_mask="box:2x2", lpips_weights="NONE", degrade=True
            ),
            "restore.lpips_weights: .*NONE.png",
        ),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_bad_input_names_the_key_to_change(trained, tmp_path, changes, match):
    images.write_png(tmp_path / "one.png", picture(0))
    images.write_png(tmp_path / "SMALL.png", mask((8, 8)))
    grey(tmp_path / "GREY.png")
    soft(tmp_path / "SOFT.png")
    np.save(tmp_path / "SHAPE.npy", np.zeros((5, 3), np.float32))
    (tmp_path / "TEXT.npy").write_text("no numbers")
    (tmp_path / "EMPTY").mkdir()
    places = {"SHAPE": "SHAPE.npy", "TEXT": "TEXT.npy", "EMPTY": "EMPTY", "HERE": ""}
    places |= {"BELOW": "below/out"}
    places |= {name: f"{name}.png" for name in ("SMALL", "SOFT", "GREY", "NONE")}
    changes = {
        key: str(tmp_path / places[value]) if value in places else value
        for key, value in changes.items()
    }
    changes = {"input": str(tmp_path / "one.png")} | changes
    out = changes.pop("output", tmp_path.parent / f"{tmp_path.name}_out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=match):
        run(trained, out, **changes)
    assert sorted(tmp_path.rglob("*")) == before and not Path(out).exists()


def test_a_checkpoint_without_an_average_names_the_key(trained, tmp_path, monkeypatch):
    images.write_png(tmp_path / "one.png", picture(0))

    def missing(*_, **__):
        raise store.MissingTree("ema_main: not in the checkpoint")

    monkeypatch.setattr(checkpoint, "restore_params", missing)
    with pytest.raises(ValueError, match="sample.weights=ema.*sample.weights=params"):
        run(
            trained, tmp_path / "out", task="inpaint", hole_mask="box:2x2",
            input=str(tmp_path / "one.png"),
        )  # fmt: skip


def test_the_mask_of_an_input_is_found_whatever_its_suffix(tmp_path):
    images.write_png(tmp_path / "a.png", mask())
    assert masks.find_mask(tmp_path, "a") == tmp_path / "a.png"
