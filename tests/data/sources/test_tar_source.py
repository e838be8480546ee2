import io
import json
import os
import re
import tarfile
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.core import console
from simple_diffusion.data import order, patches
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.data.stored import tar_index


@pytest.fixture(autouse=True)
def prints_again(monkeypatch):
    """Lets every test see the lines that are printed once for each process."""
    monkeypatch.setattr(console, "_printed", set())


def image(shade, kind="png", size=(6, 8), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size[::-1], shade).save(file, kind)
    return file.getvalue()


def sample(k, **fields):
    """Returns the files of sample number k; a field that is None is left out."""
    key = f"{k:04d}"
    files = {
        "png": image((k, 0, 0)),
        "txt": f"number {k}".encode(),
        "cls": str(k % 3).encode(),
        **{name.replace("__", "."): content for name, content in fields.items()},
    }
    return {f"{key}.{s}": v for s, v in files.items() if v is not None}


def write(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(root, count=30, per_shard=8):
    for first in range(0, count, per_shard):
        files = {}
        for k in range(first, min(first + per_shard, count)):
            files |= sample(k)
        write(root / f"shard-{first // per_shard:03d}.tar", files)
    return root


def open_all(spec, **options):
    options = {"holdout_fraction": 0.3, **options}
    return [
        catalogue.open_source(f"tar:{spec}", split=split, **options)
        for split in ("train", "holdout")
    ]


def read_all(spec, **options):
    """Returns all examples by their shade, and the messages of those that are bad."""
    found, bad = {}, []
    for source in open_all(spec, **options):
        for k in range(len(source)):
            try:
                example = source.read(k, 8)
                found[int(example.image[0, 0, 0])] = example
            except BadImage as error:
                bad.append(str(error))
    return found, sorted(set(bad))


def test_samples_of_all_shards_are_read_with_caption_and_class(tmp_path):
    root = write_shards(tmp_path)
    found, bad = read_all(root)
    assert not bad and sorted(found) == list(range(30))
    for k, example in found.items():
        assert (example.caption, example.label) == (f"number {k}", k % 3)
    train, holdout = open_all(root)
    assert train.class_names == ("0", "1", "2")
    assert train.fields == {"image", "label", "caption"}
    for kind in (protocols.Source, protocols.CropSource, protocols.StoredSource):
        assert isinstance(train, kind)
    assert len(train) + len(holdout) == 30 and len(holdout) > 2
    assert train.name(0).startswith(f"{root}/shard-000.tar: 000")
    # Nothing is unpacked: there are shards and their indices.
    assert {p.suffix for p in root.iterdir()} == {".tar", ".npz"}


def test_a_file_a_folder_and_a_pattern_hold_the_same(tmp_path):
    root = write_shards(tmp_path / "data")
    for spec in (root, f"{root}/shard-{{000..003}}.tar", f"{root}/*.tar"):
        assert sorted(read_all(spec)[0]) == list(range(30))
    assert sorted(read_all(root / "shard-001.tar")[0]) == list(range(8, 16))


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "webp", "PNG"])
def test_images_may_be_of_every_usual_format(tmp_path, kind):
    form = {"jpg": "jpeg"}.get(kind, kind.lower())
    write(tmp_path / "1.tar", {f"a/b.{kind}": image((200, 0, 0), form)})
    source, _ = open_all(tmp_path)
    assert np.abs(source.read(0, 8).image[0, 0].astype(int) - [200, 0, 0]).max() < 4
    assert source.name(0) == f"{tmp_path}/1.tar: a/b"
    assert source.fields == {"image"} and source.class_names == ()


def test_json_gives_caption_class_and_boxes_and_further_images_are_maps(tmp_path):
    files = {}
    for k in range(6):
        facts = {
            ("caption", "text")[k % 2]: f"é {k}",
            "label": ("cat", "dog")[k % 2],
            "objects": {"bbox": [[2, 0, 4, 3]], "categories": ["sun"]},
        }
        files |= sample(
            k,
            txt=None,
            cls=None,
            json=json.dumps(facts).encode(),
            semantic__png=image(40 + k, mode="L"),
            other__jpg=image("white", "jpeg"),
        )
    write(tmp_path / "1.tar", files)
    found, bad = read_all(tmp_path)
    assert not bad and sorted(found) == list(range(6))
    for k, example in found.items():
        assert (example.caption, example.label) == (f"é {k}", k % 2)
        assert (example.maps["semantic"] == 40 + k).all()
        assert (example.maps["other"] == 255).all()
        np.testing.assert_allclose(example.objects.box, [[0, 0.25, 0.5, 0.75]])
    source, _ = open_all(tmp_path)
    assert source.class_names == ("cat", "dog") and source.category_names == ("sun",)
    assert source.fields == {"image", "label", "caption", "objects", "maps"}
    distribution = patches.PatchDistribution(4, 4, 4)
    example, crop = source.read_crop(
        0, lambda h, w: distribution.choose_crop(distribution.draw(0, 0), h, w)
    )
    assert example.image.shape[:2] == example.maps["semantic"].shape[:2] == crop.size
    assert example.caption and len(example.objects.box) == 1


