"""What each key of `evaluate` and `sweep` does to metrics, records and pictures.

Features are three numbers of an image, and the samples of a model are noise, so that
nothing is compiled; all else is as the modes have it.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data, feature_networks, sampling, training
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.core.types import Weights
from simple_diffusion.evaluation.conditions import condition_metrics
from simple_diffusion.evaluation.networks import feature_network, lpips
from simple_diffusion.evaluation.networks.predictors import training as predictors
from simple_diffusion.modes import evaluate
from simple_diffusion.pipelines import open_run, programs
from simple_diffusion.pipelines.evaluation import during_training, evaluation, sweep
from simple_diffusion.pipelines.evaluation.conditions import sample_metrics
from simple_diffusion.pipelines.model import Model
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.pipelines.training_grids import TrainingGrids
from simple_diffusion.training import sharding
from simple_diffusion.training.state import TrainState
from tests.build.every_key import Case, check, write_images
from tests.build.test_every_key_sampling import looking
from tests.modes import small_features

# When, and with which code: not what a key decides.
VOLATILE = ("time", "commit", "config")


def make_drawer(sampler, mesh, batch_size):
    """As `programs.make_drawer`, of noise that is darker for the second class."""

    def call(weights, seed, index, request):
        random = [np.random.default_rng(k) for k in index]
        drawn = [r.integers(0, 256, (*sampler.size, 3), np.uint8) for r in random]
        return np.stack(drawn) // (1 + np.uint8(request.label))[:, None, None, None]

    return programs.Drawer(programs.Program(batch_size, call), sampler.seed)


def compile_program(function, mesh, batch_size, windows):
    """As `programs.compile_program`, without compiling."""

    def call(params, images, corner):
        return jax.device_get(
            function(params, jnp.asarray(images), jnp.asarray(corner))
        )

    return programs.Program(batch_size, call)


def trained_model(config):
    net, _ = looking(config)
    net = dataclasses.replace(net, num_classes=2)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return Trained(net, Weights({}), mesh, ("a", "b"), 1)


@contextlib.contextmanager
def without_compiling(config, log):
    """A workdir in which a model can be evaluated; what it does is logged."""

    def held_out(config, trained, dataset, count, names):
        log.append(("held_out", count))
        return iter([])

    trained = trained_model(config)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for place, name, value in (
            (feature_networks, "load_networks", small_features.networks),
            (open_run, "open_run", lambda *_: mock.Mock(spec=Model, trained=trained)),
            (evaluate.runs, "load_classes", lambda folder: trained.classes),
            (evaluate.report, "run", lambda *_: log.append("report")),
            (training, "build_mesh", lambda config: trained.mesh),
            (evaluation, "measure_held_out", held_out),
            (programs, "make_drawer", make_drawer),
            (programs, "compile_program", compile_program),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield epath.Path(folder)


def evaluated(config):
    """The record of an evaluation, its pictures, and what was done on the way."""
    log = []
    extract = evaluation.Comparison.features_of

    def features_of(self, images, *args, **kwargs):
        log.append((images.count, self.batch_size))
        return extract(self, images, *args, **kwargs)

    with (
        without_compiling(config, log) as folder,
        mock.patch.object(evaluation.Comparison, "features_of", features_of),
    ):
        evaluate.run(config, str(folder))
        (path,) = [
            folder / name
            for name in ("metrics.json", "comparison.json")
            if (folder / name).exists()
        ]
        record = json.loads(path.read_text())
        pictures = sorted(pathlib.Path(folder / "evaluation").rglob("*.png"))
        shown = {p.name: p.read_bytes() for p in pictures}
    return json.dumps(plain(record), sort_keys=True), shown, log


def plain(record):
    return {key: value for key, value in record.items() if key not in VOLATILE}


def in_training(config):
    """The records of evaluations during a training and after it, and the best."""
    log = []
    state = mock.Mock(spec=TrainState, step=3, ema={"main": {}})
    with (
        without_compiling(config, log) as folder,
        mock.patch.object(during_training.checkpoint, "BestCheckpoint") as best,
    ):
        trained = trained_model(config)
        how = sampling.build_sampling(config, trained.net)
        drawer = make_drawer(how, trained.mesh, 8)
        grids = mock.Mock(spec=TrainingGrids, sampler=how, drawer=drawer)
        evaluations = during_training.TrainingEvaluations(
            config, folder, data.open_data(config), trained, grids
        )
        evaluations.evaluate_during(3, state)
        records = [plain(evaluations.evaluate_final(state))]
        lines = (folder / "evaluations.jsonl").read_text().splitlines()
        records += [plain(json.loads(line)) for line in lines]
        chosen = best.call_args.args[1].split()[0]
    return json.dumps(records, sort_keys=True), log, chosen


def networks(config):
    """What the feature networks are made of."""
    found = {}

    def load(kind):
        def loaded(*args):
            found[kind] = args
            return feature_network.thumbnail()

        return loaded

    def classifier(recipe, *_):
        found["classifier"] = recipe.steps
        return feature_network.thumbnail()

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(feature_networks.inception, "load", load("inception")),
        mock.patch.object(feature_networks.dinov2, "load", load("dinov2")),
        mock.patch.object(feature_networks.classifier, "train", classifier),
        mock.patch.object(feature_networks.classifier, "save"),
    ):
        opened = data.open_data(config)
        made = feature_networks.load_networks(
            config, epath.Path(folder), lambda line: None, opened
        )
    return found, len(made)


def NamedLpips(path):  # noqa: N802 (stands for a class)
    return lpips.Lpips("alex", path, {})


def readers(config):
    """How long that is trained which reads captions from samples, and LPIPS."""
    images = np.zeros((1, 8, 8, 3), np.uint8)
    found = []

    def train(task, recipe, batches, log):
        found.append(recipe.steps)
        return predictors.Predictor(task, recipe, {"weights": np.zeros(1)})

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(predictors, "train", train),
        mock.patch.object(
            feature_networks.lpips, "load", lambda path: NamedLpips(path)
        ),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        plan = build_evaluation.read_plan(config)
        comparison = mock.Mock(spec=evaluation.Comparison, plan=plan)
        pictures = condition_metrics.Pictures(images, images)
        tools = sample_metrics.open_tools(
            config, comparison, pictures, epath.Path(folder)
        )
        tools.readers.prepare("text")
    return found, tools.lpips and tools.lpips.digest


def swept(config):
    """The points that a sweep evaluates, with the settings of each."""
    points = []

    def samples(here, trained, comparison, sampler, count):
        keys = ("guidance", "guidance_low", "guidance_high", "steps")
        points.append((count, [here.sample[key] for key in keys]))
        images = types.SimpleNamespace(identity={"n": len(points)}, size=(8, 8))
        return types.SimpleNamespace(images=images, label=None)

    with (
        mock.patch.object(sweep, "evaluation") as steps,
        mock.patch.object(sweep, "record") as record,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        steps.draw_samples = samples
        steps.open_comparison.return_value.settings.return_value = {}
        steps.open_comparison.return_value.record.return_value = {}
        for name in ("describe_metrics", "describe_sampling", "describe_provenance"):
            getattr(record, name).return_value = {}
        plan = build_evaluation.read_sweep(config)
        trained, opened = trained_model(config), data.open_data(config)
        folder = epath.Path("nowhere")
        list(sweep.evaluate_points(config, folder, trained, opened, plan, {}))
    return points


SMALL = {"data.source": "folder:{folder}", "data.holdout_fraction": 0.3}
SMALL |= {"evaluate.networks": ("thumbnail",), "evaluate.count": 16}
SMALL |= {"evaluate.metrics": ("fd",), "evaluate.metrics_during_training": ("fd",)}
SMALL |= {"evaluate.batch_size": 8, "evaluate.reference_features": 12}
SMALL |= {"evaluate.show_neighbours": 2, "evaluate.show_per_class": 2}
SMALL |= {"evaluate.count_after_training": 12, "evaluate.count_during_training": 8}
FILES = {"evaluate.samples": "folder:{folder}/a", "evaluate.size": "8x8"}
FILES |= {"evaluate.reference": "folder:{folder}"}
PATCH = {"evaluate.patch": 4}
INCEPTION = {"evaluate.networks": ("inception",), "evaluate.inception_weights": "a.npz"}
DINOV2 = {"evaluate.networks": ("dinov2",), "evaluate.dinov2_weights": "a.npz"}
SOURCE = {"evaluate.networks": ("source",)}


def _metric(name):
    return {"evaluate.metrics": (name,)}


EVALUATE = {
    "seed": Case(1, evaluated, PATCH),
    "samples": Case("folder:{folder}/b", evaluated, FILES),
    "count": Case(12, evaluated),
    "labels": Case("as_data", evaluated),
    "reference": Case("folder:{folder}/b", evaluated, FILES),
    "reference_split": Case("holdout", evaluated),
    "reference_count": Case(10, evaluated),
    "reference_features": Case(8, evaluated, _metric("precision_recall")),
    "size": Case("4x4", evaluated, FILES),
    "also_sizes": Case(("16x16",), evaluated),
    "patch": Case(4, evaluated),
    "batch_size": Case(16, evaluated),
    "networks": Case(("thumbnail",), networks, SOURCE),
    "inception_weights": Case("b.npz", networks, INCEPTION),
    "dinov2_weights": Case("b.npz", networks, DINOV2),
    "lpips_weights": Case("a.npz", readers, _metric("conditions")),
    "resize": Case("clean_bicubic", networks, INCEPTION),
    "classifier_steps": Case(7, networks, SOURCE),
    "reader_steps": Case(7, readers, _metric("conditions")),
    "metrics": Case(("fd", "accuracy"), evaluated),
    "neighbours": Case(2, evaluated, _metric("precision_recall")),
    "density_neighbours": Case(3, evaluated, _metric("density_coverage")),
    "show_neighbours": Case(3, evaluated, _metric("memorisation")),
    "show_per_class": Case(3, evaluated),
    "report": Case(True, evaluated),
    "count_after_training": Case(10, in_training),
    "count_during_training": Case(10, in_training),
    "reference_during_training": Case(6, in_training),
    "metrics_during_training": Case(("fd", "accuracy"), in_training),
    "best_metric": Case(
        "accuracy_thumbnail",
        in_training,
        {"evaluate.metrics_during_training": ("fd", "accuracy")},
    ),
}
SWEEP = {
    "count": Case(5, swept),
    "guidance": Case((1.0,), swept),
    "intervals": Case(((-1.0, 2.0),), swept),
    "steps": Case((2, 4), swept),
}
CASES = {f"evaluate.{key}": case for key, case in EVALUATE.items()}
CASES |= {f"sweep.{key}": case for key, case in SWEEP.items()}
CASES = {
    key: case._replace(given=SMALL | dict(case.given)) for key, case in CASES.items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), count=40)


@pytest.mark.parametrize("key", CASES)
def test_a_key_changes_what_it_describes(key, folder):
    check(key, CASES[key], folder)
