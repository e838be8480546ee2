import numpy as np
import pytest

from simple_diffusion.build import feature_networks
from tests.modes import small_features


@pytest.fixture
def small_networks(monkeypatch):
    """Replaces the feature networks by fast ones."""
    monkeypatch.setattr(feature_networks, "load_networks", small_features.networks)
    monkeypatch.setattr(feature_networks, "check_networks", lambda config: None)


@pytest.fixture
def photos():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
