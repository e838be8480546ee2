"""The sections `evaluate` and `sweep`."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import choice, number, section

METRICS = (
    "bits | fd | sfid | kd | score | precision_recall | density_coverage | "
    "accuracy | memorisation | conditions | fd_infinity"
)


def evaluate() -> ConfigDict:
    """Samples, reference, features and metrics; `sample` has the keys of sampling."""
    return section(
        "evaluate",
        dict(
            # Seed of the loss, of confidence intervals, of the subsets of fd_infinity
            # and of patch positions. Samples use sample.seed; KID and the Inception
            # score use the seeds of other implementations.
            seed=number(0, "[0, 4294967295]"),
            # model (the model in the workdir) | folder:PATH | npz:PATH
            samples="model",
            # Number of samples of a model, and of held-out images for its loss. All
            # images of folders and .npz files are used.
            count=number(10_000, "[2, 1e9]"),
            # Classes of the samples: balanced | as_data (as in the reference) | the
            # name or number of one class, which is compared only with that class.
            labels="balanced",
            # data (data.source, processed as for training) | folder:PATH | npz:PATH
            # (images, or published statistics with mu and sigma) | statistics:PATH
            # (those of data, in a file that is created if it does not exist).
            reference="data",
            # Split of data.
            reference_split=choice("train", "train | holdout"),
            # Number of reference images; a single class has its share of them. None
            # means all images, and for an endless source the larger of count and
            # reference_features.
            reference_count=number(placeholder(int), "[2, 1e9]"),
            # Number of them whose features are kept, for metrics on individual images.
            reference_features=number(10_000, "[2, 1e9]"),
            # HxW to which the images of a folder or .npz file are cropped and resized;
            # None leaves them as they are, and then they must all have one size.
            size=placeholder(str),
            # More sizes at which to evaluate a model, such as ("48x48", "32x64").
            also_sizes=(),
            # Compare patches of this side instead of full images, at random positions
            # that are equal in both sets; None compares full images.
            patch=number(placeholder(int), "[1, 65536]"),
            # Images per batch; samples are generated in batches of sample.batch_size.
            batch_size=number(256, "[1, 1e6]"),
            # One or several; source is a classifier that is trained on data.source.
            networks=choice(("source",), "source | inception | dinov2 | thumbnail"),
            # Files that python -m simple_diffusion.modes.convert writes.
            inception_weights=placeholder(str),
            dinov2_weights=placeholder(str),
            # LPIPS, of super-resolution and in-painting, is a metric of conditions.
            lpips_weights=placeholder(str),
            # How images are resized to 299x299 for inception: tf1_bilinear (as in
            # published FIDs), torch_bilinear (pytorch-fid), clean_bicubic (clean-fid).
            resize=choice(
                "tf1_bilinear", "tf1_bilinear | torch_bilinear | clean_bicubic"
            ),
            # Training steps of the classifier.
            classifier_steps=number(300, "[1, 1e9]"),
            # Training steps of each network that reads from samples whether they show
            # what their conditions ask for.
            reader_steps=number(800, "[1, 1e9]"),
            # bits is a bound in bits per dimension, on held-out images; conditions is
            # whether samples show what they were asked for. Metrics without a suitable
            # network are skipped.
            metrics=choice(
                (
                    "bits",
                    "fd",
                    "sfid",
                    "kd",
                    "score",
                    "precision_recall",
                    "density_coverage",
                    "accuracy",
                    "memorisation",
                    "conditions",
                ),
                METRICS,
            ),
            # Number of neighbours that define the radius around each image, for
            # precision and recall, and for density and coverage.
            neighbours=number(3, "[1, 1e6]"),
            density_neighbours=number(5, "[1, 1e6]"),
            # Number of samples in the picture of nearest training images (the nearest
            # ones), and of samples per class in the pictures of classes.
            show_neighbours=number(8, "[0, 1e4]"),
            show_per_class=number(8, "[0, 1e4]"),
            # Write report.html at the end, as --mode report does.
            report=False,
            # At the end of training, and every train.evaluate_every_*: number of
            # samples and of held-out images for the loss. Only the cheap metrics are
            # measured.
            count_after_training=number(512, "[2, 1e9]"),
            count_during_training=number(5_000, "[2, 1e9]"),
            # Largest number of reference images for these evaluations.
            reference_during_training=number(50_000, "[2, 1e9]"),
            metrics_during_training=choice(("fd", "accuracy"), METRICS),
            # Metric that decides on the best checkpoint, without the number of samples,
            # such as fid or accuracy_scenes; None means fd of the first network.
            best_metric=placeholder(str),
        ),
    )


def sweep() -> ConfigDict:
    """Mode `sweep`: evaluates the model at every combination of these values.

    All points use the same noise and classes, and the reference, networks and metrics
    of `evaluate`. An empty list means the value in `sample`.
    """
    return section(
        "sweep",
        dict(
            count=number(2_000, "[2, 1e9]"),
            guidance=number((1.0, 1.5, 2.0, 3.0, 4.0), "[0, 1000]"),
            # Pairs of sample.guidance_low and _high: ((None, None), (-3.0, 3.0))
            intervals=number((), "[-100, 100]"),
            steps=number((), "[1, 1e6]"),
        ),
    )
