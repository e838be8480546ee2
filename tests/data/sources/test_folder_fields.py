"""Captions, maps, boxes and classes from the conventions that folders follow."""

import contextlib
import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.core import console
from simple_diffusion.data import patches, skipping
from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import catalogue, protocols


def write(path, shade=0, size=(6, 8)):
    """Writes an image of the size (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).save(path)


def write_ids(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def write_rows(root, rows, kind="jsonl"):
    if kind == "jsonl":
        lines = [json.dumps(row) for row in rows]
        (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
        return
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
            )


def open_all(root, **options):
    options = {"holdout_fraction": 0.0, **options}
    return [
        catalogue.open_source(f"folder:{root}", split=split, **options)
        for split in ("train", "holdout")
    ]


def read_all(root, **options):
    """Returns all examples by the shade of their image."""
    found = {}
    for source in open_all(root, **options):
        for k in range(len(source)):
            example = source.read(k, 8)
            found[int(example.image[0, 0, 0])] = example
    return found


@pytest.fixture(params=["jsonl", "csv"])
def full(request, tmp_path):
    """Four images with every field."""
    rows = []
    for k in range(4):
        write(tmp_path / "images" / f"{k}.png", k)
        write_ids(tmp_path / "maps" / f"{k}.png", np.full((6, 8), 10 + k))
        write(tmp_path / "sketch" / f"{k}.png", 100 + k)
        rows.append(
            {
                "file_name": f"images/{k}.png",
                "text": f'a "{k}", in züri',
                "semantic_file_name": f"maps/{k}.png",
                "sketch_file_name": f"./sketch/{k}.png",
                "objects": {"bbox": [[2, 0, 4, 3]], "categories": [k]},
                "label": f"class {k % 2}",
                "licence": "any",
            }
        )
    write_rows(tmp_path, rows, request.param)
    return tmp_path


def test_a_changed_metadata_file_changes_the_fingerprint(full):
    before = open_all(full)[0].fingerprint()
    assert open_all(full)[0].fingerprint() == before
    (file,) = full.glob("metadata.*")
    changed = file.read_text().replace("any", "all", 1)
    assert changed != file.read_text()
    file.write_text(changed)
    assert open_all(full)[0].fingerprint() != before


def test_a_metadata_file_gives_every_field(full, capsys):
    examples = read_all(full)
    assert sorted(examples) == [0, 1, 2, 3]  # maps are no images
    for k, example in examples.items():
        assert example.caption == f'a "{k}", in züri'
        assert example.label == k % 2
        assert example.maps["semantic"].dtype == np.int32
        assert (example.maps["semantic"] == 10 + k).all()
        assert example.maps["semantic"].shape == (6, 8, 1)
        assert example.maps["sketch"].dtype == np.uint8
        assert (example.maps["sketch"] == 100 + k).all()
        np.testing.assert_allclose(example.objects.box, [[0, 0.25, 0.5, 0.75]])
        assert example.objects.category.tolist() == [k]
    source, _ = open_all(full)
    assert source.class_names == ("class 0", "class 1")
    assert source.category_names == ("0", "1", "2", "3")
    assert source.fields == {"image", "label", "caption", "objects", "maps"}
    assert set(source.map_classes) == {"semantic", "sketch"}
    assert not capsys.readouterr().out


def test_only_wanted_fields_are_read(full):
    (full / "maps" / "0.png").write_bytes(b"")
    for example in read_all(full, wanted={"caption", "map:sketch"}).values():
        assert example.caption and set(example.maps) == {"sketch"}
        assert example.objects is None
    with pytest.raises(BadImage, match="0.png: map semantic: not an image"):
        read_all(full)


def test_crops_have_all_fields(full):
    source, _ = open_all(full)
    assert isinstance(source, protocols.CropSource)
    distribution = patches.PatchDistribution(4, 4, 4)
    example, crop = source.read_crop(
        0, lambda h, w: distribution.choose_crop(distribution.draw(0, 0), h, w)
    )
    assert example.image.shape[:2] == example.maps["semantic"].shape[:2] == crop.size
    assert example.caption and len(example.objects.box) == 1


def test_categories_may_be_names(tmp_path):
    rows = []
    for k, names in enumerate((["dog"], ["cat", "dog"], [])):
        write(tmp_path / f"{k}.png", k)
        box = [[0, 0, 2, 2]] * len(names)
        objects = {"bbox": box, "categories": names}
        rows.append({"file_name": f"{k}.png", "objects": objects})
    write_rows(tmp_path, rows)
    assert open_all(tmp_path)[0].category_names == ("cat", "dog")
    found = {k: e.objects.category.tolist() for k, e in read_all(tmp_path).items()}
    assert found == {0: [1], 1: [0, 1], 2: []}


def test_a_text_beside_each_image_is_its_caption(tmp_path):
    for k in range(3):
        write(tmp_path / "ab"[k % 2] / f"{k}.v2.png", k)
        (tmp_path / "ab"[k % 2] / f"{k}.v2.txt").write_text(f"number {k}\n")
    (tmp_path / "a" / "notes.txt").write_text("about no image")
    examples = read_all(tmp_path)
    found = {k: (e.caption, e.label) for k, e in examples.items()}
    assert found == {0: ("number 0", 0), 1: ("number 1", 1), 2: ("number 2", 0)}
    source, _ = open_all(tmp_path)
    assert source.fields == {"image", "label", "caption"}
    before = source.fingerprint()
    (tmp_path / "a" / "0.v2.txt").write_text("another")
    (tmp_path / "a" / "2.v2.txt").write_text("another")
    assert open_all(tmp_path)[0].fingerprint() != before


@pytest.mark.parametrize(
    "caption, said",
    [
        (b"", "caption: empty"),
        (b" \n", "caption: empty"),
        (b"caf\xe9", "caption: not valid UTF-8"),
        (None, "caption: missing"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_bad_caption_is_skipped_counted_and_named(
    tmp_path, capsys, monkeypatch, kind, caption, said
):
    for k in range(3):
        write(tmp_path / f"{k}.png", k)
    texts = {f"{k}.png": b"fine" for k in range(3)} | {"1.png": caption}
    texts = {k: v for k, v in texts.items() if v is not None}
    if kind == "txt":
        for name, text in texts.items():
            (tmp_path / name).with_suffix(".txt").write_bytes(text)
    else:
        lines = [
            b'{"file_name": "%s"' % name.encode()
            + (b', "text": "%s"}' % texts[name].replace(b"\n", b"\\n"))
            if name in texts
            else b'{"file_name": "%s"}' % name.encode()
            for name in ("0.png", "1.png", "2.png")
        ]
        (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(console, "_printed", set())
    found = []
    for source in open_all(tmp_path):
        reader = skipping.SkippingReader(source)
        for k in range(len(source)):
            with contextlib.suppress(DataError):  # of a split without any good image
                example = reader.read_or_none(k, lambda k, s=source: s.read(k, 8))
                found += [] if example is None else [example.caption]
    assert found == ["fine", "fine"]
    (line,) = [v for v in capsys.readouterr().out.splitlines() if "skipped an" in v]
    assert f"1.png: {said}" in line
    for source in open_all(tmp_path, wanted={"image"}):
        assert all(source.read(k, 8).caption is None for k in range(len(source)))


def test_images_without_rows_and_rows_without_images_are_counted(tmp_path, capsys):
    for k in range(5):
        write(tmp_path / f"{k}.png", k)
    names = ["0.png", "1.png", "./1.png", "9.png", "../outside.png"]
    rows = [{"file_name": name, "text": f"row {j}"} for j, name in enumerate(names)]
    write_rows(tmp_path, rows)
    examples = read_all(tmp_path)
    assert {k: e.caption for k, e in examples.items()} == {0: "row 0", 1: "row 1"}
    printed = capsys.readouterr().out
    for said in (
        "3 images have no row in metadata.jsonl (field file_name) and are left out, "
        "such as 2.png",
        "2 rows have no image in metadata.jsonl (field file_name) and are left out, "
        "such as ../outside.png",
        "1 rows name an image that had a row before in metadata.jsonl",
    ):
        assert printed.count(said) == 1


def test_a_subfolder_for_the_images_is_no_class(tmp_path):
    for k in range(2):
        write(tmp_path / "images" / f"{k}.png", k)
    write_rows(tmp_path, [{"file_name": f"images/{k}.png"} for k in range(2)])
    source, _ = open_all(tmp_path)
    assert source.class_names == () and source.fields == {"image"}


def test_classes_of_a_column_of_numbers_are_these_numbers(tmp_path):
    for k in range(4):
        write(tmp_path / f"{k}.png", k)
    labels = [3, 0, 11, None]
    rows = [{"file_name": f"{k}.png", "label": labels[k]} for k in range(4)]
    write_rows(tmp_path, rows)
    assert open_all(tmp_path)[0].class_names == tuple(map(str, range(12)))
    with pytest.raises(BadImage, match="3.png: label: missing in metadata.jsonl line"):
        read_all(tmp_path)
    found = {k: e.label for k, e in read_all(tmp_path, wanted={"image"}).items()}
    assert found == {0: 3, 1: 0, 2: 11, 3: 0}


BOX = '{"bbox": [[0, 0, 2, 2]], "categories": [0]}'


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"semantic_file_name": "gone.png"}, "map semantic: gone.png: No such file"),
        ({"semantic_file_name": "large.png"}, "map semantic: has 7x8 pixels"),
        ({"semantic_file_name": None}, "map semantic: missing in metadata.jsonl"),
        ({"objects": {"bbox": [[0, 0, -2, 2]], "categories": [0]}}, "objects: box 0"),
        ({"objects": {"bbox": [[0, 0, 2]], "categories": [0]}}, "objects .*four numb"),
        ({"objects": {"bbox": [], "categories": [0]}}, "objects: 0 boxes, but 1 cl"),
        ({"objects": None}, "objects .*line 2.*: missing"),
        ({"objects": [1, 2]}, "objects .*line 2.*must be"),
    ],
)
def test_a_bad_spatial_field_makes_only_its_image_bad(tmp_path, changes, said):
    write_ids(tmp_path / "large.png", np.zeros((7, 8)))
    rows = []
    for k in range(3):
        write(tmp_path / f"{k}.png", k)
        write_ids(tmp_path / f"map{k}.png", np.zeros((6, 8)))
        row = {"file_name": f"{k}.png", "semantic_file_name": f"map{k}.png"}
        rows.append(row | {"objects": json.loads(BOX)})
    rows[1] |= changes
    write_rows(tmp_path, rows)
    errors = []
    for source in open_all(tmp_path):
        for k in range(len(source)):
            try:
                source.read(k, 8)
            except BadImage as error:
                errors.append(str(error))
    (error,) = errors
    assert re.search(f"1.png: {said}", error)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("jsonl", '{"file_name": "0.png"}\n{"file_name"', "line 2: Expecting"),
        ("jsonl", '["0.png"]', "line 1: must be an object"),
        ("jsonl", '{"text": "a"}', "line 1: has no file_name, only text"),
        ("jsonl", '{"file_name": "0.png", "text": 3}', "line 1: text=3 must be a text"),
        ("jsonl", "\n\n", "has no rows"),
        ("jsonl", '{"file_name": "9.png"}', "none of the images .*such as 9.png"),
        ("csv", "file_name,text\n0.png\n", "line 2: must have 2 columns"),
        ("csv", "file_name,text\n0.png,a,b\n", "line 2: must have 2 columns"),
        ("csv", 'file_name,text\n0.png,"a\n', "line 2: unexpected end of data"),
        ("csv", "name,text\n0.png,a\n", "line 2: has no file_name, only name, text"),
        ("csv", 'file_name,objects\n0.png,"{a"\n', "line 2: Expecting"),
    ],
)
def test_a_metadata_file_that_cannot_be_read_is_an_error(tmp_path, name, content, said):
    write(tmp_path / "0.png")
    (tmp_path / f"metadata.{name}").write_text(content)
    with pytest.raises(DataError, match=f"data.source=folder:.*metadata.{name}.*") as e:
        catalogue.open_source(f"folder:{tmp_path}")
    e.match(said)


def test_two_metadata_files_are_an_error(tmp_path):
    write(tmp_path / "0.png")
    for name in ("metadata.jsonl", "metadata.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="metadata.jsonl and metadata.csv; remove one"):
        catalogue.open_source(f"folder:{tmp_path}")
