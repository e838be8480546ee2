"""Mode `report`: one HTML file that shows all that a run has left in its workdir."""

from simple_diffusion.core.options import Config
from simple_diffusion.report import html_report
from simple_diffusion.report.html_report import Result


def run(config: Config, workdir: str) -> Result:
    """Writes `report.html` into the workdir, see `html_report.write`.

    Raises:
      ValueError: if there is nothing to report on.
    """
    del config  # the workdir says what was trained
    return html_report.write(workdir)
