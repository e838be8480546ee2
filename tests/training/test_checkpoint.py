import contextlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion.training import checkpoint, ema, sharding, store
from tests.training import toy

# A read that fails leaves other reads of orbax unfinished; Python reports them when it
# collects them, in whichever test that is.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def plan():
    return toy.blueprint()


@pytest.fixture(scope="module")
def initial(plan):
    return plan.create()


def at(step, state):
    """Returns a state, sharing no array with the given one, that tells its step."""
    new = jax.tree.map(jnp.copy, state)
    params = jax.tree.map(lambda v: v + step, state.params)
    return new.replace(step=jnp.full_like(state.step, step), params=params)


def open_(folder, **settings):
    return contextlib.closing(checkpoint.Checkpoints(folder, **settings))


@pytest.fixture(scope="module")
def three(tmp_path_factory, initial):
    """A folder with checkpoints of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    with open_(folder) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, at(step, initial))
    return folder


@pytest.fixture
def copy(three, tmp_path):
    """A copy of these, to be damaged."""
    return shutil.copytree(three, tmp_path / "checkpoints")


def test_what_is_restored_is_what_was_saved_to_the_last_bit(three, plan, initial):
    with open_(three) as checkpoints:
        restored = checkpoints.restore(plan.abstract)
    assert_same(restored, at(3, initial))
    assert jax.tree.structure(restored) == jax.tree.structure(initial)


def test_an_empty_folder_has_nothing_to_restore(tmp_path, plan):
    with open_(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(plan.abstract) is None
        assert checkpoints.steps() == []


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path, plan, initial):
    overwrite = jax.jit(
        lambda state: jax.tree.map(lambda v: v * 0, state), donate_argnums=0
    )
    with open_(tmp_path) as checkpoints, jax.debug_nans(False):
        state = at(1, initial)
        checkpoints.save(1, state)
        for _ in range(10):
            state = overwrite(state)
        checkpoints.wait()
        assert_same(checkpoints.restore(plan.abstract), at(1, initial))


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_arrays_are_restored_straight_to_where_they_belong(axes, three, initial):
    plan = toy.blueprint(sharding.make_mesh(*axes))
    with open_(three) as checkpoints:
        restored = checkpoints.restore(plan.abstract)
    assert_same(restored, at(3, initial))
    for want, got in zip(
        jax.tree.leaves(plan.abstract), jax.tree.leaves(restored), strict=True
    ):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_the_newest_are_kept_and_every_so_often_one_for_ever(tmp_path, initial):
    with open_(tmp_path, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 12):
            checkpoints.save(step, initial)
        checkpoints.wait()
        assert checkpoints.steps() == [4, 8, 10, 11]


def test_a_step_that_is_saved_already_is_not_saved_again(copy, plan, initial):
    with open_(copy) as checkpoints:
        checkpoints.save(3, at(99, initial))
        checkpoints.wait()
        assert_same(checkpoints.restore(plan.abstract), at(3, initial))


def truncate(folder):
    for path in (folder / "params").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_data(folder):
    for path in (folder / "params").rglob("d/*"):
        path.unlink()


def remove_part(folder):
    shutil.rmtree(folder / "ema_main")


def remove_note(folder):
    shutil.rmtree(folder / "note")


def garble_note(folder):
    (folder / "note" / "metadata").write_text('{"arrays": {"par')


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGES = [truncate, remove_data, remove_part, remove_note, garble_note, empty]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_used(
    damage, copy, plan, initial, caplog
):
    damage(copy / "3")
    with open_(copy) as checkpoints:
        assert_same(checkpoints.restore(plan.abstract), at(2, initial))
        assert checkpoints.steps() == [1, 2]
        # Its step is free to be saved again.
        checkpoints.save(3, at(3, initial))
        checkpoints.wait()
        assert_same(checkpoints.restore(plan.abstract), at(3, initial))
    assert "damaged checkpoint, trying the one before: step 3" in caplog.text
    assert (copy.parent / "damaged" / "3").is_dir()


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(content)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=12)
def test_a_flipped_bit_is_never_restored(three, plan, initial, which, position):
    """Anywhere in any file: either it does no harm or the checkpoint is not used."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(three, Path(name) / "checkpoints")
        files = sorted(p for p in (folder / "3").rglob("*") if p.is_file())
        files = [p for p in files if p.stat().st_size]
        flip(files[which % len(files)], position)
        with open_(folder) as checkpoints:
            restored = checkpoints.restore(plan.abstract)
        step = int(restored.step)
        assert step in (2, 3)
        assert_same(restored, at(step, initial))


