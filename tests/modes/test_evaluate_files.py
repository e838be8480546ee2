import json

import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.modes import evaluate
from tests.modes import small_features
from tests.modes.small_features import files_config, write_folder

pytestmark = pytest.mark.usefixtures("small_networks")


def test_a_file_that_is_sorted_is_compared_with_fairly(tmp_path):
    shades = np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 4)
    images = np.broadcast_to(shades[:, None, None, None], (240, 8, 8, 3))
    np.savez(tmp_path / "sorted.npz", images)
    spec = f"npz:{tmp_path / 'sorted.npz'}"
    config = files_config(spec, spec)
    config.evaluate.update(reference_features=60, metrics=("fd", "precision_recall"))
    metrics = evaluate.run(config, str(tmp_path))
    assert metrics["fd_thumbnail_240"] == pytest.approx(0, abs=1e-9)
    # Of the first 60, a quarter of the shades, it would be a quarter.
    assert metrics["precision_thumbnail_240"] > 0.7


def test_the_distance_of_a_folder_from_itself_is_zero(tmp_path, photos):
    spec = write_folder(tmp_path / "a", photos)
    metrics = evaluate.run(files_config(spec, spec), str(tmp_path / "out"))
    assert metrics["fd_thumbnail_12"] == pytest.approx(0, abs=1e-9)
    other = write_folder(tmp_path / "b", photos // 2)
    metrics = evaluate.run(files_config(other, spec), str(tmp_path / "out"))
    assert metrics["fd_thumbnail_12"] > 0.05
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["samples"] == other
    assert record["reference"]["what"] == spec


def test_an_npz_file_equals_the_folder_of_its_images(tmp_path, photos):
    spec = write_folder(tmp_path / "a", photos)
    np.savez(tmp_path / "in_order.npz", photos // 2)
    np.savez(tmp_path / "turned.npz", np.asfortranarray(photos // 2))
    found = [
        evaluate.run(files_config(f"npz:{tmp_path / name}", spec), str(tmp_path))
        for name in ("in_order.npz", "turned.npz")
    ]
    other = write_folder(tmp_path / "b", photos // 2)
    assert found[0] == evaluate.run(files_config(other, spec), str(tmp_path))
    assert found[0] == found[1]


def test_published_statistics_can_be_the_reference(tmp_path, photos):
    spec = write_folder(tmp_path / "a", photos)
    rows = np.asarray(
        small_features.corners({}, jnp.asarray(photos)).features, np.float64
    )
    space = rows[:, :2]
    stats = dict(mu=rows.mean(0), sigma=np.cov(rows.T))
    stats |= dict(mu_s=space.mean(0), sigma_s=np.cov(space.T))
    np.savez(tmp_path / "adm.npz", photos[:8], **stats)
    np.savez(tmp_path / "fid.npz", mu=stats["mu"], sigma=stats["sigma"])
    for name, kinds in (("adm", {"fid", "sfid", "kid"}), ("fid", {"fid"})):
        config = files_config(spec, f"npz:{tmp_path / name}.npz")
        with pytest.raises(ValueError, match="need evaluate.networks"):
            evaluate.run(config, str(tmp_path))
        config.evaluate.networks = ("inception", "thumbnail")
        config.evaluate.metrics = ("fd", "sfid", "kd", "precision_recall")
        metrics = evaluate.run(config, str(tmp_path))
        assert metrics["fid_12"] == pytest.approx(0, abs=1e-6)
        record = json.loads((tmp_path / "comparison.json").read_text())
        assert record["counts"]["fid_12"] == [
            12,
            None,
        ]  # the file does not state how many
        assert kinds <= {name.split("_")[0] for name in metrics}
        assert ("precision_12" in metrics) == (name == "adm")
        notes = " ".join(record["notes"])
        rule = "tf1_bilinear" if name == "adm" else "torch_bilinear"
        assert notes.count(f"most likely by {rule}; with evaluate.resize=none") == 1
        assert ("fd_thumbnail_12" in metrics) == (name == "adm")  # of its images
        assert ("sfid of inception is not computed" in notes) == (name == "fid")


@pytest.mark.parametrize("change", [dict(labels="boat"), dict(also_sizes=("8x8",))])
def test_settings_for_samples_of_a_model_are_refused_with_files(
    tmp_path, photos, change
):
    config = files_config(write_folder(tmp_path / "a", photos), "data")
    config.evaluate.update(change)
    (key,) = change
    with pytest.raises(ValueError, match=f"evaluate.{key}=.* is for the samples of a"):
        evaluate.run(config, str(tmp_path))


def test_more_reference_images_than_there_are_is_an_error(tmp_path, photos):
    config = files_config(write_folder(tmp_path / "a", photos), "data")
    config.data.source = config.evaluate.samples
    config.evaluate.reference_count = 13  # and one of twelve is held out
    with pytest.raises(ValueError, match="reference_count=13 is more than the 11 imag"):
        evaluate.run(config, str(tmp_path))
    config.evaluate.reference_count = 11
    evaluate.run(config, str(tmp_path))
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["counts"]["fd_thumbnail_12"] == [12, 11]


def test_images_of_several_sizes_name_two_of_them(tmp_path, photos):
    spec = write_folder(tmp_path / "a", [*photos[:3], photos[3][:8]])
    config = files_config(spec, spec)
    with pytest.raises(ValueError, match="000.png has 16x16 .*003.png has 8x16"):
        evaluate.run(config, str(tmp_path))
    config.evaluate.size = "8x8"
    assert evaluate.run(config, str(tmp_path))["fd_thumbnail_4"] < 1e-9


def test_images_that_are_enlarged_are_named(tmp_path, photos, capsys):
    spec = write_folder(tmp_path / "a", [*photos[:3], photos[3][:8]])
    config = files_config(spec, spec)
    config.evaluate.size = "16x16"
    evaluate.run(config, str(tmp_path))
    said = "003.png of 8x16 pixels is enlarged to 16x16, blurred (images so far: 1)"
    printed = capsys.readouterr().out
    assert said in printed and "000.png of" not in printed
    np.savez(tmp_path / "b.npz", photos)
    config = files_config(f"npz:{tmp_path / 'b.npz'}", f"npz:{tmp_path / 'b.npz'}")
    config.evaluate.size = "32x32"
    evaluate.run(config, str(tmp_path))
    assert (
        "b.npz: image 0 of 16x16 pixels is enlarged to 32x32" in capsys.readouterr().out
    )


def test_samples_and_reference_of_two_sizes_are_an_error(tmp_path, photos):
    large = write_folder(tmp_path / "a", photos)
    small = write_folder(tmp_path / "b", photos[:, :8, :8])
    with pytest.raises(ValueError, match="8x8 pixels cannot be .*evaluate.size"):
        evaluate.run(files_config(small, large), str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: f"folder:{d / 'none'}", "evaluate.samples=folder:.*does not exist"),
        (lambda d: f"folder:{d}", "no image in this folder"),
        (lambda d: f"{d}", "must be model, folder:PATH or npz:FILE"),
        (lambda d: f"npz:{_save(d, text='x')}", "is not an .npz file"),
        (lambda d: f"npz:{_save(d, a=np.zeros(3))}", "no images .arr_0."),
        (lambda d: f"npz:{_save(d, arr_0=np.zeros((2, 8, 8, 3)))}", "must be uint8"),
        (
            lambda d: (
                f"npz:{_save(d, arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=[1])}"
            ),
            "one class per image, 2 of them",
        ),
    ],
)
def test_files_that_cannot_be_evaluated_are_an_error_with_the_reason(
    tmp_path, photos, make, message
):
    (tmp_path / "x").mkdir()
    good = write_folder(tmp_path / "good", photos)
    with pytest.raises(ValueError, match=message):
        evaluate.run(files_config(make(tmp_path / "x"), good), str(tmp_path))


def _save(folder, text=None, **arrays):
    path = folder / "images.npz"
    path.write_text(text) if text else np.savez(path, **arrays)
    return path


def test_a_broken_image_is_named(tmp_path, photos):
    spec = write_folder(tmp_path / "a", photos[:4])
    (tmp_path / "a" / "002.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="002.png"):
        evaluate.run(files_config(spec, spec), str(tmp_path))
