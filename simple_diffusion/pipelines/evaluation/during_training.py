"""What a training looks at on its way: cheap evaluations, and the best checkpoint."""

import dataclasses
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import data, evaluation, feature_networks, sampling
from simple_diffusion.build.network import Model
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.evaluation import feature_bank, metric_names
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.modes import evaluate
from simple_diffusion.pipelines import compiled, trained_weights
from simple_diffusion.pipelines.evaluation import record, references
from simple_diffusion.pipelines.evaluation.comparison import Comparison
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


class Checks:
    """Evaluations of a training, by few samples and the cheap ones of all metrics.

    config: the whole config; what cannot be evaluated is an error at once.
    folder: the workdir.
    opened: the data source.
    built: the model.
    mesh: the devices.
    sampler: how samples are drawn.
    drawer: what draws them.
    """

    def __init__(
        self,
        config: Config,
        folder: epath.Path,
        opened: data.Data,
        built: Model,
        mesh: Mesh,
        sampler: sampling.Sampling,
        drawer: compiled.Drawer,
    ):
        plan = self._plan = evaluation.plan_of_model(config, "a training")
        record.commit()
        feature_networks.check_weights(config)
        references.check(plan, config.evaluate.networks, opened, sampler.size)
        evaluate.label_of(plan.labels, built, opened.class_names)
        # In a training these are what is drawn from, whatever `sample` says.
        config = config.copy_and_resolve_references()
        for key, value in _OWN.items():
            config.sample[key] = value
        self._config, self._folder = config, folder
        self._opened, self._built, self._mesh = opened, built, mesh
        self._sampler, self._drawer = sampler, drawer
        self._check_best()
        self._compared: Comparison | None = None
        self._best: checkpoint.Best | None = None

    def begin(self, step: int) -> None:
        """Forgets evaluations of steps that were lost and will be made again."""
        record.forget_after(self._folder, step)
        if cluster.first_says([(self._folder / trained_weights.BEST).exists()])[0]:
            checkpoint.Best.forget_after(self._folder / trained_weights.BEST, step)
        last = files.read_metrics(self._folder).get("step")
        if jax.process_index() == 0 and last is not None and last > step:
            (self._folder / files.METRICS).unlink()

    def during(self, step: int, current: state.TrainState) -> None:
        """Evaluates a step, and keeps its checkpoint if it is the best so far."""
        count = self._plan.during_training
        files.say(f"evaluating step {step} with {count} samples")
        found, label = self._measured(current, count)
        record.append(self._folder, self._described(current, found))
        metric = self._chosen(found)
        if metric is None:
            wanted = self._plan.best_metric or "fd"
            files.say(f"  note: without {wanted} no checkpoint is known to be the best")
            return
        if self._best is None:
            lower = metric_names.better_lower(metric.name)
            assert lower is not None and self._compared is not None
            folder = self._folder / trained_weights.BEST
            # Values of other samples, or compared otherwise, say nothing of these.
            drawn = record.drawn(self._config, self._sampler, None)
            settings = drawn | self._compared.settings(self._sampler.size, label)
            name = f"{metric.name} {feature_bank.digest(settings)}"
            self._best = checkpoint.Best(folder, name, lower)
        if self._best.offer(step, current, metric.value):
            files.say(
                f"  the best so far, kept in {self._folder / trained_weights.BEST}"
            )

    def final(self, last: state.TrainState) -> dict[str, Any]:
        """Evaluates the end of a training and writes its record, which is returned."""
        count = self._plan.after_training
        files.say(f"evaluating with {count} samples and held-out images")
        model = self._model(last)
        found = list(record.tell(evaluate.held_out(self._config, model, count)))
        found += self._measured(last, count)[0]
        described = self._described(last, found)
        record.append(self._folder, described)
        files.write_metrics(self._folder, described)
        return described

    def close(self) -> None:
        """Waits for what is being written."""
        if self._best is not None:
            self._best.close()

    def _model(self, current: state.TrainState) -> evaluate.Model:
        params = current.ema["main"]
        step = int(current.step)
        return evaluate.Model(self._built, step, params, self._opened, self._mesh)

    def _measured(
        self, current: state.TrainState, count: int
    ) -> tuple[list[Metric], int | None]:
        """Returns metrics of samples, and their class if they all have one."""
        if self._compared is None:  # late: it may have to train a classifier
            most = self._plan.reference_during_training
            plan = dataclasses.replace(self._plan, reference_most=most)
            parts = self._config, self._folder, self._mesh, self._opened, plan
            self._compared = evaluate.comparison(*parts)
        self._compared.forget_notes()
        drawn = evaluate.samples(
            self._config,
            self._model(current),
            self._compared,
            self._sampler,
            count,
            self._drawer,
        )
        wanted = self._plan.metrics_during_training
        generated = evaluate.gathered(self._compared, drawn, store=False)
        found = evaluate.measure(self._compared, drawn, generated, wanted)
        return list(record.tell(found)), drawn.label

    def _described(
        self, current: state.TrainState, found: list[Metric]
    ) -> dict[str, Any]:
        assert self._compared is not None
        step = int(current.step)
        return evaluate.describe(
            self._config, self._compared, self._sampler, step, found
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