def test_what_is_held_out_depends_on_the_key_alone(tmp_path):
    one, other = write_shards(tmp_path / "a", 40, 8), write_shards(tmp_path / "b", 30)
    for path in other.glob("*.tar"):
        path.rename(path.with_name(f"new-{path.name}"))
    parts = [
        [{s.name(k).split(": ")[1] for k in range(len(s))} for s in open_all(root)]
        for root in (one, other)
    ]
    (train, holdout), (train_too, holdout_too) = parts
    assert not train & holdout and len(train | holdout) == 40
    assert train_too <= train and holdout_too <= holdout


def test_equal_keys_of_two_shards_are_on_one_side(tmp_path):
    for k in range(2):
        write(tmp_path / f"{k}.tar", {f"{j}.png": image((j, k, 0)) for j in range(20)})
    sides = [
        {(s.read(k, 8).image[0, 0, 0], s.read(k, 8).image[0, 0, 1]) for k in range(n)}
        for s in open_all(tmp_path)
        for n in [len(s)]
    ]
    assert sum(map(len, sides)) == 40
    for side in sides:
        assert side == {(j, 1 - k) for j, k in side}


def test_threads_read_in_any_order_what_one_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("simple_diffusion.data.sources.tar_source._MAX_OPEN_SHARDS", 2)
    source, _ = open_all(write_shards(tmp_path), holdout_fraction=0.0)
    count = len(source)
    shuffled = np.concatenate(
        [order.shuffle(np.arange(count), count, s) for s in range(9)]
    )
    with futures.ThreadPoolExecutor(8) as pool:
        shades = pool.map(lambda k: source.read(int(k), 8).image[0, 0, 0], shuffled)
        alone = [source.read(k, 8).image[0, 0, 0] for k in range(count)]
        assert list(shades) == [alone[k] for k in shuffled]
    assert source._open_shard.cache_info().currsize == 2


