"""What each key of the section `conditions` does, and the key `sample.prompts`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import diffusion, network, sampling
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.configs import conditions
from simple_diffusion.core.types import Batch
from simple_diffusion.data.text import words
from tests.build.every_key import Case, check

CAPTIONS = ("A red boat, on the left.", "Two green trees.", "A car.")


def shapes(config):
    """The parameters by name, with their shapes, and the module."""
    net = network.build_network(config, 0)
    made = jax.eval_shape(net.init, jax.random.key(0))
    found = jax.tree_util.tree_leaves_with_path(made)
    shape = {jax.tree_util.keystr(path): leaf.shape for path, leaf in found}
    return shape, repr(net.conditions)


def dropped(config):
    """Which examples of a batch are trained without their condition."""

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        # The null is seen in the loss, and in nothing else.
        return z_t * 0 + jnp.float32(cond.dropped["text"])[:, None, None, None]

    net = dataclasses.replace(network.build_network(config, 0), apply=apply)
    objective = diffusion.build_objective(config, net)
    batch = Batch(
        image=np.zeros((64, 8, 8, 3), np.uint8),
        label=np.zeros(64, np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (64, 1)),
        mask=np.ones(64, bool),
        fields={"text": np.zeros((64, config.conditions.text.length), np.int32)},
    )
    return objective({}, batch, objective.draw(jax.random.key(0), batch))


def tokens(config):
    """The tokens of captions, as training reads them."""
    made = words.make_tokenizer(CAPTIONS, config.conditions.text.vocabulary - 2)
    (encoder,) = field_conditions.build_encoders(config, made)
    return encoder.tokenizer.encode(CAPTIONS, encoder.length).ids


def prompts(config):
    """The tokens and groups of the images that are asked for."""
    made = words.make_tokenizer(CAPTIONS)
    plan = sampling.read_plan(config, network.build_network(config, 0), (), made)
    return plan.request.fields, plan.prompts, plan.groups


TEXT = {"conditions.text": conditions.text(8)}
SMALL = TEXT | {
    "conditions.text.width": 8,
    "conditions.text.heads": 2,
    "conditions.text.depth": 1,
}
CASES = {
    "conditions.drop_all": Case(0.5, dropped, SMALL),
    "conditions.text.length": Case(4, tokens, TEXT),
    "conditions.text.vocabulary": Case(5, tokens, TEXT),
    "conditions.text.width": Case(16, shapes, SMALL),
    "conditions.text.depth": Case(2, shapes, SMALL),
    "conditions.text.heads": Case(4, shapes, SMALL),
    "conditions.text.drop": Case(0.5, dropped, SMALL),
    "sample.prompts": Case(
        "a car; a red boat", prompts, TEXT | {"sample.prompts": "trees"}
    ),
}


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key):
    check(key, CASES[key])
