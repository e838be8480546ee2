"""Mode `export`: a trained model as a folder of safetensors and JSON."""

from pathlib import Path

from simple_diffusion.build import training
from simple_diffusion.core import console, files
from simple_diffusion.core.options import Config
from simple_diffusion.pipelines import open_run, runs


def run(config: Config, workdir: str) -> Path:
    """Writes the weights that `sample` names to `export.output` and returns the folder.

    By default that is the folder `export` of the workdir. `simple_diffusion.load` reads
    it, without orbax and TensorFlow.

    Raises:
      ValueError: nothing was trained in the workdir, or the folder holds other files.
    """
    with training.watch(config):
        folder = files.resolve_folder(workdir)
        runs.print_differences(config, folder)
        model = open_run.open_run(config, workdir)
        output = config.export.output or str(folder / "export")
        if "://" in output:
            raise ValueError(
                f"export.output={output} must be a folder on a disk; copy it to the "
                "bucket afterwards"
            )
        path = model.save(output, dtype=config.export.dtype)
        console.print_line(f"export of step {model.step}: {path}")
        return path
