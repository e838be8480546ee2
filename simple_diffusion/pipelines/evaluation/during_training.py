"""Cheap evaluations during a training, and its best checkpoint."""

import dataclasses
from typing import Any

import jax
from etils import epath

from simple_diffusion.build import data, feature_networks
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation import feature_bank, metric_names
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines import open_run
from simple_diffusion.pipelines.evaluation import evaluation, record, references
from simple_diffusion.pipelines.evaluation.comparison import Comparison
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.pipelines.training_grids import TrainingGrids
from simple_diffusion.training import checkpoint, cluster, state

_TRAINING_SETTINGS = {
    "weights": "ema",
    "checkpoint_step": None,
    "best_checkpoint": False,
    "guidance_workdir": None,
    "guidance_step": None,
}
# Metric of `evaluate.metrics_during_training` -> kinds of its values.
_KINDS = {
    "fd": ("fid", "fd"),
    "sfid": ("sfid",),
    "kd": ("kid", "kd"),
    "score": ("inception_score", "class_score"),
    "fd_infinity": ("fid_infinity", "fd_infinity"),
    "accuracy": ("accuracy",),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
}
# Kinds that only Inception has, and those that it does not have.
_OF_INCEPTION = ("fid", "sfid", "kid", "inception_score", "fid_infinity")
_OF_OTHERS = ("fd", "kd", "class_score", "fd_infinity", "accuracy")


