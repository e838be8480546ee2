"""What each key of the section `conditions` does, and how `sample` asks for them."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from simple_diffusion.build import data, diffusion, network
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.conditioning import lexicon as lexicon_of
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.build.denoising import build_denoising
from simple_diffusion.build.text import frozen
from simple_diffusion.configs import conditions
from simple_diffusion.core.types import Batch
from simple_diffusion.data.errors import BadImage
from simple_diffusion.data.records.text_features import TextEncoding
from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.sources import catalogue, digits
from simple_diffusion.data.text import words
from simple_diffusion.pipelines.requests.plan import read_plan
from tests.build.every_key import Case, check, set_keys, tiny
from tests.build.text import text_encoder_folders

CAPTIONS = ("A red boat, on the left.", "Two green trees.", "A car.")
CATEGORIES = len(scenes.CATEGORY_NAMES)


def shapes(config):
    """The parameters by name, with their shapes, and the module."""
    net = network.build_network(config, 0)
    made = jax.eval_shape(net.init, jax.random.key(0))
    found = jax.tree_util.tree_leaves_with_path(made)
    shape = {jax.tree_util.keystr(path): leaf.shape for path, leaf in found}
    return shape, repr(net.conditions)


def dropped(config, name="text"):
    """Which examples of a batch are trained without their condition."""

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        # The null is seen in the loss, and in nothing else.
        return z_t * 0 + jnp.float32(cond.dropped[name])[:, None, None, None]

    net = dataclasses.replace(network.build_network(config, 0), apply=apply)
    objective = diffusion.build_objective(config, net)
    (encoder,) = field_conditions.build_encoders(config, lexicon())
    blank = {
        key: np.full((64, *spec.shape), spec.blank, spec.dtype)
        for key, spec in encoder.specs((8, 8)).items()
    }
    batch = Batch(
        image=np.zeros((64, 8, 8, 3), np.uint8),
        label=np.zeros(64, np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (64, 1)),
        mask=np.ones(64, bool),
        fields=blank,
    )
    return objective({}, batch, objective.draw(jax.random.key(0), batch))


def lexicon():
    """The words and names of the scenes."""
    names = scenes.CATEGORY_NAMES
    return Lexicon(words.make_tokenizer(CAPTIONS), {"layout": names, "semantic": names})


def host_arrays(config):
    """The shapes of the arrays that a batch has for the conditions."""
    encoders = field_conditions.build_encoders(config, lexicon())
    return [str(encoder.specs((8, 8))) for encoder in encoders]


def prompted(config):
    """What prompts become by the frozen encoder in a folder; or the error."""
    folder = config.conditions.text_features.encoder
    digest = "" if "gone" in folder else frozen.compute_digest(folder)
    encoding = TextEncoding(digest, "t5", 32, 8, "float32")
    net = network.build_network(config, 0)
    try:
        plan = read_plan(config, net, (), Lexicon(text_encoding=encoding))
    except ValueError as error:
        return str(error)
    return plan.request.fields, plan.prompts, plan.groups


def tokens(config):
    """The tokens of captions, as training reads them."""
    made = words.make_tokenizer(CAPTIONS, config.conditions.text.vocabulary - 2)
    (encoder,) = field_conditions.build_encoders(config, Lexicon(made))
    return encoder.tokenizer.encode(CAPTIONS, encoder.length).ids


def read(config):
    """The first batch of the training, as the network gets it; or the error."""
    folder = epath.Path("no_workdir")
    try:
        found = field_conditions.open_data(config, data.SINGLE_PROCESS, folder)[0]
        batch = next(found.train(0))
        made = field_conditions.build_field_conditions(config)
        return [condition.of_batch(batch) for condition in made]
    except (ValueError, BadImage) as error:
        return str(error)


def plan(config):
    """What the images that are asked for are to show."""
    found = read_plan(config, network.build_network(config, 0), (), lexicon())
    return found.request.fields, found.prompts, found.groups


def steps(config):
    """How guidance adds the conditions."""
    net = network.build_network(config, 3)
    denoising = build_denoising(config, net, guided=True, clip="none")
    return str((denoising.steps, denoising.removed))


TEXT = {"conditions.text": conditions.text(8)}
SMALL = TEXT | {
    "conditions.text.width": 8,
    "conditions.text.heads": 2,
    "conditions.text.depth": 1,
}
SCENES = {"data.source": "scenes", "data.num_classes": 0}
LAYOUT = SCENES | {"conditions.layout": conditions.layout(CATEGORIES)}
SEMANTIC = SCENES | {"conditions.semantic": conditions.semantic(CATEGORIES)}
SMALL_IMAGE = SCENES | {"conditions.low_resolution": conditions.low_resolution(2)}
NOISY = SMALL_IMAGE | {"conditions.low_resolution.augmentation": 0.5}
HOLE = SCENES | {"conditions.inpainting": conditions.inpainting()}
IMAGE = SCENES | {"conditions.image": conditions.image("depth")}
VECTOR = SCENES | {"conditions.vector": conditions.vector("camera", 2)}
FEATURES = {"conditions.text_features": conditions.text_features(None, 32, 8, 8)}
ENCODER = {
    "conditions.text_features.encoder": "{folder}/t5",
    "sample.prompts": "a red boat; ; a red boat",
}
ALL = TEXT | LAYOUT | SEMANTIC | SMALL_IMAGE | HOLE | IMAGE | VECTOR
ALL |= {"conditions.text.width": 128}
ALL_FEATURES = {**ALL, **FEATURES, "conditions.text_features.width": 128}
del ALL_FEATURES["conditions.text"], ALL_FEATURES["conditions.text.width"]


def drop(name, given):
    """The key of the rate at which one condition alone is dropped."""
    probe = functools.partial(dropped, name=name)
    return {f"conditions.{name}.drop": Case(0.5, probe, given)}


FILES = "{folder}"
CASES = {
    "conditions.drop_all": Case(0.5, dropped, SMALL),
    "conditions.text.length": Case(4, tokens, TEXT),
    "conditions.text.vocabulary": Case(5, tokens, TEXT),
    "conditions.text.width": Case(16, shapes, SMALL),
    "conditions.text.depth": Case(2, shapes, SMALL),
    "conditions.text.heads": Case(4, shapes, SMALL),
    "conditions.text.pooled": Case(True, shapes, SMALL),
    "conditions.text_features.encoder": Case(
        "{folder}/gone", prompted, FEATURES | ENCODER
    ),
    "conditions.text_features.features": Case(16, shapes, FEATURES),
    "conditions.text_features.length": Case(9, host_arrays, FEATURES),
    "conditions.text_features.width": Case(16, shapes, FEATURES),
    "conditions.layout.classes": Case(7, read, LAYOUT),
    "conditions.layout.objects": Case(1, read, LAYOUT),
    "conditions.layout.width": Case(64, shapes, LAYOUT),
    "conditions.layout.bands": Case(2, shapes, LAYOUT),
    "conditions.semantic.map": Case(
        "instance", read, SEMANTIC | {"conditions.semantic.map": "semantic"}
    ),
    "conditions.semantic.classes": Case(7, read, SEMANTIC),
    "conditions.semantic.channels": Case(2, shapes, SEMANTIC),
    "conditions.low_resolution.factor": Case(4, read, SMALL_IMAGE),
    "conditions.low_resolution.degradation": Case("area", read, SMALL_IMAGE),
    "conditions.low_resolution.augmentation": Case(0.5, read, SMALL_IMAGE),
    "conditions.inpainting.holes": Case(("half",), read, HOLE),
    "conditions.image.map": Case("instance", read, IMAGE),
    "conditions.image.channels": Case(3, shapes, IMAGE),
    "conditions.image.kind": Case("pixels", read, IMAGE),
    "conditions.image.low": Case(-1.0, read, IMAGE),
    "conditions.image.high": Case(2.0, read, IMAGE),
    "conditions.vector.vector": Case("light", read, VECTOR),
    "conditions.vector.features": Case(5, shapes, VECTOR),
    "sample.prompts": Case("a car; a red boat", plan, TEXT | {"sample.prompts": "b"}),
    "sample.layout": Case(
        FILES + "/one.json", plan, LAYOUT | {"sample.layout": FILES + "/two.json"}
    ),
    "sample.map": Case(
        FILES + "/one.npy", plan, IMAGE | {"sample.map": FILES + "/two.npy"}
    ),
    "sample.low_resolution": Case(
        FILES + "/small/one.png",
        plan,
        SMALL_IMAGE | {"sample.low_resolution": FILES + "/small/two.png"},
    ),
    "sample.low_resolution_noise": Case(
        0.4, plan, NOISY | {"sample.low_resolution": FILES + "/small/two.png"}
    ),
    "sample.image": Case(
        FILES + "/large/one.png",
        plan,
        HOLE
        | {"sample.image": FILES + "/large/two.png", "sample.hole_mask": "box:2x2"},
    ),
    "sample.hole_mask": Case(
        "box:4x4",
        plan,
        HOLE
        | {"sample.image": FILES + "/large/two.png", "sample.hole_mask": "box:2x2"},
    ),
    "sample.vector": Case("1,2", plan, VECTOR | {"sample.vector": "3,4"}),
    **{
        f"sample.guidance_of.{name}": Case(
            3.0, steps, ALL_FEATURES if name == "text_features" else ALL
        )
        for name in ("classes", *conditions.KINDS)
    },
}
for name, given in {
    "text": SMALL,
    "text_features": FEATURES,
    "layout": LAYOUT,
    "semantic": SEMANTIC,
    "low_resolution": SMALL_IMAGE,
    "inpainting": HOLE,
    "image": IMAGE,
    "vector": VECTOR,
}.items():
    CASES |= drop(name, given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the files that the cases ask for."""
    folder = tmp_path_factory.mktemp("values")
    text_encoder_folders.write_t5(folder / "t5")
    for k, name in enumerate(("one", "two")):
        box = {"class": "car", "box": [0, 0, 1, 0.5 + 0.5 * k]}
        (folder / f"{name}.json").write_text(json.dumps([box]))
        np.save(folder / f"{name}.npy", np.full((8, 8), 0.5 * k, np.float32))
        for kind, side in (("small", 4), ("large", 8)):
            (folder / kind).mkdir(exist_ok=True)
            pixels = np.full((side, side, 3), 100 * k, np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")
    return str(folder)


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key, folder):
    check(key, CASES[key], folder)