def test_a_flipped_bit_in_a_large_array_is_seen_by_its_fingerprint(
    tmp_path, plan, initial, caplog
):
    """The files of large arrays carry no checksum of their own."""
    kernel = jax.random.normal(jax.random.key(0), (64, 64))
    large = initial.replace(params={"kernel": kernel}, ema={})
    folder = tmp_path / "checkpoints"
    with open_(folder) as checkpoints:
        checkpoints.save(1, large)
        checkpoints.save(2, large)
    files = [p for p in (folder / "2").rglob("*") if p.is_file()]
    data = [p for p in files if p.stat().st_size > 10_000]
    assert data
    for path in data:
        flip(path, 7_000)
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=kernel.sharding)
    with open_(folder) as checkpoints:
        abstract = plan.abstract.replace(params={"kernel": shape}, ema={})
        assert_same(checkpoints.restore(abstract).params, large.params)
        assert checkpoints.steps() == [1]
    assert "the contents of kernel are not what was saved" in caplog.text


def test_if_all_are_damaged_the_run_does_not_silently_begin_anew(copy, plan):
    for step in (1, 2, 3):
        truncate(copy / f"{step}")
    with open_(copy) as checkpoints:
        with pytest.raises(
            checkpoint.CheckpointError, match="all checkpoints in .* are"
        ):
            checkpoints.restore(plan.abstract)
        assert checkpoints.steps() == [1, 2, 3]  # nor does the next start


def test_the_rubbish_of_a_killed_save_is_ignored_and_cleared(copy, plan, initial):
    rubbish = copy / "4.orbax-checkpoint-tmp"
    shutil.copytree(copy / "3" / "params", rubbish / "params")
    with open_(copy) as checkpoints:
        assert_same(checkpoints.restore(plan.abstract), at(3, initial))
    assert not rubbish.exists()


def test_a_checkpoint_of_another_model_says_which_arrays_differ(three, plan):
    state = plan.abstract
    shape = jax.ShapeDtypeStruct((3, 32), jnp.bfloat16)
    params = {
        "inner": state.params["inner"] | {"kernel": shape},
        "outer": state.params["outer"] | {"bias": shape},
    }
    wanted = state.replace(params=params, ema=state.ema | {"slow": params})
    with open_(three) as checkpoints:
        with pytest.raises(
            store.CheckpointMismatch, match="step 3 .* does not fit"
        ) as caught:
            checkpoints.restore(wanted)
        # A sound checkpoint is left where it is.
        assert checkpoints.steps() == [1, 2, 3]
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == [
        "params/inner/kernel: float32[3, 16] in the checkpoint, bfloat16[3, 32] in the "
        "model",
        "params/label/embedding: in the checkpoint only",
        "params/outer/bias: not in the checkpoint",
        "ema_slow: not in the checkpoint, which has ema_main, ema_power, params, "
        "progress",
    ]


@pytest.mark.parametrize("average", [None, "main", "power"])
def test_parameters_and_averages_are_restored_alone(average, three, plan, initial):
    step, params = checkpoint.restore_params(three, plan.abstract.params, average)
    saved = at(3, initial)
    assert step == 3
    assert_same(params, saved.params if average is None else saved.ema[average])


def test_sampling_reads_an_older_checkpoint_when_asked(three, plan, initial):
    _, params = checkpoint.restore_params(three, plan.abstract.params, None, step=1)
    assert_same(params, at(1, initial).params)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"no checkpoint of step 7 .*3\]"
    ):
        checkpoint.restore_params(three, plan.abstract.params, None, step=7)


def test_sampling_falls_back_too_and_moves_nothing(copy, plan, initial):
    truncate(copy / "3")
    before = sorted(copy.rglob("*"))
    step, params = checkpoint.restore_params(copy, plan.abstract.params, None)
    assert step == 2
    assert_same(params, at(2, initial).params)
    assert sorted(copy.rglob("*")) == before


def test_sampling_names_the_averages_there_are(three, plan):
    with pytest.raises(store.MissingTree, match="ema_slow: .* ema_main, ema_power"):
        checkpoint.restore_params(three, plan.abstract.params, "slow")


def test_sampling_without_a_checkpoint_says_so(tmp_path, plan):
    with pytest.raises(checkpoint.CheckpointError, match="there is no folder"):
        checkpoint.restore_params(tmp_path / "none", plan.abstract.params)
    with pytest.raises(
        checkpoint.CheckpointError, match="no checkpoint in .*train first"
    ):
        checkpoint.restore_params(tmp_path, plan.abstract.params)


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "workdir").write_text("a file, not a folder")
    with pytest.raises(checkpoint.CheckpointError, match="cannot write to .*--workdir"):
        checkpoint.Checkpoints(tmp_path / "workdir" / "checkpoints")