class TrainingEvaluations:
    """Evaluations of a training, with few samples and cheap metrics.

    config: the whole config; invalid settings raise errors in the constructor.
    folder: the workdir.
    dataset: the data source.
    trained: the model; its weights are not used.
    grids: their drawer is used, so that nothing is compiled twice.
    """

    def __init__(
        self,
        config: Config,
        folder: epath.Path,
        dataset: data.Data,
        trained: Trained,
        grids: TrainingGrids,
    ):
        plan = self._plan = build_evaluation.read_model_plan(config, "a training")
        record.find_commit()
        feature_networks.check_weights(config)
        networks, size = config.evaluate.networks, grids.sampler.size
        references.check(plan, networks, dataset, size)
        evaluation.read_label(plan.labels, trained.net, dataset.class_names)
        # A training samples from these weights; it ignores the keys of `sample`.
        config = config.copy_and_resolve_references()
        for key, value in _TRAINING_SETTINGS.items():
            config.sample[key] = value
        self._config, self._folder, self._dataset = config, folder, dataset
        self._untrained, self._grids = trained, grids
        self._check_best()
        self._comparison: Comparison | None = None
        self._best: checkpoint.BestCheckpoint | None = None

    def prepare(self, step: int) -> None:
        """Deletes evaluations after a step, which the resumed training repeats."""
        record.delete_after(self._folder, step)
        if cluster.broadcast_from_first([(self._folder / open_run.BEST).exists()])[0]:
            checkpoint.BestCheckpoint.delete_after(self._folder / open_run.BEST, step)
        last = files.read_metrics(self._folder).get("step")
        if jax.process_index() == 0 and last is not None and last > step:
            (self._folder / files.METRICS).unlink()

    def evaluate_during(self, step: int, current: state.TrainState) -> None:
        """Evaluates a step; stores its checkpoint if it is the best so far."""
        count = self._plan.during_training
        console.print_line(f"evaluating step {step} with {count} samples")
        metrics, label = self._measure(current, count)
        record.append(self._folder, self._describe(current, metrics))
        metric = self._best_metric(metrics)
        if metric is None:
            name = self._plan.best_metric or "fd"
            console.print_line(
                f"  note: without {name} the best checkpoint cannot be determined"
            )
            return
        if self._best is None:
            lower = metric_names.is_lower_better(metric.name)
            assert lower is not None and self._comparison is not None
            folder = self._folder / open_run.BEST
            # Compare only values with equal settings of sampling and comparison.
            settings = record.describe_sampling(
                self._config, self._grids.sampler, None
            ) | self._comparison.settings(self._grids.sampler.size, label)
            name = f"{metric.name} {feature_bank.digest(settings)}"
            self._best = checkpoint.BestCheckpoint(folder, name, lower)
        if self._best.save_if_better(step, current, metric.value):
            console.print_line(
                f"  the best so far, stored in {self._folder / open_run.BEST}"
            )

    def evaluate_final(self, last: state.TrainState) -> dict[str, Any]:
        """Evaluates the end of a training; writes and returns its record."""
        count = self._plan.after_training
        console.print_line(f"evaluating with {count} samples and held-out images")
        trained = self._trained(last)
        names = self._plan.metrics_during_training
        loss = evaluation.measure_held_out(
            self._config, trained, self._dataset, count, names
        )
        metrics = list(record.print_metrics(loss))
        metrics += self._measure(last, count)[0]
        final_record = self._describe(last, metrics)
        record.append(self._folder, final_record)
        files.write_metrics(self._folder, final_record)
        return final_record

    def close(self) -> None:
        """Waits until the best checkpoint is written."""
        if self._best is not None:
            self._best.close()

    def _trained(self, current: state.TrainState) -> Trained:
        weights = self._untrained.weights._replace(network=current.ema["main"])
        return dataclasses.replace(
            self._untrained, weights=weights, step=int(current.step)
        )

    def _measure(
        self, current: state.TrainState, count: int
    ) -> tuple[list[Metric], int | None]:
        """Returns metrics of samples, and their class if they all have the same."""
        if self._comparison is None:  # created late: it may have to train a classifier
            most = self._plan.reference_during_training
            plan = dataclasses.replace(self._plan, reference_most=most)
            self._comparison = evaluation.open_comparison(
                self._config, self._folder, self._untrained.mesh, self._dataset, plan
            )
        comparison = self._comparison
        comparison.clear_notes()
        samples = evaluation.draw_samples(
            self._config,
            self._trained(current),
            comparison,
            self._grids.sampler,
            count,
            self._grids.drawer,
        )
        names = self._plan.metrics_during_training
        features = evaluation.extract_features(comparison, samples, store=False)
        metrics = evaluation.measure(comparison, samples, features, names)
        return list(record.print_metrics(metrics)), samples.label

    def _describe(
        self, current: state.TrainState, metrics: list[Metric]
    ) -> dict[str, Any]:
        assert self._comparison is not None
        step = int(current.step)
        return evaluation.describe(
            self._config, self._comparison, self._grids.sampler, step, metrics
        )

    def _best_metric(self, metrics: list[Metric]) -> Metric | None:
        """Returns the metric that decides on the best checkpoint, if it was measured.

        By default it is the Fréchet distance of the first network.
        """
        name = self._plan.best_metric
        for metric in metrics:
            kind, network, _ = metric_names.split_name(metric.name)
            short = kind if network is None else _join(kind, network)
            if name is None and metric_names.plain_kind(kind) in _KINDS["fd"]:
                return metric
            if name in (short, metric.name):
                return metric
        return None

    def _check_best(self) -> None:
        """Raises ValueError if `evaluate.best_metric` is not measured."""
        name, networks = self._plan.best_metric, self._config.evaluate.networks
        if name is None:
            return
        kinds = [
            k for m in self._plan.metrics_during_training for k in _KINDS.get(m, ())
        ]
        kind, network, _ = metric_names.split_name(name)
        source = self._config.data.source.partition(":")[0]
        has_classes = len(self._dataset.class_names) > 1
        aliases = {
            "source": (source if has_classes else "thumbnail",),
            "dinov2": ("dinov2_b", "dinov2_l"),
        }
        known = [n for key in networks for n in aliases.get(key, (key,))]
        names = [_join(k, n) for n in known for k in _kinds_of(n, kinds)]
        short = _join(metric_names.plain_kind(kind), network or metric_names.INCEPTION)
        if short not in names:
            raise ValueError(
                f"evaluate.best_metric={name} is not measured in this training. With "
                f"evaluate.networks={tuple(networks)} and evaluate."
                f"metrics_during_training={self._plan.metrics_during_training} it must "
                f"be one of: {', '.join(names)}"
            )


def _kinds_of(network: str, kinds: list[str]) -> list[str]:
    """Returns the kinds of metrics that a network has."""
    is_inception = network == metric_names.INCEPTION
    unused = _OF_OTHERS if is_inception else _OF_INCEPTION
    return [kind for kind in kinds if kind not in unused]


def _join(kind: str, network: str) -> str:
    """Returns the name of a metric without the number of samples."""
    return kind if network == metric_names.INCEPTION else f"{kind}_{network}"