def test_captions_have_one_reader():
    config = tiny()
    set_keys(config, SMALL | FEATURES)
    with pytest.raises(ValueError, match="text and conditions.text_features both read"):
        network.build_network(config, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.source": "scenes"}, "prepare --input scenes --output .*--text_encoder"),
        ({"conditions.text_features.features": 16}, "features=16, but .* 32 features"),
        ({"conditions.text_features.length": 7}, "length=7, but .*up to 8 tokens"),
        ({"conditions.text_features.encoder": "{folder}/t5"}, "has the digest"),
        ({"data.flip": True}, "data.flip=True mirrors images, but text features"),
    ],
)
def test_stored_features_must_fit_the_config(changes, message, folder, monkeypatch):
    encoding = TextEncoding("0" * 64, "t5", 32, 8, "float32")
    monkeypatch.setattr(digits.DigitsSource, "text_encoding", encoding, raising=False)
    config = tiny()
    given = {"data.source": "digits", "data.num_classes": 0, "data.flip": False}
    set_keys(config, FEATURES | given | changes, folder)
    with pytest.raises(ValueError, match=message):
        source = catalogue.open_source(config.data.source)
        made = lexicon_of.make(config, source, epath.Path("no_workdir"))
        needs = field_conditions.build_encoders(config, made)[0].needs
        data._swaps_sides(config.data, needs)
