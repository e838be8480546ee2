import numpy as np
import pytest

from simple_diffusion.evaluation import feature_bank
from simple_diffusion.evaluation.feature_bank import ImageBatch
from simple_diffusion.evaluation.metrics import statistics
from simple_diffusion.evaluation.networks.feature_network import Outputs

N, BATCH, KEEP = 22, 4, 7
BAD = (3, 8, 9, 10, 11, 17)  # of the third batch all


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 2, 2, 3), np.uint8)


def good():
    return np.array([k for k in range(N) if k not in BAD])


def parts_of(pixels, opened=None):
    """The images in batches of four; some of them bad, the last batch padded."""

    def parts(start):
        if opened is not None:
            opened.append(start)
        for first in range(start, N, BATCH):
            places = np.arange(first, first + BATCH)
            images = np.resize(pixels[first : first + BATCH], (BATCH, 2, 2, 3))
            mask = ~np.isin(places, BAD) & (places < N)
            yield ImageBatch(images, places.astype(np.int32), mask)

    return parts


def extract(images, position):
    flat = images.reshape(len(images), -1).astype(np.float32)
    return {
        "corner": Outputs(flat[:, :3], spatial=flat[:, 3:5], logits=flat[:, 5:9]),
        "mean": Outputs(flat.mean(1, keepdims=True)),
    }


def check(banks, pixels):
    flat = pixels[good()].reshape(len(good()), -1).astype(np.float32)
    assert banks.n == len(good())
    assert banks.position == N
    np.testing.assert_array_equal(banks.labels, good())
    corner, mean = banks.by_network["corner"], banks.by_network["mean"]
    for total, rows in ((corner.total, flat[:, :3]), (corner.spatial, flat[:, 3:5])):
        expected = statistics.compute(rows)
        assert total.n == expected.n
        np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(total.scatter, expected.scatter, rtol=1e-9)
    kept = [(row[:3] == corner.features).all(1).any() for row in flat]
    assert sum(kept) == len(corner.features) == KEEP
    np.testing.assert_array_equal(corner.features, flat[kept, :3])
    np.testing.assert_array_equal(corner.logits, flat[kept, 5:9])
    assert mean.spatial is None and mean.logits is None
    assert mean.features.shape == (sum(kept), 1)


def test_exactly_the_images_that_count_are_gathered(pixels):
    told = []
    parts = parts_of(pixels)
    banks = feature_bank.gather({}, N, KEEP, parts, extract, progress=told.append)
    check(banks, pixels)
    assert told == [4, 8, 12, 16, 20, 22]


def test_rows_are_merged_now_and_then_with_the_same_result(pixels, monkeypatch):
    monkeypatch.setattr(feature_bank, "_ROWS", 5)
    merge, merged = feature_bank._Pending.merge_into, []

    def record(self, banks):
        merged.append(self.count)
        return merge(self, banks)

    monkeypatch.setattr(feature_bank._Pending, "merge_into", record)
    check(feature_bank.gather({}, N, KEEP, parts_of(pixels), extract), pixels)
    assert len(merged) > 2 and max(merged) < 5 + BATCH
    assert sum(merged) == len(good())


