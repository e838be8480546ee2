"""Loading a trained model: from a run, an exported folder, or the Hugging Face hub."""

import importlib
import os
from pathlib import Path

from simple_diffusion.core import files
from simple_diffusion.pipelines import export, runs
from simple_diffusion.pipelines.model import Model

HUB = "hf:"


def load(
    source: str | os.PathLike,
    *,
    weights: str | None = None,
    step: int | None = None,
    best: bool = False,
    guidance_workdir: str | None = None,
    guidance_step: int | None = None,
) -> Model:
    """Loads a trained model onto all devices of this machine.

    Args:
      source: the workdir of a run, a folder that `Model.save` or `--mode export` wrote,
        or "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION" for such a folder on the Hugging
        Face hub (needs `pip install simple_diffusion[hub]`). A workdir may be in a
        bucket, gs://...
      weights: "ema", "params" or "power_LENGTH" such as "power_0.07"; by default
        `sample.weights` of the run. An exported folder has one of them.
      step: of the checkpoint of a run; by default the newest.
      best: load the checkpoint with the best `evaluate.best_metric`.
      guidance_workdir: workdir of a run whose weaker model guides this one.
      guidance_step: step of its checkpoint; by default the newest.

    Raises:
      ValueError: there is no trained model, or not these weights.
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    text = os.fspath(source)
    if text.startswith(HUB):
        text = str(_download(text))
    folder = files.resolve_folder(os.path.expanduser(text), "source")
    if not folder.exists():
        raise ValueError(f"{text} does not exist: a run, an exported folder, or hf:...")
    if (folder / export.PROCESS).exists():
        for name, value in (("weights", weights), ("step", step), ("best", best)):
            if value:
                raise ValueError(
                    f"{name}={value}: {text} is an exported folder, which holds one "
                    "set of weights; load the run instead"
                )
        return Model(**vars(export.load(Path(text).expanduser())))
    config = runs.load_config(folder)
    changes = {
        "weights": weights,
        "checkpoint_step": step,
        "best_checkpoint": best or None,
        "guidance_workdir": guidance_workdir,
        "guidance_step": guidance_step,
    }
    for key, value in changes.items():
        if value is not None:
            config.sample[key] = value
    runs.use_all_devices(config)
    # Import it late: loading an exported folder needs neither orbax nor optax.
    open_run = importlib.import_module("simple_diffusion.pipelines.open_run")
    return open_run.open_run(config, text)


def _download(text: str) -> Path:
    """Returns the local copy of a folder on the Hugging Face hub."""
    name, _, revision = text.removeprefix(HUB).partition("@")
    if name.count("/") != 1:
        raise ValueError(f"{text} must be hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError:
        raise ValueError(
            f"{text} needs the package huggingface_hub: pip install "
            "simple_diffusion[hub]"
        ) from None
    return Path(hub.snapshot_download(name, revision=revision or None))
