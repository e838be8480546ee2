"""What each key of data, diffusion, loss, optimizer, ema, mesh and train does."""

import contextlib
import dataclasses
import io
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.build import data, diffusion, evaluation, network, training
from simple_diffusion.configs import base
from simple_diffusion.core.types import Batch
from simple_diffusion.data.conditioning import encoders
from simple_diffusion.data.sources import catalogue
from simple_diffusion.diffusion import likelihood, process
from simple_diffusion.modes import train
from simple_diffusion.training import checkpoint, loop, report, state, step
from tests.build.every_key import Case, check, kinds, tiny, write_images


def first_batches(config):
    """The classes, and the first batches of the training and of held-out images."""
    opened = data.open_data(config)
    found = []
    for batches in (opened.train(0), opened.held_out(4, 8)):
        batch = next(batches)
        batches.close()
        found.append((batch.image, batch.label, batch.box, batch.mask))
    return found, opened.num_classes, opened.class_names, opened.epoch


@dataclasses.dataclass(frozen=True)
class LeftHand:
    """Encodes whether a caption says left."""

    name: str = "left"
    needs: frozenset = frozenset({"caption"})

    def specs(self, size):
        return {"left": encoders.Spec((), "bool")}

    def encode(self, example, rng):
        return {"left": np.array("left" in example.caption)}


def sides(config):
    """Which captions of the first batch say left."""
    opened = data.open_data(config, make_encoders=lambda source: [LeftHand()])
    with contextlib.closing(opened.train(0)) as batches:
        return next(batches).fields


def tfds_folder(config):
    """Where TFDS is asked to look for a data set."""
    with mock.patch.object(catalogue.tfds_source, "TfdsSource") as source:
        source.return_value.class_names = ()
        source.return_value.__len__.return_value = 1
        data.open_data(config)
    return source.call_args.args[1]


def tfds_mapping(config):
    """Which features TFDS is asked for."""
    with mock.patch.object(catalogue.tfds_source, "TfdsSource") as source:
        source.return_value.class_names = ()
        source.return_value.__len__.return_value = 1
        data.open_data(config)
    return source.call_args.args[5]


def with_apply(config, apply, num_classes=3):
    """The network of a config with another function in place of its own."""
    return dataclasses.replace(network.build_network(config, num_classes), apply=apply)


def linear(params, z_t, logsnr, cond, dropout_key=None):
    return 0.1 * z_t + 0.2 * jnp.float32(cond.label)[:, None, None, None]


def losses(config):
    """Losses and noise levels of a batch of patches, whatever the data is."""
    objective = diffusion.build_objective(config, with_apply(config, linear))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    box = np.tile(np.array([[0, 0, 1, 1], [0.5, 0.25, 1, 0.75]], np.float32), (4, 1))
    label = jnp.arange(8, dtype=jnp.int32) % 3
    batch = Batch(image=image, label=label, box=box, mask=np.ones(8, bool))
    draw = objective.draw(jax.random.key(0), batch)
    return objective({}, batch, draw)


def updates(config):
    """Three updates of a kernel and a bias; or why there is no optimizer."""
    try:
        adam = training.build_optimizer(config, total_steps=4)
    except ValueError as error:
        return str(error)
    params = {"kernel": jnp.array([2.0, -3.0]), "bias": jnp.array([1.0])}
    opt_state, found = adam.transform.init(params), []
    for scale in (1.0, 0.2, 3.0):
        grads = jax.tree.map(lambda p, s=scale: s * p, params)
        update, opt_state = adam.transform.update(grads, opt_state, params)
        found.append(update)
    return found, [float(adam.learning_rate(k)) for k in range(4)]


def averages(config):
    """The decay of each average at some steps."""
    steps = (1, 3, 100)
    tracked = training.build_averages(config)
    return {
        name: [float(a(jnp.int32(k))) for k in steps] for name, a in tracked.items()
    }


def placement(config):
    """The devices along each axis, and how they share a batch of images."""
    try:
        mesh = training.build_mesh(config)
    except ValueError as error:  # these devices are in one slice
        return str(error)
    return dict(mesh.shape), str(training.batch_shardings(config, mesh)(4).spec)


def patience(config):
    """What the watchdog is made with that each mode enters before all else."""
    made = training.cluster.Watchdog
    with mock.patch.object(training.cluster, "Watchdog", wraps=made) as watchdog:
        training.build_watchdog(config)
    return dict(watchdog.call_args.kwargs)


