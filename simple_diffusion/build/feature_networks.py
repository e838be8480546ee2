"""The feature networks that `evaluate.networks` names."""

import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from simple_diffusion.build import data as data_section
from simple_diffusion.build.data import Data
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch
from simple_diffusion.evaluation import feature_bank
from simple_diffusion.evaluation.networks import (
    classifier,
    dinov2,
    feature_network,
    inception,
)
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork

NETWORKS = ("source", "inception", "dinov2", "thumbnail")
CLASSIFIER = "classifier.npz"
_MOST = 64  # side in pixels of what the classifier sees

Say = Callable[[str], None]


def check(config: Config) -> None:
    """Raises ValueError for networks that are not known or lack their weights."""
    c = config.evaluate
    if not c.networks:
        raise ValueError(f"evaluate.networks is empty; known are {', '.join(NETWORKS)}")
    for name in c.networks:
        if name not in NETWORKS:
            raise ValueError(
                f"evaluate.networks has {name!r}; known are {', '.join(NETWORKS)}"
            )
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
                f"evaluate.{name}_weights={file} is not used: evaluate.networks="
                f"{tuple(c.networks)} lacks {name!r}"
            )
    if c.classifier_steps < 1:
        raise ValueError(
            f"evaluate.classifier_steps={c.classifier_steps} must be at least 1"
        )
    rules = inception.RESIZES
    if c.resize not in rules:
        raise ValueError(f"evaluate.resize={c.resize!r} must be {', '.join(rules)}")


def check_weights(config: Config) -> None:
    """Reads the files of weights and forgets them, before a training that needs them.

    Raises as `networks`.
    """
    check(config)
    for name in config.evaluate.networks:
        _of_file(config, name)


def networks(
    config: Config, folder: epath.Path, say: Say, opened: Data | None
) -> list[FeatureNetwork]:
    """Returns the feature networks, with their weights on the host.

    Args:
      config: the whole config.
      folder: where a trained classifier is kept.
      say: is told what is going on.
      opened: the data source; None where there is none, and thus no classifier.

    Raises:
      ValueError: as `check`; a file of weights cannot be used.
      OSError: it cannot be read.
    """
    check(config)
    c = config.evaluate
    made = []
    for name in c.networks:
        if (loaded := _of_file(config, name)) is not None:
            made.append(loaded)
        elif name == "source" and opened is not None and len(opened.class_names) > 1:
            made.append(_classifier(config, folder, say))
        else:
            if name == "source":
                say(
                    "note: without classes in data.source no classifier can be "
                    "trained; features are thumbnails of 8x8 pixels"
                )
            made.append(feature_network.thumbnail())
    # Twice the same would be one metric twice.
    return list({network.name: network for network in made}.values())


def _of_file(config: Config, name: str) -> FeatureNetwork | None:
    """Returns a network whose weights are in a file; None for others."""
    c = config.evaluate
    if name == "inception":
        return inception.load(c.inception_weights, c.resize)
    return dinov2.load(c.dinov2_weights) if name == "dinov2" else None


def _classifier(config: Config, folder: epath.Path, say: Say) -> FeatureNetwork:
    """Returns the classifier of the data source, trained if it was not yet."""
    # Opened anew: a process that shares a data set sees a part of each batch only.
    opened = data_section.data(config)
    side = config.data.resolution
    size = (side, side)
    name = config.data.source.partition(":")[0]
    recipe = classifier.Recipe(
        side=min(_MOST, side),
        num_classes=opened.num_classes,
        data=feature_bank.digest(opened.describe("train", size)),
        steps=config.evaluate.classifier_steps,
    )
    path, names = folder / CLASSIFIER, opened.class_names
    found = classifier.load(path, recipe, name, names)
    missing = found is None
    if jax.process_count() > 1:  # they act together, whatever each has read
        flags = multihost_utils.process_allgather(np.array(missing))
        missing = bool(np.any(flags))
    if not missing:
        assert found is not None
        return found
    say(f"training a classifier of {name} to evaluate by; it is kept in {path}")

    def batches() -> Iterator[Batch]:
        for _ in itertools.count():  # whole images, whatever the model is trained on
            yield from opened.full_images(
                opened.epoch, recipe.batch_size, size, "train"
            )

    trained = classifier.train(recipe, batches(), name, names, say)
    if jax.process_count() > 1:  # the numbers of one: others may round otherwise
        params = multihost_utils.broadcast_one_to_all(trained.params)
        trained = classifier.network(
            jax.tree.map(np.asarray, params), recipe, name, names
        )
    if jax.process_index() == 0:
        classifier.save(trained, recipe, path)
    return trained
