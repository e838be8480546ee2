"""Mode `train`: from a config to a trained model, a grid of samples and its metrics."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import (
    data,
    diffusion,
    network,
    sampling,
    training,
)
from simple_diffusion.core import arrays, files
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch
from simple_diffusion.data import feed
from simple_diffusion.pipelines import compiled, image_grids, runs, trained_weights
from simple_diffusion.pipelines.evaluation import during_training
from simple_diffusion.training import (
    checkpoint,
    cluster,
    loop,
    report,
    sharding,
    state,
    step,
)

GRID = "samples.png"
GRIDS = "grids"


class Result(NamedTuple):
    """How a training ended.

    status: one of the words of `training.loop`.
    state: the last one.
    metrics: of the cheap evaluation at the end; empty if the run was stopped.
    grid: the picture of samples.
    """

    status: str
    state: state.TrainState
    metrics: dict[str, float]
    grid: epath.Path


def run(config: Config, workdir: str) -> Result:
    """Trains, resuming where a checkpoint is found; then samples and evaluates."""
    with training.watch(config) as watch:
        return _run(config, workdir, watch)


def _run(config: Config, workdir: str, watch: cluster.Watch) -> Result:
    # Everything is built before the first array is made: a wrong key costs seconds.
    folder = files.folder(workdir)
    mesh = training.mesh(config)
    opened = data.data(config, sharding.share(mesh))
    built = network.model(config, opened.num_classes)
    plan = training.plan(config, opened.epoch)
    training.check_batch(plan.batch_size, mesh, plan.accumulate)
    sampler = sampling.sampling(config, built, mesh=mesh)
    others = sampling.further(config, built, mesh)
    picture_plan = sampling.plan(config, built, opened.class_names)
    draw = compiled.drawer(sampler, mesh, picture_plan.batch_size)

    def further_grid(size: str) -> epath.Path:
        return folder / f"samples_{size}.png"

    def show(now: int, current: state.TrainState) -> None:
        drawn = draw(current.ema["main"], picture_plan.labels)
        last = now >= plan.total
        path = folder / (GRID if last else f"{GRIDS}/step_{now:07d}.png")
        # The same noise and classes every time, so that progress can be seen.
        whole = np.concatenate(list(drawn if last else itertools.islice(drawn, 1)))
        if jax.process_index() == 0:
            image_grids.write_grid(path, whole, picture_plan.labels[: len(whole)])
        files.say(f"samples of step {now}: {path}")
        for size, other in others.items() if last else ():
            path = further_grid(size)
            drawn = compiled.drawer(other, mesh, picture_plan.batch_size)
            shown = picture_plan.labels[: picture_plan.batch_size]
            whole = np.concatenate(list(drawn(current.ema["main"], shown)))
            if jax.process_index() == 0:
                image_grids.write_grid(path, whole, shown)
            files.say(f"samples at {size}: {path}")

    tester = during_training.Checks(config, folder, opened, built, mesh, sampler, draw)
    grids = [folder / GRID, *map(further_grid, others)]
    outcome = _train(config, folder, opened, built, plan, mesh, show, tester, watch)
    if outcome.status == loop.STOPPED:
        return Result(outcome.status, outcome.state, {}, folder / GRID)
    watch.doing("showing and evaluating the result", endless=True)
    if outcome.status == loop.ALREADY_COMPLETE:
        runs.remember(config, folder, opened.class_names, files.say)
    last = int(outcome.state.step)  # more than plan.total in a run that was longer
    record = files.read_metrics(folder)
    # As the first process sees it, which writes the files: all draw, or none.
    shown, known = cluster.first_says(
        [all(path.exists() for path in grids), record.get("step") == last]
    )
    if not shown:  # killed between last save and grids
        show(last, outcome.state)
    if not known:
        record = tester.final(outcome.state)
    metrics = record.get("metrics", {})
    _summarise(metrics, folder)
    return Result(outcome.status, outcome.state, metrics, folder / GRID)


def _train(
    config: Config,
    folder: epath.Path,
    opened: data.Data,
    built: network.Model,
    plan: training.Plan,
    mesh: Mesh,
    show: Callable[[int, state.TrainState], None],
    tester: during_training.Checks,
    watch: cluster.Watch,
) -> loop.Outcome:
    optimizer = training.adam(config, plan.total)
    averages = training.averages(config)
    blueprint = state.blueprint(
        built.init, optimizer, averages, mesh=mesh, seed=plan.seed
    )
    train_step = step.make_train_step(
        diffusion.objective(config, built),
        optimizer,
        averages,
        seed=plan.seed,
        accumulate=plan.accumulate,
    )
    train_step = sharding.pin_maps(train_step, mesh, config.mesh.split_rows)

    def batches(first_step: int) -> Iterator[Batch]:
        # Not before: now it is known that the checkpoints in this workdir, if any, are
        # of this model, and its records may be overwritten.
        runs.remember(config, folder, opened.class_names, files.say)
        tester.begin(first_step)
        return feed.Feed(
            opened.train(first_step), training.batch_shardings(config, mesh)
        )

    with contextlib.ExitStack() as stack:
        checkpoints = checkpoint.Checkpoints(
            folder / trained_weights.CHECKPOINTS, plan.keep, plan.keep_every
        )
        stack.callback(checkpoints.close)
        log = report.Report(folder, total_steps=plan.total, every=plan.log_every)
        stack.callback(log.close)
        _introduce(config, folder, opened, blueprint, mesh)
        actions = [loop.Action(plan.sample_every or plan.total, show)]
        if plan.evaluate_every:
            stack.callback(tester.close)
            actions.append(loop.Action(plan.evaluate_every, tester.during))
        if plan.snapshot_every:
            path = folder / trained_weights.SNAPSHOTS
            snapshots = checkpoint.Snapshots(path, averages)
            stack.callback(snapshots.close)
            actions.append(loop.Action(plan.snapshot_every, snapshots.save))
        profile = loop.Profile(plan.profile, str(folder / "profile"))
        return loop.train(
            train_step,
            blueprint,
            batches,
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


def _introduce(
    config: Config,
    folder: epath.Path,
    opened: data.Data,
    blueprint: state.Blueprint,
    mesh: Mesh,
) -> None:
    """Says what is about to be trained."""
    size = arrays.tree_size(blueprint.abstract.params)
    amount = "endless" if opened.epoch >= training.ENDLESS else f"{opened.epoch:,}"
    files.say(
        f"{config.model.name} of {size:,} parameters on {mesh.size} "
        f"{jax.devices()[0].platform} device(s); {amount} images of "
        f"{opened.num_classes} classes; workdir {folder}"
    )


def _summarise(metrics: dict[str, float], folder: epath.Path) -> None:
    """Says what there is to see; one line per number that sums up the run."""
    files.say(f"\ntraining is complete; metrics ({folder / files.METRICS}):")
    for name, value in metrics.items():
        if "[" not in name:  # a single bin of logsnr
            files.say(f"  {name:32s} {value:.4f}")
    files.say(f"pictures: {folder / GRID}")
    if (folder / GRIDS).exists():
        files.say(f"how they came about: {folder / GRIDS}")