def test_a_save_that_fails_is_an_error_and_says_what_there_is(copy, initial):
    with pytest.raises(
        checkpoint.CheckpointError, match="could not .* in .*checkpoints"
    ):
        with open_(copy) as checkpoints:
            shutil.rmtree(copy)
            copy.write_text("the disk is gone")
            checkpoints.save(4, initial)
            checkpoints.wait()


def test_one_checkpoint_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep at least 2"):
        checkpoint.Checkpoints(tmp_path, keep=1)


@pytest.mark.parametrize(("lower", "better"), [(True, [1, 3]), (False, [1, 2, 4])])
def test_the_best_checkpoint_is_that_of_the_best_value(
    tmp_path, initial, lower, better
):
    best = checkpoint.BestCheckpoint(tmp_path, "metric", lower)
    with contextlib.closing(best):
        values = {1: 5.0, 2: 7.0, 3: 4.0, 4: 8.0, 5: np.nan, 6: 6.0}
        saved = [k for k, v in values.items() if best.save_if_better(k, initial, v)]
    assert saved == better
    assert [path.name for path in tmp_path.iterdir()] == [str(better[-1])]


def test_fingerprints_see_every_bit_and_no_mesh():
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    changed = values.copy()
    changed.view(np.uint32)[5, 3] ^= 1
    expected = values.view(np.uint32).sum(dtype=np.uint32)
    assert store.fingerprint(jnp.asarray(values)) == expected
    assert store.fingerprint(jnp.asarray(changed)) != expected
    mesh = sharding.make_mesh(2, 4, 1)
    split = jax.device_put(values, sharding.state_shardings(values, mesh, toy.RULES))
    assert store.fingerprint(split) == expected


def test_an_average_of_any_length_is_made_from_snapshots(
    tmp_path, plan, initial, caplog
):
    averages = {"a": ema.PowerFunction(0.05), "b": ema.PowerFunction(0.1)}
    tracked = averages | {"wanted": ema.PowerFunction(0.075)}
    move = jax.jit(lambda e, p, n: ema.update(e, p, tracked, n))
    state = initial.replace(ema=dict.fromkeys(tracked, initial.params))
    folder = tmp_path / "snapshots"
    snapshots = checkpoint.Snapshots(folder, averages | {"main": ema.Exponential()})
    with contextlib.closing(snapshots):
        for n in range(1, 201):
            params = jax.tree.map(lambda v: v + np.sin(n / 40), initial.params)  # noqa: B023
            state = state.replace(step=jnp.int32(n), ema=move(state.ema, params, n))
            if n % 20 == 0:
                snapshots.save(n, state)
    rebuilt = checkpoint.reconstruct(folder, 0.075, plan.abstract.params)
    tracked_average = jax.device_get(state.ema["wanted"])
    jax.tree.map(
        # The two stored averages are 0.01 to 0.03 away.
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
        rebuilt,
        tracked_average,
    )
    assert "away from the nearest combination" not in caplog.text
    checkpoint.reconstruct(folder, 0.25, plan.abstract.params, step=80)
    said = re.search(r"average of length 0.25 is (\d+) % away", caplog.text)
    assert said and int(said[1]) > 100 * checkpoint.FAR_PROFILE
    assert "4 snapshots with lengths [0.05, 0.1]" in caplog.text
    assert "ema.snapshot_every_steps" in caplog.text
    earlier = checkpoint.reconstruct(folder, 0.1, plan.abstract.params, step=110)
    with contextlib.closing(checkpoint.Snapshots(folder, averages)):
        notes = json.loads((folder / "100" / "note" / "metadata").read_text())
    assert notes["sigma_rels"] == {"a": 0.05, "b": 0.1}
    direct = checkpoint.restore_params(folder, plan.abstract.params, "b", step=100)[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), earlier, direct
    )


def test_a_snapshot_counts_updates_and_not_steps_that_were_skipped(tmp_path, initial):
    averages = {"a": ema.PowerFunction(0.05)}
    state = initial.replace(
        step=jnp.int32(30), skipped=jnp.int32(10), ema={"a": initial.params}
    )
    with contextlib.closing(checkpoint.Snapshots(tmp_path, averages)) as snapshots:
        snapshots.save(30, state)
    note = json.loads((tmp_path / "30" / "note" / "metadata").read_text())
    assert note["updates"] == 20


def test_without_snapshots_there_is_nothing_to_reconstruct(tmp_path, plan):
    with pytest.raises(checkpoint.CheckpointError, match="no snapshot of the averages"):
        checkpoint.reconstruct(tmp_path, 0.1, plan.abstract.params)
