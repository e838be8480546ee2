"""The sections `evaluate` and `sweep`."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def evaluate() -> ConfigDict:
    """Samples, reference, features and metrics; `sample` has the keys of sampling."""
    return ConfigDict(
        dict(
            # Seed of the loss, of confidence intervals, of the subsets of fd_infinity
            # and of patch positions. Samples use sample.seed; KID and the Inception
            # score use the seeds of other implementations.
            seed=0,
            # model (the model in the workdir) | folder:PATH | npz:PATH
            samples="model",
            # Number of samples of a model, and of held-out images for its loss. All
            # images of folders and .npz files are used.
            count=10_000,
            # Classes of the samples: balanced | as_data (as in the reference) | the
            # name or number of one class, which is compared only with that class.
            labels="balanced",
            # data (data.source, processed as for training) | folder:PATH | npz:PATH
            # (images, or published statistics with mu and sigma) | statistics:PATH
            # (those of data, in a file that is created if it does not exist).
            reference="data",
            # data: train | holdout
            reference_split="train",
            # Number of reference images; a single class has its share of them. None
            # means all images, and for an endless source the larger of count and
            # reference_features.
            reference_count=placeholder(int),
            # Number of them whose features are kept, for metrics on individual images.
            reference_features=10_000,
            # HxW to which the images of a folder or .npz file are cropped and resized;
            # None leaves them as they are, and then they must all have one size.
            size=placeholder(str),
            # More sizes at which to evaluate a model, such as ("48x48", "32x64").
            also_sizes=(),
            # Compare patches of this side instead of full images, at random positions
            # that are equal in both sets; None compares full images.
            patch=placeholder(int),
            # Images per batch; samples are generated in batches of sample.batch_size.
            batch_size=256,
            # source (a classifier trained on data.source) | inception | dinov2 |
            # thumbnail: one or several.
            networks=("source",),
            # Files that python -m simple_diffusion.modes.convert writes.
            inception_weights=placeholder(str),
            dinov2_weights=placeholder(str),
            # How images are resized to 299x299 for inception: tf1_bilinear (as in
            # published FIDs) | torch_bilinear (pytorch-fid) | clean_bicubic (clean-fid)
            resize="tf1_bilinear",
            # Training steps of the classifier.
            classifier_steps=300,
            # bits (a bound in bits per dimension, on held-out images) |
            # fd | sfid | kd | score | precision_recall | density_coverage | accuracy |
            # memorisation | fd_infinity; metrics without a suitable network are skipped
            metrics=(
                "bits",
                "fd",
                "sfid",
                "kd",
                "score",
                "precision_recall",
                "density_coverage",
                "accuracy",
                "memorisation",
            ),
            # Number of neighbours that define the radius around each image, for
            # precision and recall, and for density and coverage.
            neighbours=3,
            density_neighbours=5,
            # Number of samples in the picture of nearest training images (the nearest
            # ones), and of samples per class in the pictures of classes.
            show_neighbours=8,
            show_per_class=8,
            # Write report.html at the end, as --mode report does.
            report=False,
            # At the end of training, and every train.evaluate_every_*: number of
            # samples and of held-out images for the loss. Only the cheap metrics are
            # measured.
            count_after_training=512,
            count_during_training=5_000,
            # Largest number of reference images for these evaluations.
            reference_during_training=50_000,
            metrics_during_training=("fd", "accuracy"),
            # Metric that decides on the best checkpoint, without the number of samples,
            # such as fid or accuracy_scenes; None means fd of the first network.
            best_metric=placeholder(str),
        )
    )


def sweep() -> ConfigDict:
    """Mode `sweep`: evaluates the model at every combination of these values.

    All points use the same noise and classes, and the reference, networks and metrics
    of `evaluate`. An empty list means the value in `sample`.
    """
    return ConfigDict(
        dict(
            count=2_000,
            guidance=(1.0, 1.5, 2.0, 3.0, 4.0),
            # Pairs of sample.guidance_low and _high: ((None, None), (-3.0, 3.0))
            intervals=(),
            steps=(),
        )
    )
