"""The conditions that samples of an evaluation are asked for, and what they show."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.build import recipes
from simple_diffusion.build.conditioning import field_conditions, lexicon
from simple_diffusion.build.network import Network, build_network
from simple_diffusion.configs import conditions
from simple_diffusion.data import pipeline
from simple_diffusion.evaluation.conditions import scene_readers
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.pipelines.evaluation.comparison import Comparison
from simple_diffusion.pipelines.evaluation.conditions import sample_metrics
from simple_diffusion.pipelines.evaluation.evaluation import SampleSet
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet
from simple_diffusion.pipelines.requests.held_out import read_held_out
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training.topology import Shard

SIZE, COUNT = (16, 16), 24


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A config with captions of scenes, its data, and their tokenizer."""
    config = recipes.load("scenes_text")
    config.data.resolution = 16
    config.conditions.text = conditions.text(24)
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    with mock.patch.object(lexicon, "_CAPTIONS", 2000):
        dataset, found = field_conditions.open_data(config, Shard(0, 1), folder)
    return config, dataset, found.tokenizer


@pytest.fixture(scope="module")
def held_out(opened):
    config, dataset, _ = opened
    return read_held_out(config, dataset, 8, SIZE, COUNT)


def test_positions_are_of_the_images_whose_conditions_are_requested(opened, held_out):
    _, dataset, tokens = opened
    source = dataset.source("holdout")
    index = pipeline.order_of_pass(len(source), held_out.positions)
    captions = source.read_batch(index, (1, 1), fields=("caption",)).caption
    ids = tokens.encode(captions, 24).ids
    np.testing.assert_array_equal(held_out.request.fields["text"], ids)
    again = dataset.select(held_out.positions.tolist(), SIZE)
    np.testing.assert_array_equal(again.fields["text"], ids)


def test_conditions_are_repeated_if_there_are_too_few(opened):
    config, dataset, _ = opened

    def few(count, batch_size, size):
        return dataset.full_images(10, batch_size, size)

    short = dataclasses.replace(dataset, full_images=few)
    found = read_held_out(config, short, 8, SIZE, COUNT)
    np.testing.assert_array_equal(found.positions, np.arange(COUNT) % 10)
    np.testing.assert_array_equal(
        found.request.fields["text"][10:20], found.request.fields["text"][:10]
    )


def test_a_model_with_conditions_needs_a_data_source(opened):
    with pytest.raises(ValueError, match="which cannot be opened"):
        read_held_out(opened[0], None, 8, SIZE, COUNT)


class PerfectReaders:
    """Reads what the scenes of an evaluation are, whatever the images."""

    classes = 1
    values = {}

    def __init__(self, folder, size, channels, log, steps):
        assert (size, channels, steps) == (SIZE, 3, 800)

    def read_attributes(self, pictures):
        assert pictures.shape == (COUNT, *SIZE, 3)
        # Samples are black, and real images are not.
        return (
            self.values
            if pictures.any()
            else {k: v * 0 for k, v in self.values.items()}
        )


def measured(opened, held_out, spec, dataset):
    config = opened[0]
    comparison = mock.Mock(spec=Comparison, dataset=dataset)
    comparison.plan = build_evaluation.read_plan(config)
    net = mock.Mock(spec=Network, conditions=(spec,))
    trained = mock.Mock(spec=Trained, net=net)
    black = np.zeros((COUNT, *SIZE, 3), np.uint8)
    images = ImageSet({}, COUNT, SIZE, (), lambda start: (), lambda rows: black[rows])
    samples = SampleSet(images, None, held_out)
    folder = epath.Path("nowhere")
    found = list(sample_metrics.measure(config, trained, comparison, samples, folder))
    return found, comparison


