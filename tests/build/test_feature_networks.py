import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data, feature_networks
from simple_diffusion.configs import conditions, quickstart
from simple_diffusion.evaluation.networks import classifier


def tiny():
    config = quickstart.get_config()
    config.data.source = "digits"
    config.data.resolution = 8
    config.evaluate.classifier_steps = 2
    return config


def test_a_classifier_is_trained_once_and_stored(tmp_path, monkeypatch):
    config, said = tiny(), []
    opened = data.open_data(config)
    (made,) = feature_networks.load_networks(
        config, epath.Path(tmp_path), said.append, opened
    )
    assert made.name == "digits"
    assert made.class_names == tuple("0123456789")
    assert any("training a classifier of digits" in line for line in said)
    train = classifier.train
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("trained again"))
    (again,) = feature_networks.load_networks(
        config, epath.Path(tmp_path), said.append, opened
    )
    assert again.digest == made.digest
    # Other images or training settings give another classifier.
    monkeypatch.setattr(classifier, "train", train)
    config.evaluate.classifier_steps = 3
    (other,) = feature_networks.load_networks(
        config, epath.Path(tmp_path), said.append, opened
    )
    assert other.digest != made.digest


def test_without_classes_features_are_thumbnails(tmp_path):
    config, said = tiny(), []
    config.data.num_classes = 0
    (made,) = feature_networks.load_networks(
        config, epath.Path(tmp_path), said.append, data.open_data(config)
    )
    assert made.name == "thumbnail"
    assert "without classes" in said[0]


def test_duplicate_features_are_removed(tmp_path):
    config = tiny()
    config.data.num_classes = 0
    config.evaluate.networks = ("source", "thumbnail")
    opened = data.open_data(config)
    made = feature_networks.load_networks(
        config, epath.Path(tmp_path), lambda line: None, opened
    )
    assert [network.name for network in made] == ["thumbnail"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(networks=()), "evaluate.networks is empty; known are source"),
        (
            dict(networks=("inception",)),
            "inception_weights must be .*modes.convert inception",
        ),
        (
            dict(lpips_weights="a.npz"),
            "lpips_weights=a.npz has no effect.*'conditions'",
        ),
        (dict(dinov2_weights="d.npz"), "dinov2_weights=d.npz has no effect.*'source'"),
    ],
)
def test_invalid_networks_are_named(change, message):
    config = tiny()
    config.evaluate.update(change)
    with pytest.raises(ValueError, match=message):
        feature_networks.check_networks(config)


def test_lpips_is_for_conditions_that_have_an_original(tmp_path):
    config = tiny()
    config.conditions.inpainting = conditions.inpainting()
    config.evaluate.lpips_weights = str(tmp_path / "none.npz")
    feature_networks.check_networks(config)
    with pytest.raises(ValueError, match="evaluate.lpips_weights: .*none.npz"):
        feature_networks.check_weights(config)
    config.evaluate.metrics = ("fd",)
    with pytest.raises(ValueError, match="lpips_weights=.*none.npz has no effect"):
        feature_networks.check_networks(config)


def test_missing_weights_name_the_command_that_converts_them(tmp_path):
    config = tiny()
    config.evaluate.networks = ("inception",)
    config.evaluate.inception_weights = str(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="modes.convert inception"):
        feature_networks.load_networks(
            config, epath.Path(tmp_path), lambda line: None, None
        )
    np.savez(tmp_path / "none.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="none.npz"):
        feature_networks.load_networks(
            config, epath.Path(tmp_path), lambda line: None, None
        )