def run(config):
    """What mode `train` passes to the loop, the step, the state, store and report."""
    spies = {
        "loop": mock.patch.object(loop, "train"),
        "step": mock.patch.object(step, "make_train_step"),
        "state": mock.patch.object(state, "blueprint"),
        "checkpoints": mock.patch.object(checkpoint, "Checkpoints"),
        "report": mock.patch.object(report, "Report"),
        "network": mock.patch.object(
            network, "build_network", lambda config, classes: CHEAP
        ),
    }
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        found = {name: stack.enter_context(spy) for name, spy in spies.items()}
        found["state"].return_value.abstract.params = {}
        found["loop"].return_value = loop.Outcome(None, loop.STOPPED)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(mock.patch.object(train, "_print_introduction"))
        train.run(config, folder)
    kwargs = dict(found["loop"].call_args.kwargs)
    profile = kwargs["profile"]
    return {
        "total": kwargs["total_steps"],
        "save_every": kwargs["save_every"],
        "actions": [action.every for action in kwargs["actions"]],
        "skips": kwargs["skips_allowed"],
        "profile": profile and profile.steps,
        "kept": found["checkpoints"].call_args.args[1:],
        "log_every": found["report"].call_args.kwargs["every"],
        "seeds": [found[k].call_args.kwargs["seed"] for k in ("step", "state")],
        "accumulate": found["step"].call_args.kwargs["accumulate"],
    }


def seeded(config):
    """All that the seed of a training is for."""
    return first_batches(config)[0][0], run(config)["seeds"]


CHEAP = network.Network(
    apply=linear,
    init=lambda key: {},
    size=(8, 8, 3),
    num_classes=12,
    kind="v",
    family=process.VP,
    knows_place=False,
)

FOLDER = {"data.source": "folder:{folder}"}
WIDE = {"data.resolution": "8x12", "data.flip": False}
PATCHES = {"data.patches": base.patches(8, 64)}
SMALL = {"loss.multiscale": True, "loss.multiscale_smallest": 4}
ADAMW = {"optimizer.name": "adamw"}
WARM = {"optimizer.warmup_steps": 2}


def _noise(weighting):
    return {"loss.weighting": weighting}


def _schedule(kind):
    return {"diffusion.schedule": kinds(base)[kind]}


def _duration(name, first, second):
    """The cases of the three keys of a duration, the other two of which are 0."""
    none = {f"train.{name}_{u}": 0 for u in ("steps", "examples")}
    none |= FOLDER | {f"train.{name}_epochs": 0.0}
    none |= {"train.total_steps": 0, "train.total_examples": 800}
    if name == "total":
        none["train.total_examples"] = 0
    return {
        f"train.{name}_{unit}": Case(kind(second), run, none | {key: kind(first)})
        for unit, kind in (("steps", int), ("epochs", float), ("examples", int))
        for key in [f"train.{name}_{unit}"]
    }


DATA = {
    "source": Case("digits", first_batches, FOLDER),
    "data_dir": Case("{folder}", tfds_folder, {"data.source": "tfds:mnist"}),
    "tfds_fields": Case("caption=text", tfds_mapping, {"data.source": "tfds:mnist"}),
    "resolution": Case("8x12", first_batches),
    "channels": Case(1, first_batches),
    "num_classes": Case(0, first_batches),
    "resize": Case("antialias", first_batches, FOLDER),
    "crop": Case("random", first_batches, FOLDER),
    "flip": Case(False, first_batches, FOLDER),
    "flip_captions": Case("swap", sides, {"data.flip_captions": "keep"}),
    "portrait": Case("turn", first_batches, FOLDER | WIDE),
    "holdout_fraction": Case(0.5, first_batches, FOLDER),
    "crop_box": Case((0, 0, 8, 9), first_batches, FOLDER),
    "patches.smallest": Case(16, first_batches, PATCHES),
    "patches.largest": Case(16, first_batches, PATCHES),
    "patches.probability_smallest": Case(0.0, first_batches, PATCHES),
    "patches.law": Case("log_uniform", first_batches, PATCHES),
    "patches.aspect": Case(2.0, first_batches, PATCHES),
}
DIFFUSION = {
    "family": Case("flow", losses),
    "shift_by_resolution": Case(False, losses, PATCHES | {"model.position": "rope"}),
    "time_law": Case("uniform", losses),
    "time_mean": Case(1.0, losses, {"diffusion.time_law": "logit_normal"}),
    "time_std": Case(2.0, losses, {"diffusion.time_law": "logit_normal"}),
    "prediction": Case("eps", losses),
}
for kind in kinds(base):
    given = _schedule(kind)
    other = next(section for name, section in kinds(base).items() if name != kind)
    DIFFUSION |= {
        f"schedule:{kind}.name": Case(other, losses, given),
    }
    if kind == "discrete":
        continue
    DIFFUSION |= {
        f"schedule:{kind}.logsnr_min": Case(-8.0, losses, given),
        f"schedule:{kind}.logsnr_max": Case(8.0, losses, given),
    }
