"""Mode `train`: trains a model, then writes a grid of samples and metrics."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import codec as codecs
from simple_diffusion.build import data, diffusion, network, recipes, sampling, training
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core import arrays, console, files, memory
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Weights
from simple_diffusion.data import feed
from simple_diffusion.pipelines import open_run, runs, training_grids
from simple_diffusion.pipelines.evaluation.during_training import TrainingEvaluations
from simple_diffusion.pipelines.requests import held_out
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.pipelines.training_grids import TrainingGrids
from simple_diffusion.training import (
    checkpoint,
    cluster,
    loop,
    report,
    sharding,
    state,
    step,
)


class Result(NamedTuple):
    """The result of a training.

    status: one of the constants of `training.loop`.
    state: the last training state.
    metrics: of the cheap evaluation at the end; empty if the run was stopped.
    grid: path of the grid of samples.
    """

    status: str
    state: state.TrainState
    metrics: dict[str, float]
    grid: epath.Path


def run(config: Config, workdir: str) -> Result:
    """Trains, resuming from an existing checkpoint; then samples and evaluates."""
    with training.build_watchdog(config) as watch:
        return _run(config, workdir, watch)


def _run(config: Config, workdir: str, watch: cluster.Watchdog) -> Result:
    # Build all objects before allocating arrays: a wrong key fails within seconds.
    recipes.check(config)
    folder = files.resolve_folder(workdir)
    mesh = training.build_mesh(config)
    share = sharding.data_shard(mesh)
    dataset, words = field_conditions.open_data(config, share, folder)
    net = network.build_network(config, dataset.num_classes)
    plan = training.read_plan(config, dataset.epoch)
    training.check_batch(plan.batch_size, mesh, plan.accumulate)
    codec, codec_params = codecs.build_codec(config)
    frozen = Weights(network=None, codec=codec_params)
    examples = held_out.of_data(config, dataset, mesh)
    names = dataset.class_names
    untrained = Trained(net, frozen, mesh, names, None, None, codec, words, examples)
    sampling.read_checkpoint_choice(config)  # raise errors of later sampling now
    grids = TrainingGrids(config, folder, untrained)

    def write_grids(now: int, current: state.TrainState, show: Any = None) -> None:
        weights = frozen._replace(network=current.ema["main"])
        grids.write(now, weights, is_last=now >= plan.total, show=show)

    evaluations = TrainingEvaluations(config, folder, dataset, untrained, grids)
    with cluster.hold_workdir(folder, console.print_line):
        outcome = _train(
            config, folder, dataset, untrained, plan, write_grids, evaluations, watch
        )
        if outcome.status == loop.STOPPED:
            return Result(outcome.status, outcome.state, {}, folder / files.SAMPLES)
        watch.set_activity("sampling and evaluating the result", is_unlimited=True)
        if outcome.status == loop.ALREADY_COMPLETE:
            runs.save_config(config, folder, dataset.class_names, words)
        last = int(outcome.state.step)  # above plan.total if an earlier run was longer
        record = files.read_metrics(folder)
        # The first process writes the files, so it decides for all processes.
        has_grids, has_metrics = cluster.broadcast_from_first(
            [all(path.exists() for path in grids.paths), record.get("step") == last]
        )
        if not has_grids:  # killed between the last checkpoint and the grids
            write_grids(last, outcome.state)
        if not has_metrics:
            record = evaluations.evaluate_final(outcome.state)
        metrics = record.get("metrics", {})
        _print_summary(metrics, folder)
        return Result(outcome.status, outcome.state, metrics, folder / files.SAMPLES)


def _train(
    config: Config,
    folder: epath.Path,
    dataset: data.Data,
    untrained: Trained,
    plan: training.Plan,
    write_grids: Callable[..., None],
    evaluations: TrainingEvaluations,
    watch: cluster.Watchdog,
) -> loop.Outcome:
    net, mesh = untrained.net, untrained.mesh
    optimizer = training.build_optimizer(config, plan.total)
    averages = training.build_averages(config)
    blueprint = state.blueprint(
        net.init, optimizer, averages, mesh=mesh, seed=plan.seed
    )
    train_step = step.make_train_step(
        diffusion.build_objective(config, net),
        optimizer,
        averages,
        seed=plan.seed,
        accumulate=plan.accumulate,
    )
    train_step = sharding.pin_feature_maps(train_step, mesh, config.mesh.split_rows)

    def batches(first_step: int) -> Iterator[Batch]:
        # Only now it is certain that existing checkpoints in this workdir match this
        # model, so that its records may be overwritten.
        runs.save_config(config, folder, dataset.class_names, untrained.lexicon)
        evaluations.prepare(first_step)
        return feed.Feed(
            dataset.train(first_step), training.batch_shardings(config, mesh)
        )

    with memory.explain(training.SAVE_MEMORY), contextlib.ExitStack() as stack:
        checkpoints = checkpoint.Checkpoints(
            folder / open_run.CHECKPOINTS, plan.keep, plan.keep_every
        )
        stack.callback(checkpoints.close)
        log = report.Report(folder, total_steps=plan.total, every=plan.log_every)
        stack.callback(log.close)
        _print_introduction(config, folder, dataset, blueprint, mesh)
        for line in training.describe_fit(config, plan, dataset.epoch):
            console.print_line(line)
        show_grids = partial(write_grids, show=log.write_images)
        actions = [loop.Action(plan.sample_every or plan.total, show_grids)]
        if plan.evaluate_every:
            stack.callback(evaluations.close)
            evaluate = evaluations.evaluate_during
            actions.append(loop.Action(plan.evaluate_every, evaluate))
        if plan.snapshot_every:
            snapshots = checkpoint.Snapshots(folder / open_run.SNAPSHOTS, averages)
            stack.callback(snapshots.close)
            actions.append(loop.Action(plan.snapshot_every, snapshots.save))
        profile = loop.Profile(plan.profile, str(folder / "profile"))
        return loop.train(
            *(train_step, blueprint, batches),
            mesh=mesh,
            total_steps=plan.total,
            checkpoints=checkpoints,
            save_every=plan.checkpoint_every,
            report=log,
            actions=actions,
            skips_allowed=plan.skips_allowed,
            profile=profile if plan.profile else None,
            watch=watch,
        )


def _print_introduction(
    config: Config,
    folder: epath.Path,
    dataset: data.Data,
    blueprint: state.Blueprint,
    mesh: Mesh,
) -> None:
    """Prints what is about to be trained."""
    size = arrays.tree_size(blueprint.abstract.params)
    # Some stored images may turn out to be unreadable.
    is_endless = dataset.epoch >= training.ENDLESS
    amount = "endless" if is_endless else f"{dataset.epoch:,} stored"
    console.print_line(
        f"{config.model.name} of {size:,} parameters on {mesh.size} "
        f"{jax.devices()[0].platform} device(s); {amount} images of "
        f"{dataset.num_classes} classes; workdir {folder}"
    )


def _print_summary(metrics: dict[str, float], folder: epath.Path) -> None:
    """Prints the metrics, one per line, and the paths of the pictures."""
    console.print_line(f"\ntraining is complete; metrics ({folder / files.METRICS}):")
    for name, value in metrics.items():
        if "[" not in name:  # a single bin of logsnr
            console.print_line(f"  {name:32s} {value:.4f}")
    console.print_line(f"pictures: {folder / files.SAMPLES}")
    if (folder / training_grids.FOLDER).exists():
        console.print_line(f"earlier samples: {folder / training_grids.FOLDER}")
