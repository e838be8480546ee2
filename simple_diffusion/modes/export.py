"""Mode `export`: a trained model as a folder of safetensors and JSON."""

from pathlib import Path

from simple_diffusion.build import training
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config, pick
from simple_diffusion.pipelines import export, open_run, runs


def plan(config: Config) -> tuple[str | None, str]:
    """Returns the folder of the export, None for the default, and its dtype.

    Raises:
      ValueError: the output is not a local folder, or the dtype is unknown.
    """
    output, dtype = config.export.output, config.export.dtype
    if "://" in (output or ""):
        raise ValueError(
            f"export.output={output} must be a local folder; copy it to the bucket "
            "afterwards"
        )
    pick(export.DTYPES, dtype, "export.dtype")
    return output, dtype


def run(config: Config, workdir: str) -> Path:
    """Writes the weights that `sample` names to `export.output` and returns the folder.

    The default folder is `export` in the workdir. `simple_diffusion.load` reads it
    without orbax and TensorFlow.

    Raises:
      ValueError: the workdir holds no trained model, or the folder holds other files.
    """
    output, dtype = plan(config)
    with training.build_watchdog(config):
        folder = files.resolve_folder(workdir)
        runs.print_differences(config, folder)
        model = open_run.open_run(config, workdir)
        path = model.save(output or str(folder / "export"), dtype=dtype)
        console.print_line(f"export of step {model.step}: {path}")
        return path