DIFFUSION |= {
    "schedule:shifted_cosine.noise_d": Case(4, losses, _schedule("shifted_cosine")),
    "schedule:shifted_cosine.keep_end_points": Case(
        True, losses, _schedule("shifted_cosine")
    ),
    "schedule:interpolated_cosine.clean_d": Case(
        64, losses, _schedule("interpolated_cosine")
    ),
    "schedule:interpolated_cosine.noisy_d": Case(
        8, losses, _schedule("interpolated_cosine")
    ),
    "schedule:flow.noise_d": Case(4, losses, _schedule("flow")),
    "schedule:discrete.first": Case(0.0015, losses, _schedule("discrete")),
    "schedule:discrete.last": Case(0.0195, losses, _schedule("discrete")),
    "schedule:discrete.betas": Case("linear", losses, _schedule("discrete")),
    "schedule:discrete.steps": Case(500, losses, _schedule("discrete")),
}
LOSS = {
    "weighting": Case("snr_trunc", losses),
    "min_snr_gamma": Case(1.0, losses, _noise("min_snr")),
    "min_snr_floor": Case(4.0, losses, _noise("min_snr")),
    "sigmoid_bias": Case(2.0, losses, _noise("sigmoid")),
    "edm_mean": Case(0.0, losses, _noise("edm")),
    "edm_std": Case(2.0, losses, _noise("edm")),
    "edm_sigma_data": Case(1.0, losses, _noise("edm")),
    "logit_normal_mean": Case(0.8, losses, _noise("logit_normal")),
    "logit_normal_std": Case(0.8, losses, _noise("logit_normal")),
    "multiscale": Case(True, losses, {"loss.multiscale_smallest": 4}),
    "multiscale_smallest": Case(2, losses, SMALL),
    "multiscale_normalise": Case("paper", losses, SMALL),
    "label_drop": Case(0.9, losses),
}
OPTIMIZER = {
    # Without a weight decay both are the same, and adam with one is an error.
    "name": Case("adamw", updates, {"optimizer.weight_decay": 0.1}),
    "learning_rate": Case(1e-3, updates),
    "decay": Case("cosine", updates, WARM),
    "warmup_steps": Case(3, updates, WARM),
    "b1": Case(0.5, updates),
    "b2": Case(0.9, updates),
    "eps": Case(0.1, updates),
    "weight_decay": Case(0.1, updates, ADAMW),
    "clip_norm": Case(0.0, updates),
}
EMA = {
    "decay": Case(0.9, averages),
    "warmup": Case(True, averages),
    "power": Case((0.05, 0.1), averages),
    "snapshot_every_steps": Case(7, run, {"ema.power": (0.05,)}),
}
MESH = {
    "data": Case(2, placement, {"mesh.data": 1, "mesh.fsdp": -1}),
    "fsdp": Case(2, placement),
    "tensor": Case(2, placement),
    "slices": Case(2, placement),
    "split_rows": Case(True, placement, {"mesh.tensor": 2}),
}
TRAIN = {
    "seed": Case(1, seeded),
    "batch_size": Case(16, first_batches),
    "accumulate": Case(2, run, {"train.batch_size": 16}),
    "keep_checkpoints": Case(3, run),
    "keep_every_steps": Case(1000, run),
    "skips_allowed": Case(3, run),
    "profile_steps": Case(3, run),
    "stall_warning_seconds": Case(5.0, patience),
    "stall_limit_seconds": Case(5.0, patience),
    "peer_timeout_seconds": Case(5.0, patience),
}
CASES = {
    f"{section}.{key}": case
    for section, cases in (
        ("data", DATA),
        ("diffusion", DIFFUSION),
        ("loss", LOSS),
        ("optimizer", OPTIMIZER),
        ("ema", EMA),
        ("mesh", MESH),
        ("train", TRAIN),
    )
    for key, case in cases.items()
}
for name in (
    "total",
    "log_every",
    "checkpoint_every",
    "sample_every",
    "evaluate_every",
):
    CASES |= _duration(name, 4, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key, folder):
    check(key, CASES[key], folder)


