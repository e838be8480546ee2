"""simple_diffusion: diffusion of images at high and at any resolution in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simple_diffusion.pipelines.load import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"  # the packaging reads it here


def __getattr__(name: str) -> Any:
    # Import `load` on demand: importing the package must not wait for jax.
    if name == "load":
        from simple_diffusion.pipelines.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
