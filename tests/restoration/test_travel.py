import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import rng
from simple_diffusion.core.types import Solver
from simple_diffusion.diffusion import process, schedules
from simple_diffusion.restoration import travel
from simple_diffusion.restoration.travel import Travel
from simple_diffusion.sampling import grids, loop, solvers
from tests.gaussian import Gaussian
from tests.vectors import vector

SHAPE = (4, 4, 3)
ROWS = vector("restoration.time_travel_nfe")


def keys(count=4):
    return rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(count))


def same(x):
    return x


def restored(way, solver=None, steps=20, count=4, family=process.VP, progress=None):
    solver = solvers.ddim(family) if solver is None else solver
    grid = grids.uniform_t(schedules.cosine(), steps)
    model = Gaussian().denoiser(family)
    return jax.jit(
        lambda: travel.restore(
            model, solver, same, grid, keys(count), SHAPE, family, way, progress
        )
    )()


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['steps']}-{r['jump_length']}")
def test_network_calls_and_steps_back_are_those_published(row):
    way = Travel(row["jump_length"], row["repeats"])
    assert travel.network_calls(row["steps"], way) == row["network_calls"]
    visited = travel.itinerary(row["steps"], way)
    up = sum(b > a for a, b in zip(visited[:-1], visited[1:], strict=True))
    assert up == row["renoise_steps"]


def test_the_way_goes_back_where_it_should():
    assert travel.itinerary(5, Travel(2, 2)) == [
        4,
        3,
        2,
        3,
        4,
        3,
        2,
        1,
        0,
        1,
        2,
        1,
        0,
        -1,
    ]
    assert travel.itinerary(3, Travel(1, 1)) == [2, 1, 0, -1]


@pytest.mark.parametrize("way", [Travel(5, 2), Travel(1, 3), Travel(7, 2, False)])
def test_the_network_is_called_as_often_as_is_said(way):
    called = []

    def denoise(z_t, logsnr):
        jax.debug.callback(lambda: called.append(1))
        return jnp.zeros_like(z_t)

    grid = grids.uniform_t(schedules.cosine(), 20)
    solver = solvers.ddim()
    jax.jit(
        lambda: travel.restore(denoise, solver, same, grid, keys(1), SHAPE, travel=way)
    )()
    jax.effects_barrier()
    assert len(called) == travel.network_calls(20, way)


def test_without_travel_it_is_the_sampler():
    grid = grids.uniform_t(schedules.cosine(), 20)
    want = jax.jit(
        lambda: loop.sample(
            Gaussian().denoiser(), solvers.ancestral(), grid, keys(), SHAPE
        )
    )()
    np.testing.assert_array_equal(restored(Travel(), solvers.ancestral()), want)


@pytest.mark.parametrize("from_estimate", [True, False])
@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=lambda f: f.name)
def test_travel_keeps_the_mean_of_the_model(from_estimate, family):
    way = Travel(5, 3, from_estimate)
    x = restored(way, solvers.ancestral(family), 40, 256, family)
    assert abs(float(x.mean()) - Gaussian().mean) < 0.03  # 12288 numbers
    assert not np.allclose(
        x, restored(Travel(), solvers.ancestral(family), 40, 256, family)
    )


def test_travel_from_where_it_stands_keeps_the_variance():
    """The process itself, one step there and back: exact as the steps grow short."""
    way = Travel(10, 2, from_estimate=False)
    x = restored(way, solvers.ancestral(gamma=1.0), 200, 256)
    assert abs(float(x.std()) / Gaussian().std - 1) < 0.03


def test_several_steps_back_are_one_move_with_the_right_level():
    start, end = travel._moves(travel.itinerary(5, Travel(2, 2)))
    assert list(zip(start, end, strict=True)) == [
        (4, 3), (3, 2), (2, 4), (4, 3), (3, 2), (2, 1), (1, 0), (0, 2), (2, 1), (1, 0),
    ]  # fmt: skip


def test_multistep_solvers_begin_anew_after_going_back():
    states = []

    def step(denoise, z_t, state, logsnr_t, logsnr_s, keys):
        jax.debug.callback(lambda s: states.append(int(s)), state, ordered=True)
        return denoise(z_t, jnp.broadcast_to(logsnr_t, z_t.shape[:1])), state + 1

    solver = Solver(lambda z_t: jnp.int32(0), step)
    grid = grids.uniform_t(schedules.cosine(), 4)
    model = Gaussian().denoiser()
    travel.restore(model, solver, same, grid, keys(1), SHAPE, travel=Travel(2, 2))
    jax.effects_barrier()
    # Down to level 0, back to 2, down again.
    assert states[:5] == [0, 1, 2, 0, 1]


def test_an_image_does_not_depend_on_its_neighbours():
    way = Travel(4, 2)
    many = restored(way, solvers.ancestral(), count=4)
    few = restored(way, solvers.ancestral(), count=2)
    np.testing.assert_allclose(many[:2], few, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "way", "moves"),
    # Forwards, back, and from the last level to the image.
    [(20, Travel(5, 2), 34 + 3 + 1), (51, Travel(), 51)],
    ids=["few", "many"],
)
def test_progress_is_reported_after_every_move(steps, way, moves):
    seen = {}

    def progress(done, total, x_hat):
        assert total == moves
        seen[done] = np.asarray(x_hat)

    image = restored(way, steps=steps, progress=progress)
    jax.effects_barrier()
    assert sorted(seen) == list(range(1, moves + 1))
    np.testing.assert_array_equal(seen[moves], image)


@pytest.mark.parametrize(
    ("steps", "way", "key"),
    [
        (0, Travel(), "restore.steps=0"),
        (5, Travel(0), "restore.travel_length=0"),
        (5, Travel(1, 0), "restore.travel_repeat=0"),
    ],
)
def test_numbers_below_one_name_their_key(steps, way, key):
    with pytest.raises(ValueError, match=key):
        travel.itinerary(steps, way)