def objective_of(config, apply, count):
    """The objective with a network that only looks, and a batch of black images."""
    objective = diffusion.build_objective(config, with_apply(config, apply))
    batch = Batch(
        image=np.zeros((count, 2, 2, 3), np.uint8),
        label=np.arange(count, dtype=np.int32) % 3,
        box=np.tile(np.array([[0, 0, 1, 1]], np.float32), (count, 1)),
        mask=np.ones(count, bool),
    )
    return objective, batch


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_as_many_labels_are_dropped_as_the_config_says(rate):
    seen = []

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen.append(np.asarray(cond.label))
        return jnp.zeros_like(z_t)

    config = tiny()
    config.loss.label_drop = rate
    objective, batch = objective_of(config, apply, count=1000)
    objective({}, batch, objective.draw(jax.random.key(0), batch))
    (labels,) = seen
    is_dropped = labels == 3
    assert (labels == batch.label)[~is_dropped].all()
    # Four standard deviations of a thousand draws.
    assert abs(is_dropped.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / 1000)


@pytest.mark.parametrize("weighting", ["min_snr", "soft_min_snr"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_gamma_bounds_the_weight_of_the_clean_image(weighting, gamma):
    config = tiny()
    config.loss.update(weighting=weighting, min_snr_gamma=gamma)
    own = diffusion.build_schedule(config)
    logsnr = jnp.linspace(-4, 8, 13)
    weight = diffusion.build_weighting(config, process.VP)(own)(logsnr)
    snr = np.exp(np.asarray(logsnr, np.float64))
    bound = np.minimum(snr, gamma)
    if weighting == "soft_min_snr":
        bound = snr * gamma / (snr + gamma)
    # The weight is of eps: that of x is larger by the SNR.
    want = np.log(bound / snr) + np.asarray(own.log_density(logsnr))
    np.testing.assert_allclose(weight, want, atol=1e-5)


@pytest.mark.parametrize(("limit", "norm"), [(0.1, 0.1), (0.0, 5.0), (7.0, 5.0)])
def test_the_first_update_is_that_of_the_clipped_gradient(limit, norm):
    config = tiny()
    # With a large eps Adam's first step depends on the size of the gradient.
    config.optimizer.update(clip_norm=limit, eps=1.0, warmup_steps=0)
    adam = training.build_optimizer(config, total_steps=4)
    grads = {"kernel": jnp.array([3.0]), "bias": jnp.array([-4.0])}
    update, _ = adam.transform.update(grads, adam.transform.init(grads), grads)
    for name, sign in (("kernel", 0.6), ("bias", -0.8)):
        g = sign * norm
        want = -config.optimizer.learning_rate * g / (abs(g) + 1.0)
        np.testing.assert_allclose(update[name], [want], rtol=1e-5)


def test_the_loss_on_held_out_images_drops_neither_labels_nor_units():
    calls = []

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        calls.append((np.asarray(cond.label), dropout_key))
        return jnp.zeros_like(z_t)

    config = tiny()
    config.loss.label_drop = 1.0
    _, batch = objective_of(config, apply, count=8)
    net = with_apply(config, apply)
    measured = evaluation.build_evaluator(
        config, net, {}, lambda: iter([batch]), training.build_mesh(config)
    )
    nothing = mock.patch.object(  # a loop over 256 levels, which calls no network
        likelihood, "reconstruction", lambda x, eps, logsnr: jnp.zeros(len(x))
    )
    with jax.disable_jit(), nothing:
        measured.loss(batch, jnp.int32(0))
    assert len(calls) >= 2  # of the loss, and of the bound on the likelihood
    for label, dropout_key in calls:
        assert dropout_key is None
        np.testing.assert_array_equal(label, batch.label)
