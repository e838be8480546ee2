"""The console script: what `python -m simple_diffusion.main` does."""

import runpy


def run() -> None:
    """Runs `simple_diffusion.main` as a script, so that --help finds its flags."""
    runpy.run_module("simple_diffusion.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run()
