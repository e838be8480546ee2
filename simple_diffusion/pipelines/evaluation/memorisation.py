"""Whether samples repeat training images: metrics and a picture."""

from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from simple_diffusion.core import images as pixels
from simple_diffusion.evaluation import metric_names
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.metrics import neighbours
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import image_grids
from simple_diffusion.pipelines.evaluation.comparison import ENDLESS, Comparison
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet

PICTURE = "neighbours.png"
_SHOWN = 5  # number of training images next to each sample


def remove_picture(folder: epath.Path) -> None:
    """Removes the picture of an earlier evaluation."""
    if jax.process_index() == 0:
        (folder / PICTURE).unlink(missing_ok=True)


def measure(
    comparison: Comparison, images: ImageSet, generated: Banks, folder: epath.Path
) -> Iterator[Metric]:
    """Yields metrics of memorisation and writes a picture of the nearest neighbours.

    It uses only the first network. `near_training` is the fraction of samples that are
    nearer to a training image than all but 5 % of held-out images are: 0.05 for a model
    that samples from the distribution, more for one that repeats training images.
    `copies` counts samples that the features cannot distinguish from a training image.
    The picture has a row for each of the samples that are nearest to a training image:
    the sample, then its nearest training images.

    Args:
      comparison: provides training and held-out images.
      images: samples.
      generated: features of the samples.
      folder: folder of the picture.
    """
    if comparison.plan.patch is not None:
        return comparison.note("memorisation is measured only for full images")
    training_features = comparison.training(images.size)
    if training_features is None:
        comparison.note("memorisation needs a data source with held-out images")
        return
    training, known, held_out = training_features
    examples = training.identity["examples"]
    if training.count < examples < ENDLESS:
        comparison.note(
            f"nearest training images are searched among {known.n} of {examples}; "
            "increase evaluate.reference_features to search more"
        )
    network = comparison.networks[0].name
    sample_features = generated.by_network[network].features
    train_features = known.by_network[network].features
    result = neighbours.measure_memorisation(
        sample_features, train_features, held_out.by_network[network].features
    )
    counts = len(sample_features), len(train_features)
    for kind, value in (
        ("near_training", result.share),
        ("nearest_ratio", result.ratio),
        ("copies", len(result.copies)),
    ):
        name = metric_names.metric_name(kind, network, len(sample_features))
        yield Metric(name, float(value), counts)
    shown = min(comparison.plan.show_neighbours, len(sample_features))
    if not shown:
        return
    # An unreadable image has an index in the set but no row in the features.
    if known.n < known.position:
        return comparison.note(f"{PICTURE} is not written: not all images are readable")
    rows = np.argsort(result.distances, kind="stable")[:shown]
    k = min(_SHOWN, len(train_features))
    nearest = neighbours.find_nearest(sample_features[rows], train_features, k).indices
    # Samples from files are RGB, whatever the training images are.
    samples = pixels.to_rgb(images.at(rows.tolist()))
    copied = pixels.to_rgb(training.at(nearest.reshape(-1).tolist()))
    cells = np.concatenate(
        [samples[:, None], copied.reshape(shown, k, *copied.shape[1:])], axis=1
    )
    if jax.process_index() == 0:
        cells = cells.reshape(-1, *cells.shape[2:])
        image_grids.write_sheet(folder / PICTURE, cells, k + 1)