def test_saving_does_not_change_the_last_bit(pixels, monkeypatch):
    monkeypatch.setattr(feature_bank, "_ROWS", 5)
    monkeypatch.setattr(feature_bank, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(feature_bank, "_SAVE_SHARE", 0)
    saved = []
    often = feature_bank.gather(
        {}, N, KEEP, parts_of(pixels), extract, save=saved.append
    )
    never = feature_bank.gather({}, N, KEEP, parts_of(pixels), extract)
    assert [banks.position for banks in saved] == [4, 8, 12, 16, 20, 22, 22]
    for one, other in zip(
        often.by_network.values(), never.by_network.values(), strict=True
    ):
        np.testing.assert_array_equal(one.total.scatter, other.total.scatter)
        np.testing.assert_array_equal(one.features, other.features)


def test_of_what_cannot_be_written_nothing_is_left(pixels, tmp_path, monkeypatch):
    banks = feature_bank.gather({}, N, KEEP, parts_of(pixels), extract)

    def full(file, **arrays):
        file.write(b"a part")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        feature_bank.save(banks, tmp_path / "bank.npz")
    assert list(tmp_path.iterdir()) == []


def test_networks_are_not_asked_where_no_image_counts(pixels):
    asked = []

    def noted(images, position):
        asked.append(position)
        return extract(images, position)

    feature_bank.gather({}, N, KEEP, parts_of(pixels), noted)
    assert asked == [0, 4, 12, 16, 20]  # the third batch is bad as a whole


def test_what_is_kept_is_a_fair_sample_of_a_sorted_set():
    def parts(start):
        for first in range(start, 1000, 50):
            images = np.full((50, 1, 1, 3), first // 100, np.uint8)  # ten classes
            yield ImageBatch(images, np.zeros(50, np.int32), np.ones(50, bool))

    def extract(images, position):
        flat = images.reshape(len(images), -1)[:, :1].astype(np.float32)
        return {"class": Outputs(flat)}

    kept = (
        feature_bank.gather({}, 1000, 200, parts, extract)
        .by_network["class"]
        .features[:, 0]
    )
    assert len(kept) == 200
    # Twenty of each class, give or take five standard deviations.
    assert (np.abs(np.bincount(kept.astype(int), minlength=10) - 20) < 20).all()
    whole = (
        feature_bank.gather({}, 1000, 1000, parts, extract).by_network["class"].features
    )
    assert len(whole) == 1000


def test_the_few_of_a_smaller_keep_are_among_the_many_of_a_larger_one(pixels):
    def keep(number):
        return feature_bank.gather({}, N, number, parts_of(pixels), extract)

    few, many = keep(5), keep(9)
    assert len(few.priority) == 5 and len(many.priority) == 9
    again = many.subsample(5)
    np.testing.assert_array_equal(again.priority, few.priority)
    for name, found in few.by_network.items():
        np.testing.assert_array_equal(again.by_network[name].features, found.features)
        assert again.by_network[name].total.n == found.total.n == len(good())


class Stop(Exception):
    pass


def test_an_interrupted_pass_goes_on_where_it_was(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_bank, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(feature_bank, "_SAVE_SHARE", 0)
    path, identity, opened = tmp_path / "a" / "bank.npz", {"of": "these"}, []

    def failing(images, position):
        if position >= 12:
            raise Stop
        return extract(images, position)

    def save(banks):
        feature_bank.save(banks, path)

    arguments = identity, N, KEEP, parts_of(pixels, opened)
    with pytest.raises(Stop):
        feature_bank.gather(*arguments, failing, save=save)
    stored = feature_bank.load(path, identity)
    assert stored.position == 12
    banks = feature_bank.gather(*arguments, extract, stored=stored, save=save)
    assert opened == [0, 12]
    check(banks, pixels)
    again = feature_bank.load(path, identity)
    check(again, pixels)
    # Complete: nothing is read any more.
    check(feature_bank.gather(*arguments, extract, stored=again), pixels)
    assert opened == [0, 12]


def test_what_is_stored_of_other_images_says_what_differs(pixels, tmp_path):
    path = tmp_path / "bank.npz"
    made = {"size": [2, 2], "resize": "area"}
    feature_bank.save(
        feature_bank.gather(made, N, KEEP, parts_of(pixels), extract), path
    )
    other = {"size": [2, 2], "resize": "antialias"}
    with pytest.raises(
        feature_bank.Mismatch, match="resize: 'area' in the file, 'antialias' expected"
    ):
        feature_bank.load(path, other)
    assert feature_bank.digest(made) != feature_bank.digest(other)
    assert feature_bank.load(path).identity == made


def test_two_may_write_the_same_file(pixels, tmp_path, monkeypatch):
    """One begins in the middle of the other; a reader finds it whole at any time."""
    path, plain = tmp_path / "bank.npz", np.savez
    banks = feature_bank.gather({}, N, KEEP, parts_of(pixels), extract)

    def slow(file, **arrays):
        file.write(b"a part of it")
        file.flush()
        monkeypatch.setattr(np, "savez", plain)
        feature_bank.save(banks, path)  # of the other
        check(feature_bank.load(path), pixels)
        file.seek(0)
        plain(file, **arrays)

    monkeypatch.setattr(np, "savez", slow)
    feature_bank.save(banks, path)
    check(feature_bank.load(path), pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["bank.npz"]


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        feature_bank.load(tmp_path / "none.npz")
    path = tmp_path / "other.npz"
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(ValueError, match="is not a feature file of this library"):
        feature_bank.load(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match="or is damaged"):
        feature_bank.load(path)


def test_features_that_are_not_finite_name_network_and_images(pixels):
    def broken(images, position):
        found = extract(images, position)
        if position == 16:  # places 16 to 19, of which 17 is bad anyway
            found["mean"].features[2] = np.nan
        return found

    with pytest.raises(ValueError, match="network mean.*positions \\[18\\]"):
        feature_bank.gather({}, N, KEEP, parts_of(pixels), broken)


def test_fewer_images_than_asked_for_is_an_error(pixels):
    with pytest.raises(ValueError, match="asked for 30 images, got 24"):
        feature_bank.gather({}, 30, KEEP, parts_of(pixels), extract)
