"""Opening a run: the model of a workdir, with the weights that `sample` names."""

import jax
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build import codec as codecs
from simple_diffusion.build import network, sampling, training
from simple_diffusion.build.conditioning import lexicon
from simple_diffusion.build.network import Network
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Params, Weights
from simple_diffusion.pipelines import runs
from simple_diffusion.pipelines.model import Model
from simple_diffusion.pipelines.requests import held_out
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import checkpoint, sharding, store

CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
BEST = "best"


def open_run(config: Config, workdir: str) -> Model:
    """Returns the model of a workdir that `config` describes.

    The weights are those that `config.sample` names, on the devices of `config.mesh`.

    Raises:
      ValueError: there is no trained model, or not these weights.
      CheckpointError: there is no such checkpoint, or it does not match the config.
    """
    folder = files.resolve_folder(workdir)
    classes = runs.load_classes(folder)
    net = network.build_network(config, len(classes))
    mesh = training.build_mesh(config)
    step, params = load_weights(folder, net, mesh, config)
    weak, weak_params = load_weak(config, len(classes), mesh)
    codec, codec_params = codecs.build_codec(config)
    weights = Weights(params, weak_params, codec_params)
    trained = Trained(
        *(net, weights, mesh, classes, step, weak, codec),
        lexicon=lexicon.load(config, folder),
        examples=held_out.of_config(config, mesh, folder),
    )
    sheet = folder / files.SAMPLES
    return Model(
        config,
        trained,
        weights_name=config.sample.weights,
        metrics=files.read_metrics(folder),
        sheet=sheet.read_bytes() if sheet.exists() else None,
    )


def load_weights(
    workdir: epath.Path, net: Network, mesh: Mesh, config: Config
) -> tuple[int | None, Params]:
    """Returns the step and parameters that the section `sample` asks for.

    Raises:
      ValueError: as `load_named`, or there is no best checkpoint.
      CheckpointError: as `load_named`.
    """
    choice = sampling.read_checkpoint_choice(config)
    folder = workdir / (BEST if choice.is_best else CHECKPOINTS)
    if choice.is_best and not (folder.exists() and any(folder.iterdir())):
        raise ValueError(
            f"sample.best_checkpoint=True: {workdir} has no best checkpoint; "
            "train with train.evaluate_every_steps to store one"
        )
    return load_named(workdir, net, mesh, choice.weights, choice.step, folder)


def load_named(
    workdir: epath.Path,
    net: Network,
    mesh: Mesh,
    name: str,
    step: int | None = None,
    folder: epath.Path | None = None,
) -> tuple[int | None, Params]:
    """Returns (step, parameters), sharded over the devices.

    Args:
      workdir: of the training run.
      net: the network they are for.
      mesh: the devices.
      name: "ema", "params", or "power_LENGTH"; a length that was not tracked is
        reconstructed from the snapshots of the tracked lengths.
      step: of the checkpoint; by default the newest.
      folder: of the checkpoints; by default that of the newest ones.

    Raises:
      ValueError: the name has another form, or the checkpoint has no such average.
      CheckpointError: there is no such checkpoint, or it does not match the model.
    """
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )
    folder = folder or workdir / CHECKPOINTS
    if name in ("ema", "params"):
        average = "main" if name == "ema" else None
        try:
            return checkpoint.restore_params(folder, abstract, average, step)
        except store.MissingTree as error:
            raise ValueError(
                f"sample.weights={name}: the checkpoint in {folder} holds no average; "
                "sample.weights=params loads the parameters of the last step"
            ) from error
    length = sampling.parse_weights(name)
    assert length is not None
    try:
        return checkpoint.restore_params(folder, abstract, name, step)
    except store.CheckpointMismatch:
        snapshots = workdir / SNAPSHOTS
        try:
            params = checkpoint.reconstruct(snapshots, length, abstract, step)
        except store.CheckpointError as error:
            raise ValueError(
                f"sample.weights={name}: the training did not track this average "
                f"(ema.power), and it cannot be reconstructed: {error}. Valid without "
                "them are sample.weights=ema and params"
            ) from error
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return step, jax.device_put(params, shardings)


def load_weak(
    config: Config, num_classes: int, mesh: Mesh
) -> tuple[Network | None, Params | None]:
    """Returns the weaker model for guidance and its parameters; None without one.

    It may be a model of any size, or an earlier step of the same run.

    Args:
      config: the whole config; `sample.guidance_workdir` names the weaker model.
      num_classes: of the model that it guides.
      mesh: the devices.

    Raises:
      ValueError: another version of this library wrote it, it was never trained, or
        there is no such checkpoint.
    """
    choice = sampling.read_checkpoint_choice(config)
    if choice.guidance_workdir is None:
        return None, None
    folder = files.resolve_folder(choice.guidance_workdir, "sample.guidance_workdir")
    key = f"sample.guidance_workdir={folder}"
    try:
        weak = network.build_network(runs.load_config(folder), num_classes)
        _, params = load_named(folder, weak, mesh, choice.weights, choice.guidance_step)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f"{key}: another version of this library wrote its config.json ({error})"
        ) from error
    except (ValueError, store.CheckpointError) as error:
        step = choice.guidance_step
        raise ValueError(
            f"{key}{'' if step is None else f', sample.guidance_step={step}'}: {error}"
        ) from error
    return weak, params
