import pytest

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.stored import shard_paths


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}.tar", ["a.tar", "b.tar"]),
        ("x-{008..011}.tar", ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"]),
        ("{a", ["{a"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern, names):
    found = shard_paths.expand_braces(pattern, "key")
    assert sorted(found) == sorted(names)


def test_too_many_names_are_an_error():
    with pytest.raises(DataError, match="data.source=tar:x: stands for more than"):
        shard_paths.expand_braces("{0..999999999999}", "data.source=tar:x")


def test_a_file_a_folder_and_patterns_name_the_same_shards(tmp_path):
    for k in range(3):
        (tmp_path / "below").mkdir(exist_ok=True)
        (tmp_path / "below" / f"{k}.tar").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    wanted = [tmp_path / "below" / f"{k}.tar" for k in range(3)]
    for pattern in ("", "below", "below/{0..2}.tar", "below/*.tar", "*/{0,[12]}.tar"):
        assert shard_paths.find_shards(f"{tmp_path}/{pattern}", "key") == wanted
    assert shard_paths.find_shards(f"{tmp_path}/below/1.tar", "key") == wanted[1:2]


@pytest.mark.parametrize(
    "pattern, said",
    [
        ("gone.tar", "no file .*gone.tar; PATH is a tar file, a folder"),
        ("{0..4}.tar", "no file .*/2.tar, and 2 more"),
        ("*.tgz", r"no file .*/\*.tgz"),
        ("empty", "no .tar file in .*empty or below"),
    ],
)
def test_missing_files_are_named(tmp_path, pattern, said):
    (tmp_path / "empty").mkdir()
    for k in range(2):
        (tmp_path / f"{k}.tar").write_bytes(b"")
    with pytest.raises(DataError, match=f"^data.source=tar: {said}"):
        shard_paths.find_shards(f"{tmp_path}/{pattern}", "data.source=tar")
