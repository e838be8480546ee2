"""The feature networks that `evaluate.networks` names."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from simple_diffusion.build import data as data_section
from simple_diffusion.build.data import Data
from simple_diffusion.core import images
from simple_diffusion.core.options import Config, training_size
from simple_diffusion.core.types import Batch
from simple_diffusion.evaluation import feature_bank
from simple_diffusion.evaluation.networks import (
    classifier,
    dinov2,
    feature_network,
    inception,
    lpips,
)
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork
from simple_diffusion.evaluation.networks.lpips import Lpips

NETWORKS = ("source", "inception", "dinov2", "thumbnail")
CLASSIFIER = "classifier.npz"
_MAX_SIDE = 64  # largest side in pixels of the classifier's input

Notify = Callable[[str], None]


def check_networks(config: Config) -> None:
    """Raises ValueError for networks that lack their weights."""
    c = config.evaluate
    if not c.networks:
        raise ValueError(f"evaluate.networks is empty; known are {', '.join(NETWORKS)}")
    weights = {"inception": c.inception_weights, "dinov2": c.dinov2_weights}
    for name, file in weights.items():
        if name in c.networks and file is None:
            raise ValueError(
                f"evaluate.networks has {name!r}: evaluate.{name}_weights must be the "
                f"file that python -m simple_diffusion.modes.convert {name} makes "
                "of its published weights"
            )
        if name not in c.networks and file is not None:
            raise ValueError(
                f"evaluate.{name}_weights={file} has no effect: evaluate.networks="
                f"{tuple(c.networks)} lacks {name!r}"
            )
    _check_lpips(config)


def _check_lpips(config: Config) -> None:
    """Raises ValueError if the weights of LPIPS have no effect."""
    file, c = config.evaluate.lpips_weights, config.conditions
    has_originals = c.low_resolution is not None or c.inpainting is not None
    if file is None or ("conditions" in config.evaluate.metrics and has_originals):
        return
    raise ValueError(
        f"evaluate.lpips_weights={file} has no effect: it is for 'conditions' in "
        "evaluate.metrics, of a model with conditions.low_resolution or .inpainting"
    )


def load_lpips(config: Config) -> Lpips | None:
    """Returns the network of `evaluate.lpips_weights`; None without it.

    Raises:
      ValueError: the file cannot be used.
    """
    file = config.evaluate.lpips_weights
    if file is None:
        return None
    try:
        return lpips.load(file)
    except (ValueError, OSError) as error:
        raise ValueError(f"evaluate.lpips_weights: {error}") from error


def check_weights(config: Config) -> None:
    """Reads the weight files once, to find errors before a training starts.

    Raises:
      ValueError: as `check`, or a weight file cannot be used.
      OSError: a weight file cannot be read.
    """
    check_networks(config)
    load_lpips(config)
    for name in config.evaluate.networks:
        _load_from_file(config, name)


def load_networks(
    config: Config, folder: epath.Path, notify: Notify, dataset: Data | None
) -> list[FeatureNetwork]:
    """Returns the feature networks, with their weights on the host.

    Args:
      config: the whole config.
      folder: where a trained classifier is stored.
      notify: called with messages about the progress.
      dataset: the data source; without one (None) there is no classifier.

    Raises:
      ValueError: as `check`, or a weight file cannot be used.
      OSError: a weight file cannot be read.
    """
    check_networks(config)
    c = config.evaluate
    loaded = []
    for name in c.networks:
        if (network := _load_from_file(config, name)) is not None:
            loaded.append(network)
        elif name == "source" and dataset is not None and len(dataset.class_names) > 1:
            loaded.append(_classifier(config, folder, notify))
        else:
            if name == "source":
                notify(
                    "note: without classes in data.source no classifier can be "
                    "trained; features are thumbnails of 8x8 pixels"
                )
            loaded.append(feature_network.thumbnail())
    # Remove duplicates: they would give the same metrics twice.
    return list({network.name: network for network in loaded}.values())


def _load_from_file(config: Config, name: str) -> FeatureNetwork | None:
    """Returns a network whose weights are in a file; None for other networks."""
    c = config.evaluate
    if name == "inception":
        return inception.load(c.inception_weights, c.resize)
    return dinov2.load(c.dinov2_weights) if name == "dinov2" else None


def _classifier(config: Config, folder: epath.Path, notify: Notify) -> FeatureNetwork:
    """Returns the classifier of the data source; trains it if it is not stored."""
    # Open the source again: a process that shares a dataset reads only a part of each
    # batch.
    dataset = data_section.open_data(config)
    size = training_size(config)
    name = config.data.source.partition(":")[0]
    recipe = classifier.Recipe(
        side=min(_MAX_SIDE, *size),
        num_classes=dataset.num_classes,
        data=feature_bank.digest(dataset.describe("train", size)),
        steps=config.evaluate.classifier_steps,
    )
    path, names = folder / CLASSIFIER, dataset.class_names
    stored = classifier.load(path, recipe, name, names)
    missing = stored is None
    if jax.process_count() > 1:  # all train, even if only one could not read it
        flags = multihost_utils.process_allgather(np.array(missing))
        missing = bool(np.any(flags))
    if not missing:
        assert stored is not None
        return stored
    notify(f"training a classifier of {name} for the evaluation; stored in {path}")

    def batches() -> Iterator[Batch]:
        for _ in itertools.count():  # full images, even if the model learns patches
            for batch in dataset.full_images(
                dataset.epoch, recipe.batch_size, size, "train"
            ):
                yield dataclasses.replace(batch, image=images.to_rgb(batch.image))

    trained = classifier.train(recipe, batches(), name, names, notify)
    if jax.process_count() > 1:  # use one process's weights: rounding may differ
        params = multihost_utils.broadcast_one_to_all(trained.params)
        trained = classifier.network(
            jax.tree.map(np.asarray, params), recipe, name, names
        )
    if jax.process_index() == 0:
        classifier.save(trained, recipe, path)
    return trained