def test_samples_are_read_beside_the_images_whose_captions_they_had(
    opened, held_out, monkeypatch
):
    dataset = opened[1]
    source = dataset.source("holdout")
    index = pipeline.order_of_pass(len(source), held_out.positions)
    values = scene_readers.attributes_of(source.describe(index))
    monkeypatch.setattr(PerfectReaders, "values", values)
    monkeypatch.setattr(sample_metrics, "SceneReaders", PerfectReaders)
    captions = source.read_batch(index, (1, 1), fields=("caption",)).caption
    named = scene_readers.named_attributes(source.describe(index), captions)
    found, _ = measured(opened, held_out, specs.Text(8), dataset)
    assert [m.name for m in found] == [
        f"accuracy_{name}" for name in scene_readers.ATTRIBUTES
    ]
    for metric in found:
        values_of = named[metric.name.removeprefix("accuracy_")]
        asked = values_of[values_of >= 0]
        assert metric.value == np.mean(asked == 0)
        assert metric.baselines["real images"] == 1
        assert metric.counts == (len(asked), len(asked))


def test_what_cannot_be_read_is_noted_and_no_condition_measures_nothing(
    opened, held_out
):
    dataset = opened[1]
    found, comparison = measured(opened, held_out, specs.Vector(3, "camera"), dataset)
    assert found == []
    comparison.note.assert_called_once()
    assert (
        "follow the condition camera is not measured" in comparison.note.call_args[0][0]
    )
    photographs = dataclasses.replace(dataset, source=lambda split: range(10_000))
    found, comparison = measured(opened, held_out, specs.Text(8), photographs)
    assert found == [] and "nothing reads it" in comparison.note.call_args[0][0]
    found, comparison = measured(opened, None, specs.Text(8), dataset)
    assert found == [] and not comparison.note.called


@pytest.mark.parametrize("name", ["low_resolution", "inpainting", "layout"])
def test_originals_show_what_their_own_conditions_ask_for(name, tmp_path):
    """Held-out images in place of samples: consistent, equal, and with these boxes."""
    config = recipes.load("quickstart")
    config.data.update(resolution=16, num_classes=0)
    sections = {
        "low_resolution": conditions.low_resolution(2),
        "inpainting": conditions.inpainting(),
        "layout": conditions.layout(18),
    }
    config.conditions[name] = sections[name]
    folder = epath.Path(tmp_path)
    dataset, _ = field_conditions.open_data(config, Shard(0, 1), folder)
    held_out = read_held_out(config, dataset, 8, SIZE, COUNT)
    real = np.asarray(dataset.select(held_out.positions.tolist(), SIZE).image)
    comparison = mock.Mock(spec=Comparison, dataset=dataset)
    comparison.plan = build_evaluation.read_plan(config)
    trained = mock.Mock(spec=Trained)
    trained.net = build_network(config, 0)
    images = ImageSet({}, COUNT, SIZE, (), lambda start: (), lambda rows: real[rows])
    samples = SampleSet(images, None, held_out)

    class Finder:
        """Finds the boxes that were asked for."""

        classes = 18

        def __init__(self, *_):
            pass

        def find_objects(self, pictures):
            fields = held_out.request.fields
            parts = ("boxes", "category", "present")
            return Layouts(*(np.asarray(fields[f"layout.{part}"]) for part in parts))

    with mock.patch.object(sample_metrics, "SceneReaders", Finder):
        measured = sample_metrics.measure(config, trained, comparison, samples, folder)
        found = {m.name: m for m in measured}
    assert not comparison.note.called
    if name == "low_resolution":
        assert found["consistency_error"].value < 0.6  # of rounding
        assert found["psnr"].value > 50
        assert found["psnr"].baselines["bicubic enlargement"] < 40
    elif name == "inpainting":
        assert found["known_exact"].value == 1 and found["hole_psnr"].value > 50
        assert found["hole_psnr"].baselines["nearest known pixel"] < 40
    else:
        assert found["layout_iou"].value == pytest.approx(1.0)
        assert found["layout_iou"].baselines["boxes of another image"] < 0.9
