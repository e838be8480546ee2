"""The console script: what `python -m simple_diffusion.main` does."""

from simple_diffusion.main import run

if __name__ == "__main__":
    run()
