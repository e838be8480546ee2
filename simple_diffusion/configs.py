"""Recipes in a checkout, from the folder configs/; a wheel has that folder here."""

from pathlib import Path

# Makes a package of this module: `from simple_diffusion.configs import base`.
__path__ = [str(Path(__file__).parents[1] / "configs")]
