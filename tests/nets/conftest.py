import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Switches the type checks off, as in production: what our own checks say."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