def test_an_index_is_built_once_and_again_after_a_change(tmp_path, monkeypatch):
    root, built = write_shards(tmp_path), []
    build = tar_index.build

    def count(file, report):
        built.append(os.path.basename(file.name))
        return build(file, report)

    monkeypatch.setattr(tar_index, "build", count)
    first = [s.fingerprint() for s in open_all(root)]
    assert built == [f"shard-{k:03d}.tar" for k in range(4)]
    assert [s.fingerprint() for s in open_all(root)] == first
    (root / "shard-000.tar.index.npz").write_bytes(b"damaged")
    assert [s.fingerprint() for s in open_all(root)] == first
    assert built[4:] == ["shard-000.tar"]
    files = {}
    for k in range(100, 103):
        files |= sample(k)
    write(root / "shard-002.tar", files)
    found, _ = read_all(root)
    assert built[5:] == ["shard-002.tar"]
    assert sorted(found) == [k for k in range(30) if k // 8 != 2] + [100, 101, 102]
    assert [s.fingerprint() for s in open_all(root)] != first


def test_an_index_is_built_again_for_a_shard_of_the_same_size(tmp_path, monkeypatch):
    root, built, build = write_shards(tmp_path), [], tar_index.build

    def count(file, report):
        built.append(os.path.basename(file.name))
        return build(file, report)

    open_all(root)
    monkeypatch.setattr(tar_index, "build", count)
    open_all(root)
    shard = root / "shard-001.tar"
    later = shard.stat().st_mtime_ns + 10**9
    os.utime(shard, ns=(later, later))
    open_all(root)
    assert built == ["shard-001.tar"]


def test_an_index_that_cannot_lie_beside_its_shard_lies_in_the_cache(
    tmp_path, monkeypatch
):
    root = write_shards(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_atomic = tar_index.files.open_atomic

    def refuse(path):
        if root in path.parents:
            raise PermissionError(13, "Permission denied")
        return open_atomic(path)

    monkeypatch.setattr(tar_index.files, "open_atomic", refuse)
    open_all(root)
    assert not list(root.glob("*.npz"))
    assert len(list((tmp_path / "cache" / "simple_diffusion").iterdir())) == 4
    monkeypatch.setattr(tar_index, "build", None)
    assert sorted(read_all(root)[0]) == list(range(30))


def test_without_any_place_for_the_index_samples_are_read(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(28, "No space left on device")

    root = write_shards(tmp_path)
    monkeypatch.setattr(tar_index.files, "open_atomic", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert sorted(read_all(root)[0]) == list(range(30))


def test_an_interrupted_index_keeps_the_shards_that_are_done(tmp_path, monkeypatch):
    root, build, built = write_shards(tmp_path), tar_index.build, []

    def stop(file, report):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(file.name)
        return build(file, report)

    monkeypatch.setattr(tar_index, "build", stop)
    with pytest.raises(KeyboardInterrupt):
        open_all(root)
    assert len(list(root.glob("*.npz"))) == 2
    assert not [p for p in root.iterdir() if p.suffix not in (".tar", ".npz")]
    monkeypatch.setattr(
        tar_index, "build", lambda *args: built.append(1) or build(*args)
    )
    open_all(root)
    assert len(built) == 4


def test_a_shard_that_is_cut_short_is_named_and_its_samples_are_used(tmp_path, capsys):
    root = write_shards(tmp_path, 24, 8)
    path = root / "shard-001.tar"
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: len(data) // 2])
    found, _ = read_all(root, wanted={"image"})
    assert set(range(8)) | set(range(16, 24)) < found.keys() < set(range(24))
    for _ in range(2):  # also when the index is known
        printed = capsys.readouterr().out
        assert re.search(f"{path} is damaged: .*its 4 samples that can be", printed)
        console._printed.clear()
        open_all(root)


def test_a_shard_that_shrinks_while_it_is_read_makes_its_samples_bad(tmp_path):
    root = write_shards(tmp_path, 8)
    source, _ = open_all(root)
    os.truncate(root / "shard-000.tar", 600)
    with pytest.raises(BadImage, match="shard-000.tar: 00.*image: .* shorter than it"):
        source.read(len(source) - 1, 8)


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(txt=b""), "caption: empty"),
        (dict(txt=b"caf\xe9"), "caption: not valid UTF-8"),
        (dict(txt=None), "caption: missing"),
        (dict(txt=None, json=b"{"), "json: Expecting"),
        (dict(txt=None, json=b'{"caption": 3}'), "caption: a int, and not a text"),
        (dict(txt=None, json=b'{"caption": "\xff"}'), "caption: not valid UTF-8"),
        (dict(cls=None), "label: missing"),
        (dict(cls=b" "), "label: missing"),
        (dict(semantic__png=b"no image"), "map semantic: not an image"),
        (dict(semantic__png=image(0, size=(7, 8))), "map semantic: has 7x8 pixels"),
        (dict(semantic__png=None), "map semantic: missing"),
        (dict(png=b"no image"), "not an image"),
    ],
)
def test_a_bad_field_makes_its_sample_bad(tmp_path, fields, said):
    files = {}
    for k in range(6):
        whole = {"semantic__png": image(0, mode="L")}
        files |= sample(k, **(whole | (fields if k == 3 else {})))
    write(tmp_path / "1.tar", files)
    found, (error,) = read_all(tmp_path)
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert error.startswith(f"{tmp_path}/1.tar: 0003: {said}")


@pytest.mark.parametrize(
    "objects, said",
    [
        (None, "objects: missing"),
        ({"bbox": [[0, 0, -1, 2]], "categories": [0]}, "objects: box 0.*inverted"),
        ({"bbox": [[0, 0, 1, 2]], "categories": [-4]}, "objects: unknown class '-4'"),
    ],
)
def test_bad_boxes_make_their_sample_bad(tmp_path, objects, said):
    files = {}
    good = {"bbox": [[0, 0, 1, 2]], "categories": [1]}
    for k in range(4):
        facts = {"objects": objects if k == 1 else good}
        files |= sample(k, json=json.dumps(facts).encode())
    write(tmp_path / "1.tar", files)
    found, (error,) = read_all(tmp_path)
    assert sorted(found) == [0, 2, 3]
    assert re.search(said, error)


def test_samples_without_an_image_are_counted(tmp_path, capsys):
    files = sample(1) | sample(2, png=None) | sample(3) | {"notes.txt": b"a"}
    write(tmp_path / "1.tar", files)
    assert sorted(read_all(tmp_path)[0]) == [1, 3]
    printed = capsys.readouterr().out
    assert "2 samples have no image and are left out, such as 1.tar: 0002" in printed


@pytest.mark.parametrize("files", [{}, {"a.txt": b"a"}, {".a.png": image(0)}])
def test_without_a_sample_there_is_an_error(tmp_path, files):
    write(tmp_path / "1.tar", files)
    with pytest.raises(DataError, match="data.source=tar:.*: no sample in 1 tar files"):
        open_all(tmp_path)


def test_a_bare_path_of_shards_is_answered_with_how_to_write_it(tmp_path):
    write_shards(tmp_path, 2)
    for path in (tmp_path, tmp_path / "shard-000.tar"):
        with pytest.raises(DataError, match=f"write tar:{path}"):
            catalogue.open_source(str(path))
