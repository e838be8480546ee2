import itertools

import pytest
from etils import epath

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import preparation, shards
from simple_diffusion.data.sources import catalogue
from tests.data import pictures

MANIFEST = shards.MANIFEST


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return pictures.make(tmp_path_factory.mktemp("images"), bad=(7, 23))


@pytest.fixture(scope="module")
def native(images, tmp_path_factory):
    """One that no test changes."""
    return pictures.prepare(images, tmp_path_factory.mktemp("native") / "records")


def test_a_shard_is_as_full_as_it_gets(images, native):
    place = epath.Path(native)
    manifest = shards.load(place)
    limit = pictures.SMALL_SHARDS * 1e6
    names, found = iter(shards.load_names(place, manifest)), []
    for shard in manifest.shards:
        reader = shards.open_shard(place / shard.file)
        records = reader.read_all()
        for record in records:
            label, name, encoded = shards.unpack(record)
            assert name == next(names)
            assert encoded == (images / name).read_bytes()
            assert ("cat", "dog", "dog-like")[label] == name.split("/")[0]
        found.append([len(record) for record in records])
    for sizes, after in itertools.pairwise(found):
        assert (sum(sizes) <= limit or len(sizes) == 1) and sum(sizes) + after[
            0
        ] > limit


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def extend(path):
    path.write_bytes(path.read_bytes() + b"x")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["records-00002.array_record", "names"])
@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda path: path.unlink(), "is missing"),
        (cut, "has .* bytes instead of"),
        (extend, "has .* bytes instead of"),
        (flip, "has changed"),
    ],
)
def test_every_damage_is_named_and_mended(images, native, tmp_path, file, harm, said):
    root = pictures.prepare(images, tmp_path / "records")
    if file == "names" and harm is cut:
        (root / "names").write_bytes(b"cat")
    else:
        harm(root / file)
    if not (harm is flip and file != "names"):  # its size and count are as they were
        with pytest.raises(DataError, match=f"{file} {said}(.*\n)+.*--verify"):
            catalogue.open_source(f"records:{root}")
    with pytest.raises(DataError, match=f"{file} {said}"):
        preparation.check(root)
    pictures.prepare(images, root, verify=True)
    preparation.check(root)
    assert pictures.contents(root) == pictures.contents(native)


def test_what_cannot_become_what_it_was_is_an_error(tmp_path):
    images = pictures.make(tmp_path / "images")
    root = pictures.prepare(images, tmp_path / "records")
    (root / "records-00001.array_record").unlink()
    for path in images.rglob("*.png"):
        pictures.write(path, pictures.pixels(9, 30, 30))
    with pytest.raises(
        DataError, match="records-00001.* cannot be written again as it"
    ):
        pictures.prepare(images, root)
    assert not (root / "records-00001.array_record").exists()
    (images / "cat" / "new.png").write_bytes(b"")
    with pytest.raises(DataError, match="held other images"):
        pictures.prepare(images, root)


def test_a_damaged_or_newer_manifest_is_an_error(images, tmp_path):
    root = pictures.prepare(images, tmp_path / "records")
    text = (root / MANIFEST).read_text()
    for wrong in (text[:100], "[]", "{}"):
        (root / MANIFEST).write_text(wrong)
        with pytest.raises(DataError, match="manifest.json is damaged"):
            catalogue.open_source(f"records:{root}")
        with pytest.raises(DataError, match="manifest.json is damaged"):
            pictures.prepare(images, root)
    (root / MANIFEST).write_text(text.replace('"version": 1', '"version": 3'))
    with pytest.raises(DataError, match="of version 3, and .* versions 1 and 2"):
        catalogue.open_source(f"records:{root}")


def test_a_bucket_gets_files_that_were_made_here(images, native, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "is_local", lambda root: False)
    root = pictures.prepare(images, tmp_path / "records")
    assert pictures.contents(root) == pictures.contents(native)
