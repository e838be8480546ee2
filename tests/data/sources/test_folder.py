import os

import numpy as np
import pytest
from PIL import Image

from simple_diffusion.data.errors import BadImage, DataError
from simple_diffusion.data.sources import folder


def write(path, shade=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 0)).save(path)


def contents(source):
    """Returns (shade of red, label) of every image."""
    examples = (source.read(k, 4) for k in range(len(source)))
    return {(int(example.image[0, 0, 0]), example.label) for example in examples}


def whole(root):
    """Returns train and holdout contents together."""
    parts = [folder.FolderSource(root, split) for split in ("train", "holdout")]
    return contents(parts[0]) | contents(parts[1])


def test_images_directly_inside_have_no_classes(tmp_path):
    for k in range(4):
        write(tmp_path / f"{k}.png", k)
    assert folder.FolderSource(tmp_path, "train").class_names == ()
    assert whole(tmp_path) == {(k, 0) for k in range(4)}


def test_the_first_level_is_the_class_however_deep_the_image_lies(tmp_path):
    write(tmp_path / "dog" / "1.png", 1)
    write(tmp_path / "dog" / "old" / "2.jpg.png", 2)
    write(tmp_path / "cat" / "2024" / "may" / "3.bmp", 3)
    assert folder.FolderSource(tmp_path, "train").class_names == ("cat", "dog")
    assert whole(tmp_path) == {(1, 1), (2, 1), (3, 0)}


def test_one_image_above_the_subfolders_means_no_classes(tmp_path):
    write(tmp_path / "1.png", 1)
    write(tmp_path / "more" / "2.png", 2)
    assert folder.FolderSource(tmp_path, "train").class_names == ()
    assert whole(tmp_path) == {(1, 0), (2, 0)}


def test_both_splits_know_all_classes(tmp_path):
    for name in "abcdefgh":
        write(tmp_path / name / "1.png")
    for split in ("train", "holdout"):
        assert folder.FolderSource(tmp_path, split).class_names == tuple("abcdefgh")


def test_hidden_and_other_files_are_passed_over(tmp_path):
    write(tmp_path / "1.PNG", 1)
    write(tmp_path / "2.png", 2)
    write(tmp_path / "._1.png", 9)
    write(tmp_path / ".thumbnails" / "1.png", 9)
    write(tmp_path / "__MACOSX" / "1.png", 9)
    (tmp_path / "notes.txt").write_text("no image")
    assert whole(tmp_path) == {(1, 0), (2, 0)}


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "1.png", 1)
    root = tmp_path / "root"
    write(root / "a" / "2.png", 2)
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    assert {(1, 1), (2, 0)} <= whole(root)


def paths(root, split, fraction=0.3):
    return set(folder.FolderSource(root, split, fraction)._paths)


def test_splits_share_nothing_and_leave_nothing_out(tmp_path):
    for k in range(60):
        write(tmp_path / f"{k}.png")
    train, holdout = paths(tmp_path, "train"), paths(tmp_path, "holdout")
    assert not train & holdout and len(train | holdout) == 60
    assert 5 <= len(holdout) <= 31  # 18 expected


def test_adding_images_moves_none_between_the_splits(tmp_path):
    for k in range(30):
        write(tmp_path / f"{k}.png")
    train, holdout = paths(tmp_path, "train"), paths(tmp_path, "holdout")
    for k in range(30, 60):
        write(tmp_path / f"{k}.png")
    assert train <= paths(tmp_path, "train")
    assert holdout <= paths(tmp_path, "holdout")


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path):
    for k in range(20):
        write(tmp_path / "here" / f"{k}.png")
    before = paths(tmp_path / "here", "holdout")
    (tmp_path / "here").rename(tmp_path / "there")
    assert paths(tmp_path / "there", "holdout") == before


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.999])
def test_of_two_images_each_split_has_one(tmp_path, fraction):
    write(tmp_path / "1.png")
    write(tmp_path / "2.png")
    assert len(paths(tmp_path, "train", fraction)) == 1
    assert len(paths(tmp_path, "holdout", fraction)) == 1


def test_a_single_image_is_in_both_splits_with_a_warning(tmp_path, capsys):
    write(tmp_path / "only.png", 7)
    for split in ("train", "holdout"):
        assert contents(folder.FolderSource(tmp_path, split)) == {(7, 0)}
    assert capsys.readouterr().out.count("only.png") == 1


def test_a_large_image_is_reduced_while_it_is_read(tmp_path):
    write(tmp_path / "1.jpg", size=(640, 480))
    image = folder.FolderSource(tmp_path, "train").read(0, 60).image
    assert image.shape == (120, 160, 3)


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "no image in"),
    ],
)
def test_a_folder_without_images_is_an_error_that_names_the_key(
    tmp_path, prepare, message
):
    path = tmp_path / "photos"
    prepare(path)
    with pytest.raises(DataError, match=f"data.source=folder:.*photos.*{message}"):
        folder.FolderSource(path, "train")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    write(tmp_path / "1.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    source = folder.FolderSource(tmp_path, "train", 0.0)
    source._paths = ["broken.png"]
    with pytest.raises(BadImage, match=r"broken\.png: No such file"):
        source.read(0, 8)


def test_a_file_without_permission_is_named(tmp_path):
    write(tmp_path / "1.png")
    source = folder.FolderSource(tmp_path, "train")
    (tmp_path / "1.png").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # whom nothing is forbidden
            os.seteuid(65534)
        with pytest.raises(BadImage, match=r"1\.png: Permission denied"):
            source.read(0, 8)
    finally:
        os.seteuid(user)


def test_a_name_that_is_not_unicode_can_be_reported(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(b"no image")
    with pytest.raises(BadImage) as caught:
        folder.FolderSource(tmp_path, "train").read(0, 8)
    assert "caf" in str(caught.value).encode().decode()


def test_mixed_sizes_and_formats_are_all_read(tmp_path):
    for k, (kind, mode) in enumerate(
        [("png", "RGBA"), ("jpg", "L"), ("gif", "P"), ("webp", "RGB"), ("tif", "CMYK")]
    ):
        Image.new(mode, (3 + k, 20 - k)).save(tmp_path / f"{k}.{kind}")
    source = folder.FolderSource(tmp_path, "train", 0.0)
    for k in range(len(source)):
        image = source.read(k, 8).image
        assert image.dtype == np.uint8 and image.shape[2] == 3


def test_a_fingerprint_is_that_of_names_and_sizes_wherever_they_lie(tmp_path):
    for place in ("a", "b"):
        for k in range(20):
            write(tmp_path / place / f"{k}.png", k)

    def fingerprint(place):
        return folder.FolderSource(tmp_path / place, "train").fingerprint()

    first = fingerprint("a")
    assert first == fingerprint("b")
    for path in (tmp_path / "b").iterdir():
        with path.open("ab") as file:
            file.write(b"more")
    assert first != fingerprint("b")
    for path in (tmp_path / "a").iterdir():
        path.rename(path.with_name(f"new_{path.name}"))
    assert first != fingerprint("a")
