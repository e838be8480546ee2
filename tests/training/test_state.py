import jax
import numpy as np

from simple_diffusion.core import arrays
from simple_diffusion.training import sharding, state
from tests.training import toy


def test_the_plan_of_a_state_is_what_is_made():
    plan = toy.blueprint(sharding.make_mesh(2, 2, 2))
    made = plan.create()
    for want, got in zip(
        jax.tree.leaves(plan.abstract), jax.tree.leaves(made), strict=True
    ):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        assert want.sharding.is_equivalent_to(got.sharding, got.ndim)


def test_each_device_makes_only_its_part():
    made = toy.blueprint(sharding.make_mesh(1, 8, 1)).create()
    kernel = made.params["inner"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8


def test_the_initial_state_does_not_depend_on_the_mesh():
    one = toy.blueprint().create()
    for axes in [(8, 1, 1), (2, 4, 1), (2, 2, 2)]:
        many = toy.blueprint(sharding.make_mesh(*axes)).create()
        jax.tree.map(np.testing.assert_array_equal, one.params, many.params)


def test_averages_begin_at_the_parameters_and_share_no_memory_with_them():
    made = toy.blueprint().create()
    for average in made.ema.values():
        jax.tree.map(np.testing.assert_array_equal, average, made.params)
    pointers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((made.params, made.ema))
    ]
    assert len(set(pointers)) == len(pointers)


def test_nothing_is_allocated_for_a_plan():
    def init(key):
        return {"kernel": jax.random.normal(key, (400_000, 400_000))}

    plan = state.blueprint(init, toy.adam(), {}, mesh=sharding.make_mesh(1, 8, 1))
    assert arrays.tree_size(plan.abstract.params) == 160_000_000_000


def test_the_initial_parameters_follow_from_the_seed():
    def created(seed):
        plan = state.blueprint(toy.init, toy.adam(), {}, mesh=toy.ONE_DEVICE, seed=seed)
        return jax.device_get(plan.create().params)

    first, again, other = created(1), created(1), created(2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for name in ("inner", "outer"):
        assert not np.isclose(first[name]["kernel"], other[name]["kernel"]).any()
