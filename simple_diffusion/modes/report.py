"""Mode `report`: one HTML file with all results in the workdir of a run."""

from simple_diffusion.core.options import Config
from simple_diffusion.report import html_report
from simple_diffusion.report.html_report import Result


def run(config: Config, workdir: str) -> Result:
    """Writes `report.html` into the workdir, see `html_report.write`.

    Raises:
      ValueError: there is nothing to report.
    """
    del config  # the workdir holds the config of the run
    return html_report.write(workdir)
