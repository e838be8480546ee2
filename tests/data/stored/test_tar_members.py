import gzip
import io
import tarfile

import numpy as np
import pytest

from simple_diffusion.data.stored import tar_members


def write(path, files, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def random_files(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [0, 1, 511, 512, 513, *rng.integers(0, 3000, count)][:count]
    return {f"folder/{k:03d}.bin": rng.bytes(size) for k, size in enumerate(sizes)}


def scan(path):
    """Returns the content of each member that is found, and the damages."""
    data = path.read_bytes()
    with path.open("rb") as file:
        found = list(tar_members.list_members(file))
    damages = [v for v in found if isinstance(v, tar_members.Damage)]
    members = [v for v in found if isinstance(v, tar_members.Member)]
    return {m.name: data[m.offset : m.offset + m.size] for m in members}, damages


@pytest.mark.parametrize(
    "form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]
)
def test_members_are_where_the_scan_says(tmp_path, form):
    files = random_files(20)
    if form != tarfile.USTAR_FORMAT:
        files["x" * 300 + "/é.txt"] = b"long name"
    assert scan(write(tmp_path / "1.tar", files, form)) == (files, [])


def test_an_archive_without_its_end_and_two_in_one_are_read(tmp_path):
    first, second = random_files(3), {"other.txt": b"more"}
    one = write(tmp_path / "1.tar", first).read_bytes()
    two = write(tmp_path / "2.tar", second).read_bytes()
    (tmp_path / "3.tar").write_bytes(one + two)
    assert scan(tmp_path / "3.tar") == (first | second, [])
    (tmp_path / "4.tar").write_bytes(one.rstrip(b"\0") + bytes(512))
    found, damages = scan(tmp_path / "4.tar")
    assert found.keys() == first.keys()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77])
def test_of_a_file_that_is_cut_short_the_first_members_are_read(tmp_path, share):
    files = random_files(20)
    path = write(tmp_path / "1.tar", files)
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: int(len(data) * share)])
    found, (damage,) = scan(path)
    names = list(files)
    assert 0 < len(found) < len(files)
    assert found == {name: files[name] for name in names[: len(found)]}
    assert damage.reason


def test_after_a_damaged_header_the_next_members_are_read(tmp_path):
    files = random_files(12)
    path = write(tmp_path / "1.tar", files)
    data = bytearray(path.read_bytes())
    place = data.index(b"folder/007.bin")
    data[place : place + 200] = bytes(255 - v for v in data[place : place + 200])
    path.write_bytes(data)
    found, (damage,) = scan(path)
    assert found == {k: v for k, v in files.items() if "007" not in k}
    assert damage.offset == place


@pytest.mark.parametrize("content", [b"", b"no tar file", b"x" * 2000])
def test_what_is_no_tar_file_has_no_members(tmp_path, content):
    (tmp_path / "1.tar").write_bytes(content)
    found, damages = scan(tmp_path / "1.tar")
    assert not found and damages[0].offset == 0


def test_a_compressed_file_says_so(tmp_path):
    path = write(tmp_path / "1.tar", random_files(3))
    path.write_bytes(gzip.compress(path.read_bytes()))
    found, (damage,) = scan(path)
    assert not found and "compressed by gzip" in damage.reason
