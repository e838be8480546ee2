import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data as build_data
from simple_diffusion.configs import base
from simple_diffusion.data import patches, pipeline
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.records import records_source, shards
from simple_diffusion.data.sources import catalogue, protocols
from tests.data import pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return pictures.make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def native(images, tmp_path_factory):
    return pictures.prepare(images, tmp_path_factory.mktemp("native"))


def both(images, prepared, split="train", **options):
    """Returns the folder and the records, as sources."""
    specs = (f"folder:{images}", f"records:{prepared}")
    return [catalogue.open_source(spec, split=split, **options) for spec in specs]


def change_bytes(path, where, count=1):
    data = bytearray(path.read_bytes())
    data[where : where + count] = bytes(255 - v for v in data[where : where + count])
    path.write_bytes(data)


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_native_records_are_the_images_of_the_folder_bit_for_bit(images, native, split):
    folder, prepared = both(images, native, split, holdout_fraction=0.3)
    assert isinstance(prepared, protocols.Source)
    assert isinstance(prepared, protocols.CropSource)
    assert prepared.class_names == folder.class_names
    assert len(prepared) == len(folder) > 5
    distribution = patches.PatchDistribution(8, 8, 16, flip=True)
    for k in range(len(folder)):
        for resolution in (4, 100):
            example, again = folder.read(k, resolution), prepared.read(k, resolution)
            assert (example.image == again.image).all()
            assert example.label == again.label

        def choose(h, w, k=k):
            return distribution.choose_crop(distribution.draw(0, k), h, w)

        example, crop = folder.read_crop(k, choose)
        again, crop_again = prepared.read_crop(k, choose)
        assert (example.image == again.image).all()
        assert (crop, example.label) == (crop_again, again.label)
        relative = os.path.relpath(folder.name(k), images)
        assert prepared.name(k) == f"{native}: {relative}"


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.99])
def test_what_is_held_out_of_a_folder_is_held_out_of_its_records(
    tmp_path, count, fraction
):
    images = pictures.make(tmp_path / "images", count)
    prepared = pictures.prepare(images, tmp_path / "records")
    for split in ("train", "holdout"):
        folder, same = both(images, prepared, split, holdout_fraction=fraction)
        assert [same.name(k).split(": ")[1] for k in range(len(same))] == [
            os.path.relpath(folder.name(k), images) for k in range(len(folder))
        ]


@pytest.mark.parametrize("by_number", [False, True])
def test_no_record_is_in_both_splits_and_each_is_in_one(native, tmp_path, by_number):
    """Whether names decide what is held out, or the order of a TFDS dataset."""
    root = shutil.copytree(native, tmp_path / "records")
    manifest = shards.load(epath.Path(root))
    if by_number:
        manifest = dataclasses.replace(manifest, holdout_from=manifest.count - 7)
        (root / shards.MANIFEST).write_text(manifest.to_json())
    train, holdout = (
        catalogue.open_source(f"records:{root}", split=split, holdout_fraction=0.3)
        for split in ("train", "holdout")
    )
    names, held_out = (
        [source.name(k).split(": ")[1] for k in range(len(source))]
        for source in (train, holdout)
    )
    stored = shards.load_names(epath.Path(root), manifest)
    assert sorted(names + held_out) == sorted(stored)
    if by_number:
        assert held_out == stored[-7:]
    else:
        assert 0.1 < len(held_out) / len(stored) < 0.5


def assert_same_batches(one, other, count=3):
    for _ in range(count):
        batch, same = next(one), next(other)
        for field in ("image", "label", "box", "mask"):
            assert (getattr(batch, field) == getattr(same, field)).all()
    one.close()
    other.close()


@pytest.mark.parametrize(
    "distribution", [None, patches.PatchDistribution(8, 8, 16, flip=True)]
)
def test_batches_of_native_records_are_those_of_the_folder(
    images, native, distribution
):
    options = dict(batch_size=8, size=(8, 8), seed=3, flip=True, patches=distribution)
    for step in (0, 7):
        trained = [
            pipeline.train_batches(source, start_step=step, **options)
            for source in both(images, native)
        ]
        assert_same_batches(*trained)
    what = {"patches": distribution} if distribution else {"size": (8, 12)}
    held_out = [
        pipeline.eval_batches(source, batch_size=4, **what)
        for source in both(images, native, "holdout", holdout_fraction=0.2)
    ]
    assert_same_batches(*held_out, count=1)


