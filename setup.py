"""The packages of the wheel, which pyproject.toml has no words for: recipes are one."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

RECIPES = "simple_diffusion.configs"


class BuildWithRecipes(build_py):
    """Leaves out the module that stands for the recipes in a checkout."""

    def find_package_modules(self, package, package_dir):
        """Returns (package, module, file) of each module of a package."""
        found = super().find_package_modules(package, package_dir)
        return [row for row in found if f"{row[0]}.{row[1]}" != RECIPES]


setup(
    packages=[*find_packages(include=["simple_diffusion*"]), RECIPES],
    package_dir={RECIPES: "configs"},
    cmdclass={"build_py": BuildWithRecipes},
)
