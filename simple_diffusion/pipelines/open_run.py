"""Opening a run: the model that a workdir holds, with the weights of a checkpoint."""

from simple_diffusion.build import codec as codecs
from simple_diffusion.build import network, training
from simple_diffusion.core import files
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Weights
from simple_diffusion.pipelines import runs, trained_weights
from simple_diffusion.pipelines.model import Model
from simple_diffusion.pipelines.trained import Trained


def open_run(config: Config, workdir: str) -> Model:
    """Returns the model of a workdir, as `config` describes it.

    The weights are those that `config.sample` names, on the devices of `config.mesh`.

    Raises:
      ValueError: nothing was trained there, or not these weights.
      CheckpointError: there is no such checkpoint, or it does not fit the config.
    """
    folder = files.resolve_folder(workdir)
    classes = runs.load_classes(folder)
    net = network.network(config, len(classes))
    mesh = training.mesh(config)
    step, params = trained_weights.load(folder, net, mesh, config)
    weak, weak_params = trained_weights.load_weak(config, len(classes), mesh)
    codec, codec_params = codecs.codec(config)
    weights = Weights(params, weak_params, codec_params)
    trained = Trained(net, weights, mesh, classes, step, weak, codec)
    sheet = folder / files.SAMPLES
    return Model(
        config,
        trained,
        weights_name=config.sample.weights,
        metrics=files.read_metrics(folder),
        sheet=sheet.read_bytes() if sheet.exists() else None,
    )
