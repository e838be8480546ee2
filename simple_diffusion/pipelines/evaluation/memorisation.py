"""Whether samples repeat training images: numbers, and a picture to look at."""

from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from simple_diffusion.evaluation import metric_names
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.metrics import neighbours
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.evaluation.comparison import ENDLESS, Comparison
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet

PICTURE = "neighbours.png"
_SHOWN = 5  # training images beside each sample


def remove_picture(folder: epath.Path) -> None:
    """Removes the picture of an earlier evaluation."""
    if jax.process_index() == 0:
        (folder / PICTURE).unlink(missing_ok=True)


def measure(
    comparison: Comparison, images: ImageSet, generated: Banks, folder: epath.Path
) -> Iterator[Metric]:
    """Yields how near samples are to training images, and writes a picture of it.

    By the first network alone. `near_training` is the share of samples that are nearer
    to a training image than all but 5 % of held-out images are: 0.05 for a model that
    draws from the distribution, more for one that repeats. `copies` counts samples that
    are a training image as far as features can tell. The picture has a row for each of
    the samples that are nearest to one: the sample, then its nearest training images.

    Args:
      comparison: knows training images, and held-out ones.
      images: samples.
      generated: what the networks say of them.
      folder: of the picture.
    """
    if comparison.plan.patch is not None:
        return comparison.note("memorisation is measured of whole images alone")
    found = comparison.training(images.size)
    if found is None:
        comparison.note("memorisation needs a data source with held-out images")
        return
    training, known, strangers = found
    every = training.identity["examples"]
    if training.count < every < ENDLESS:
        comparison.note(
            f"nearest training images are looked for among {known.n} of {every}; "
            "evaluate.reference_features makes them more"
        )
    network = comparison.networks[0].name
    mine = generated.by_network[network].features
    theirs = known.by_network[network].features
    result = neighbours.measure_memorisation(
        mine, theirs, strangers.by_network[network].features
    )
    counts = len(mine), len(theirs)
    for kind, value in (
        ("near_training", result.share),
        ("nearest_ratio", result.ratio),
        ("copies", len(result.copies)),
    ):
        name = metric_names.metric_name(kind, network, len(mine))
        yield Metric(name, float(value), counts)
    shown = min(comparison.plan.show_neighbours, len(mine))
    # A bad image has a place in the set and no row among the features.
    if not shown:
        return
    if known.n < known.position:
        return comparison.note(f"{PICTURE} needs images that can all be read")
    rows = np.argsort(result.distances, kind="stable")[:shown]
    k = min(_SHOWN, len(theirs))
    near = neighbours.find_nearest(mine[rows], theirs, k).indices
    samples = images.at(rows.tolist())
    beside = training.at(near.reshape(-1).tolist())
    cells = np.concatenate(
        [samples[:, None], beside.reshape(shown, k, *beside.shape[1:])], axis=1
    )
    if jax.process_index() == 0:
        cells = cells.reshape(-1, *cells.shape[2:])
        image_grids.write_sheet(folder / PICTURE, cells, k + 1)
