"""Every field survives being prepared, from every kind of input."""

import io
import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import encoding, preparation, record_fields, shards
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.data.stored import examples, maps
from tests.data import pictures
from tests.data.sources import test_tar_source

SIZE = (24, 36)
COUNT = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images with captions, maps, boxes and classes."""
    root, rows = tmp_path_factory.mktemp("folder"), []
    for k in range(COUNT):
        rng = np.random.default_rng(k)
        pictures.write(root / "images" / f"{k}.png", pictures.pixels(k, *SIZE))
        ids = np.kron(rng.integers(0, 300, (2, 3)), np.ones((12, 12))).astype(np.uint16)
        pictures.write(root / "maps" / f"{k}.png", ids)
        pictures.write(root / "sketch" / f"{k}.png", pictures.pixels(90 + k, *SIZE))
        rows.append(
            {
                "file_name": f"images/{k}.png",
                "text": f"é {k}",
                "semantic_file_name": f"maps/{k}.png",
                "sketch_file_name": f"sketch/{k}.png",
                "objects": {
                    "bbox": [[9, 6, 9, 12], [0, 0, 36, 24]],
                    "categories": ["b", "a"],
                },
                "label": "xy"[k % 2],
            }
        )
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def prepare(spec, output, **options):
    settings = encoding.Settings(str(spec), **options)
    preparation.prepare(settings, output, report=lambda line: None)
    return output


def read_all(spec, **options):
    """Returns every example of both splits by its caption, or by its name."""
    found = {}
    for split in ("train", "holdout"):
        source = catalogue.open_source(spec, split=split, **options)
        for k in range(len(source)):
            example = source.read(k, 1000)
            found[example.caption or source.name(k)] = example
    return found


def assert_equal(one, other):
    assert one.caption == other.caption and one.label == other.label
    for field in ("maps", "vectors"):
        left, right = getattr(one, field), getattr(other, field)
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].dtype == right[name].dtype
            assert (left[name] == right[name]).all()
    assert (one.objects is None) == (other.objects is None)
    if one.objects is not None:
        assert (one.objects.box == other.objects.box).all()
        assert (one.objects.category == other.objects.category).all()


def test_native_records_keep_every_field_of_a_folder(folder, tmp_path):
    root = prepare(f"folder:{folder}", tmp_path / "records")
    originals, prepared = read_all(f"folder:{folder}"), read_all(f"records:{root}")
    assert len(originals) == COUNT and originals.keys() == prepared.keys()
    for caption, example in originals.items():
        assert_equal(example, prepared[caption])
        assert (example.image == prepared[caption].image).all()
        assert set(example.maps) == {"semantic", "sketch"}
    one = catalogue.open_source(f"folder:{folder}")
    other = catalogue.open_source(f"records:{root}")
    assert protocols.list_fields(one) == protocols.list_fields(other)
    assert one.category_names == other.category_names == ("a", "b")
    assert one.class_names == other.class_names == ("x", "y")


def test_records_read_only_wanted_fields(folder, tmp_path):
    root = prepare(f"folder:{folder}", tmp_path / "records")
    for example in read_all(f"records:{root}", wanted={"map:sketch"}).values():
        assert set(example.maps) == {"sketch"}
        assert example.caption is None and example.objects is None


def test_reduced_records_reduce_maps_as_images_and_keep_boxes(folder, tmp_path):
    options = dict(size=12, resize="area", quality="lossless")
    root = prepare(f"folder:{folder}", tmp_path / "records", **options)
    originals, prepared = read_all(f"folder:{folder}"), read_all(f"records:{root}")
    assert originals.keys() == prepared.keys()
    for caption, example in prepared.items():
        whole = originals[caption]
        assert example.image.shape == (12, 18, 3)
        # Each square of one id has 6 pixels where it had 12.
        assert (example.maps["semantic"] == whole.maps["semantic"][::2, ::2]).all()
        image = Image.fromarray(whole.maps["sketch"])
        wanted = image.resize((18, 12), Image.Resampling.BOX)
        assert np.abs(example.maps["sketch"] - np.asarray(wanted, int)).max() <= 1
        np.testing.assert_allclose(example.objects.box, whole.objects.box, atol=1e-6)
        assert (example.objects.category == whole.objects.category).all()


def test_only_the_chosen_fields_are_kept(folder, tmp_path):
    root = prepare(f"folder:{folder}", tmp_path / "1", fields="caption, map:semantic")
    source = catalogue.open_source(f"records:{root}")
    assert protocols.list_fields(source) == {
        "image",
        "label",
        "caption",
        "map:semantic",
    }
    none = prepare(f"folder:{folder}", tmp_path / "2", fields="")
    assert catalogue.open_source(f"records:{none}").fields == {"image", "label"}
    with pytest.raises(DataError, match="--fields needs map:depth, which .* not have"):
        prepare(f"folder:{folder}", tmp_path / "3", fields="map:depth")


def test_records_without_other_fields_are_as_older_versions_wrote_them(tmp_path):
    images = pictures.make(tmp_path / "images", 8)
    root = epath.Path(pictures.prepare(images, tmp_path / "records"))
    found = json.loads((root / shards.MANIFEST).read_text())
    assert found["version"] == 1 and not {"fields", "category_names"} & found.keys()
    (record, *_) = shards.open_shard(root / found["shards"][0]["file"]).read_all()
    _, name, encoded = shards.unpack(record)
    assert encoded == (images / name).read_bytes()


def test_an_image_with_a_bad_field_is_left_out_and_named(folder, tmp_path):
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    broken = json.loads(lines[3]) | {"text": " "}
    for name in ("images", "maps", "sketch"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).symlink_to(folder / name)
    lines[3] = json.dumps(broken)
    (tmp_path / "folder" / "metadata.jsonl").write_text("\n".join(lines))
    root = prepare(f"folder:{tmp_path / 'folder'}", tmp_path / "records")
    assert pictures.manifest_of(root)["skipped"] == {"images/3.png": "caption: empty"}
    assert len(read_all(f"records:{root}")) == COUNT - 1


def test_tar_shards_are_prepared_with_their_split(tmp_path):
    shards_folder = test_tar_source.write_shards(tmp_path / "tar")
    root = prepare(f"tar:{shards_folder}", tmp_path / "records")
    for split in ("train", "holdout"):
        one, other = (
            catalogue.open_source(spec, split=split, holdout_fraction=0.3)
            for spec in (f"tar:{shards_folder}", f"records:{root}")
        )
        assert len(one) == len(other) > 3
        for k in range(len(one)):
            assert_equal(one.read(k, 8), other.read(k, 8))


def test_vectors_and_maps_of_every_type_survive():
    rng = np.random.default_rng(0)
    arrays = {
        "depth": rng.normal(size=(4, 5, 1)).astype(np.float32),
        "ids": rng.integers(-1, 9, (4, 5, 1)).astype(np.int32),
    }
    vectors = {
        "camera": rng.normal(size=7).astype(np.float32),
        "text": rng.normal(size=(3, 4)).astype(np.float16),
    }
    boxes = examples.Boxes(np.array([[0, 0.25, 1, 0.75]]), [3], False)
    original = examples.StoredExample(
        io.BytesIO(b"image"),
        "1.png",
        caption="é",
        boxes=boxes,
        maps={k: maps.encode_map(v) for k, v in arrays.items()},
        vectors=vectors,
    )
    joined = record_fields.join(original, b"image")
    every = {"caption", "objects", "map:depth", "map:ids", "vector:camera"}
    fields, encoded = record_fields.split(joined, every | {"vector:text"})
    assert encoded == b"image" and fields["caption"] == "é"
    for name, values in arrays.items():
        assert (maps.decode_map(fields["maps"][name], "", name) == values).all()
    for name, values in vectors.items():
        assert (fields["vectors"][name] == values).all()
        assert fields["vectors"][name].dtype == values.dtype
    assert fields["boxes"].box.tolist() == [[0, 0.25, 1, 0.75]]
    assert fields["boxes"].category.tolist() == [3]
    fields, encoded = record_fields.split(joined, {"image"})
    assert fields == {"caption": None, "boxes": None, "maps": {}, "vectors": {}}
    with pytest.raises(ValueError, match="another length"):
        record_fields.split(b"\xff" + joined[1:], every)
