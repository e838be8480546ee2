"""What a training looks at on its way: cheap evaluations, and the best checkpoint."""

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

_OWN = {
    "weights": "ema",
    "checkpoint_step": None,
    "best_checkpoint": False,
    "guidance_workdir": None,
    "guidance_step": None,
}
# Which names come of a metric.
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


class TrainingEvaluations:
    """Evaluations of a training, by few samples and the cheap ones of all metrics.

    config: the whole config; what cannot be evaluated is an error at once.
    folder: the workdir.
    dataset: the data source.
    trained: the model; its weights are not used.
    grids: whose drawer is used, so that nothing is compiled twice.
    """

    def __init__(
        self,
        config: Config,
        folder: epath.Path,
        dataset: data.Data,
        trained: Trained,
        grids: TrainingGrids,
    ):
        plan = self._plan = build_evaluation.plan_of_model(config, "a training")
        record.commit()
        feature_networks.check_weights(config)
        networks, size = config.evaluate.networks, grids.sampler.size
        references.check(plan, networks, dataset, size)
        evaluation.label_of(plan.labels, trained.net, dataset.class_names)
        # In a training these are what is drawn from, whatever `sample` says.
        config = config.copy_and_resolve_references()
        for key, value in _OWN.items():
            config.sample[key] = value
        self._config, self._folder, self._dataset = config, folder, dataset
        self._untrained, self._grids = trained, grids
        self._check_best()
        self._comparison: Comparison | None = None
        self._best: checkpoint.BestCheckpoint | None = None

    def begin(self, step: int) -> None:
        """Forgets evaluations of steps that were lost and will be made again."""
        record.forget_after(self._folder, step)
        if cluster.broadcast_from_first([(self._folder / open_run.BEST).exists()])[0]:
            checkpoint.BestCheckpoint.delete_after(self._folder / open_run.BEST, step)
        last = files.read_metrics(self._folder).get("step")
        if jax.process_index() == 0 and last is not None and last > step:
            (self._folder / files.METRICS).unlink()

    def during(self, step: int, current: state.TrainState) -> None:
        """Evaluates a step, and keeps its checkpoint if it is the best so far."""
        count = self._plan.during_training
        console.print_line(f"evaluating step {step} with {count} samples")
        found, label = self._measure(current, count)
        record.append(self._folder, self._describe(current, found))
        metric = self._chosen(found)
        if metric is None:
            wanted = self._plan.best_metric or "fd"
            console.print_line(
                f"  note: without {wanted} no checkpoint is known to be the best"
            )
            return
        if self._best is None:
            lower = metric_names.is_lower_better(metric.name)
            assert lower is not None and self._comparison is not None
            folder = self._folder / open_run.BEST
            # Values of other samples, or compared otherwise, say nothing of these.
            drawn = record.sampling_settings(self._config, self._grids.sampler, None)
            settings = drawn | self._comparison.settings(
                self._grids.sampler.size, label
            )
            name = f"{metric.name} {feature_bank.digest(settings)}"
            self._best = checkpoint.BestCheckpoint(folder, name, lower)
        if self._best.save_if_better(step, current, metric.value):
            console.print_line(
                f"  the best so far, kept in {self._folder / open_run.BEST}"
            )

    def final(self, last: state.TrainState) -> dict[str, Any]:
        """Evaluates the end of a training and writes its record, which is returned."""
        count = self._plan.after_training
        console.print_line(f"evaluating with {count} samples and held-out images")
        trained = self._trained(last)
        loss = evaluation.held_out(self._config, trained, self._dataset, count)
        found = list(record.print_metrics(loss))
        found += self._measure(last, count)[0]
        described = self._describe(last, found)
        record.append(self._folder, described)
        files.write_metrics(self._folder, described)
        return described

    def close(self) -> None:
        """Waits for what is being written."""
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
        """Returns metrics of samples, and their class if they all have one."""
        if self._comparison is None:  # late: it may have to train a classifier
            most = self._plan.reference_during_training
            plan = dataclasses.replace(self._plan, reference_most=most)
            self._comparison = evaluation.open_comparison(
                self._config, self._folder, self._untrained.mesh, self._dataset, plan
            )
        comparison = self._comparison
        comparison.forget_notes()
        samples = evaluation.samples(
            self._config,
            self._trained(current),
            comparison,
            self._grids.sampler,
            count,
            self._grids.drawer,
        )
        wanted = self._plan.metrics_during_training
        features = evaluation.extract_features(comparison, samples, store=False)
        found = evaluation.measure(comparison, samples, features, wanted)
        return list(record.print_metrics(found)), samples.label

    def _describe(
        self, current: state.TrainState, found: list[Metric]
    ) -> dict[str, Any]:
        assert self._comparison is not None
        step = int(current.step)
        return evaluation.describe(
            self._config, self._comparison, self._grids.sampler, step, found
        )

    def _chosen(self, found: list[Metric]) -> Metric | None:
        """Returns the metric that decides which checkpoint is the best, if it is there.

        By default it is the Fréchet distance of the first network.
        """
        wanted = self._plan.best_metric
        for metric in found:
            kind, network, _ = metric_names.split_name(metric.name)
            alone = kind if network == metric_names.INCEPTION else f"{kind}_{network}"
            if wanted is None and metric_names.plain_kind(kind) in _KINDS["fd"]:
                return metric
            if wanted in (alone, metric.name):
                return metric
        return None

    def _check_best(self) -> None:
        """Raises ValueError if what decides on the best checkpoint is not measured."""
        wanted, networks = self._plan.best_metric, self._config.evaluate.networks
        if wanted is None:
            return
        kinds = [
            k for m in self._plan.metrics_during_training for k in _KINDS.get(m, ())
        ]
        kind, network, _ = metric_names.split_name(wanted)
        source = self._config.data.source.partition(":")[0]
        own = {"source": {source, "thumbnail"}, "dinov2": {"dinov2_b", "dinov2_l"}}
        known = set().union(*(own.get(name, {name}) for name in networks))
        if metric_names.plain_kind(kind) not in kinds or (
            (network or metric_names.INCEPTION) not in known
        ):
            raise ValueError(
                f"evaluate.best_metric={wanted} is not measured in a training: it must "
                f"be one of {', '.join(kinds) or 'none'} (of evaluate."
                f"metrics_during_training) by one of {', '.join(sorted(known))}, such "
                "as fid or accuracy_scenes"
            )
