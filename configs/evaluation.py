"""The sections `evaluate` and `sweep`: what a model is worth, and with which keys."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def evaluate() -> ConfigDict:
    """What is compared with what, by which features; how, is stated in `sample`."""
    return ConfigDict(
        dict(
            # Of the loss, of intervals, of sets to extrapolate from and of places of
            # patches; samples have sample.seed, and KID and the Inception score the
            # seeds that they have in other implementations.
            seed=0,
            # model (that of the workdir) | folder:PATH | npz:PATH
            samples="model",
            # Samples drawn of a model, and held-out images for its loss. Folders and
            # .npz files are read whole.
            count=10_000,
            # Which classes a model draws: balanced | as_data, as they come in the
            # reference | the name or number of one class, which is then compared with
            # that class alone.
            labels="balanced",
            # data (data.source, prepared as for training) | folder:PATH | npz:PATH
            # (images, or published statistics with mu and sigma) | statistics:PATH
            # (those of data, in a file that is made if it is not there).
            reference="data",
            # data: train | holdout
            reference_split="train",
            # Images of it, of a single class its share of them; none means all, of a
            # source without end as many as samples, or as reference_features if those
            # are more.
            reference_count=placeholder(int),
            # As many features of them are kept for metrics on single images.
            reference_features=10_000,
            # HxW to which the images of a folder or .npz are cut and resized; none
            # leaves them as they are, and they must all have one size.
            size=placeholder(str),
            # Further sizes at which a model is evaluated, such as ("48x48", "32x64").
            also_sizes=(),
            # Compare patches of this side, cut at random places, the same in both sets,
            # in place of whole images; none compares whole images.
            patch=placeholder(int),
            # Images at a time; samples are drawn sample.batch_size at a time.
            batch_size=256,
            # source (a classifier that is trained on data.source) | inception | dinov2
            # | thumbnail: one or several.
            networks=("source",),
            # Files that python -m simple_diffusion.modes.convert writes.
            inception_weights=placeholder(str),
            dinov2_weights=placeholder(str),
            # How images come to 299x299 for inception: tf1_bilinear (as in published
            # FIDs) | torch_bilinear (pytorch-fid) | clean_bicubic (clean-fid)
            resize="tf1_bilinear",
            # Steps of training for the classifier.
            classifier_steps=300,
            # fd | sfid | kd | score | precision_recall | density_coverage | accuracy |
            # memorisation | fd_infinity, as far as there is a network for it
            metrics=(
                "fd",
                "sfid",
                "kd",
                "score",
                "precision_recall",
                "density_coverage",
                "accuracy",
                "memorisation",
            ),
            # Neighbours that decide how far precision and recall, and density and
            # coverage, reach around each image.
            neighbours=3,
            density_neighbours=5,
            # Samples in the picture of nearest training images, of those nearest to
            # one; and samples of each class in the pictures of classes.
            show_neighbours=8,
            show_per_class=8,
            # Write report.html in the end, as --mode report does.
            report=False,
            # At the end of training, and every train.evaluate_every_*: samples drawn,
            # and held-out images for the loss; of metrics only the cheap ones.
            count_after_training=512,
            count_during_training=5_000,
            # There, of the reference as many images at most.
            reference_during_training=50_000,
            metrics_during_training=("fd", "accuracy"),
            # What decides which checkpoint is the best, without the number of samples,
            # such as fid or accuracy_scenes; none means fd of the first network.
            best_metric=placeholder(str),
        )
    )


def sweep() -> ConfigDict:
    """Mode `sweep`: the model is evaluated at every combination of these values.

    The same noise and classes each time, the same reference, networks and metrics as in
    `evaluate`; an empty list means the value in `sample`.
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