def test_a_config_trains_on_records(native):
    config = base.default()
    config.data.source = f"records:{native}"
    config.data.resolution = 16
    config.train.batch_size = 4
    data = build_data.open_data(config)
    assert data.class_names == ("cat", "dog", "dog-like")
    batches = data.train(5)
    assert next(batches).image.shape == (4, 16, 16, 3)
    batches.close()


def test_threads_read_what_one_reads_however_few_shards_are_open(native, monkeypatch):
    monkeypatch.setattr(records_source, "_MAX_OPEN_SHARDS", 2)
    source = catalogue.open_source(f"records:{native}")
    assert len(source._ends) > 4
    alone = [source.read(k, 100).image for k in range(len(source))]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(source)), 20))
    with futures.ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda k: source.read(int(k), 100).image, order)
        assert all((alone[k] == v).all() for k, v in zip(order, together, strict=True))
    assert source._open_shard.cache_info().currsize == 2


def test_a_broken_record_is_named_by_its_original_file(tmp_path, capsys):
    images = pictures.make(tmp_path / "images", 20)
    root = pictures.prepare(images, tmp_path / "records", shard_megabytes=1.0)
    whole = catalogue.open_source(
        f"records:{root}", split="train", holdout_fraction=0.0
    )
    (file,) = root.glob("*.array_record")
    victim = whole._read_record(4)[0].getvalue()
    change_bytes(file, file.read_bytes().index(victim) + 20)
    source = catalogue.open_source(f"records:{root}", holdout_fraction=0.0)
    name = whole.name(4)
    with pytest.raises(BadImage, match=rf"{name}: damaged record, number 4 of records"):
        source.read(4, 8)
    with pytest.raises(BadImage, match=name):
        source.read_crop(4, lambda h, w: None)
    assert source.name(4) == name
    for k in (3, 5):
        assert (source.read(k, 8).image == whole.read(k, 8).image).all()
    batches = pipeline.eval_batches(source, batch_size=len(source), size=(8, 8))
    assert next(batches).mask.sum() == len(source) - 1
    assert f"skipped an image: {name}" in capsys.readouterr().out
    batches.close()


def test_a_crop_box_is_cut_out_of_every_record(images, native):
    folder, prepared = both(images, native, crop_box=(1, 2, 15, 20))
    assert (folder.read(3, 100).image == prepared.read(3, 100).image).all()
    assert prepared.read(3, 100).image.shape == (14, 18, 3)


def test_names_that_are_no_text_are_kept(tmp_path):
    images = tmp_path / "images"
    for name in (b"a\nb.png", b"\xff.png", "ü.png".encode()):
        pictures.make(tmp_path / "one", 8)
        images.mkdir(exist_ok=True)
        (tmp_path / "one" / "dog" / "007.png").rename(images / os.fsdecode(name))
    root = pictures.prepare(images, tmp_path / "records")
    folder, prepared = both(images, root)
    assert len(folder) == len(prepared) == 2
    assert (folder.read(0, 8).image == prepared.read(0, 8).image).all()
    place = epath.Path(root)
    assert shards.load_names(place, shards.load(place)) == sorted(os.listdir(images))


def test_images_smaller_than_needed_are_reported_once(images, tmp_path, capsys):
    options = dict(size=16, resize="area", quality=95)
    root = pictures.prepare(images, tmp_path / "records", **options)
    source = catalogue.open_source(f"records:{root}")
    source.read(0, 16)
    assert not capsys.readouterr().out
    source.read(0, 32)
    source.read(1, 32)
    (line,) = capsys.readouterr().out.splitlines()
    assert "--size 16, but images of 32 pixels are needed" in line


def test_reading_records_needs_no_tensorflow():
    code = (
        "import sys, simple_diffusion.data.records.records_source\n"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'jax', 'flax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_that_was_never_prepared_says_how_to(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/gone does not exist(.*\n)+.*prep"):
        catalogue.open_source(f"records:{tmp_path}/gone")
    with pytest.raises(DataError, match="is not finished, there is no manifest.json"):
        catalogue.open_source(f"records:{tmp_path}")


def test_a_bare_path_of_records_is_answered_with_how_to_write_it(native):
    with pytest.raises(DataError, match=f"write records:{native}"):
        catalogue.open_source(str(native))


def test_without_array_record_records_are_an_error_and_other_sources_work(
    images, native, monkeypatch
):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(DataError, match="need the package array_record.*folder:PATH"):
        catalogue.open_source(f"records:{native}")
    config = base.default()
    config.data.update(source=f"folder:{images}", resolution=8)
    config.train.batch_size = 2
    batch = next(build_data.open_data(config).train(0))
    assert batch.image.shape == (2, 8, 8, 3)
