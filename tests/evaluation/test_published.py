import numpy as np
import pytest

from simple_diffusion.evaluation import published


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5))
    return {"mu": x.mean(0), "sigma": np.cov(x.T)}


def test_mean_and_covariance_come_back(tmp_path, arrays):
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays, mu_s=np.zeros(2), sigma_s=np.eye(2), arr_0=np.zeros(9))
    assert published.has_statistics(path)
    bank = published.read(path)
    np.testing.assert_allclose(bank.total.mean, arrays["mu"])
    np.testing.assert_allclose(bank.total.covariance, arrays["sigma"], rtol=1e-12)
    assert bank.spatial is not None
    np.testing.assert_allclose(bank.spatial.covariance, np.eye(2))
    assert bank.features.shape == (0, 5)


def test_other_files_hold_no_statistics(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((2, 3, 3, 3)))
    (tmp_path / "text").write_text("no archive")
    assert not published.has_statistics(tmp_path / "images.npz")
    assert not published.has_statistics(tmp_path / "text")
    assert not published.has_statistics(tmp_path / "none")


def test_statistics_that_cannot_be_are_refused(tmp_path, arrays):
    path = tmp_path / "stats.npz"
    np.savez(path, mu=np.zeros(4), sigma=arrays["sigma"])
    with pytest.raises(ValueError, match="do not fit together"):
        published.read(path)
    np.savez(path, mu=np.full(5, np.nan), sigma=arrays["sigma"])
    with pytest.raises(ValueError, match="not finite"):
        published.read(path)
