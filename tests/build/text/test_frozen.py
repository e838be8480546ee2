"""Features of captions by a frozen encoder: stored in records, and made of prompts."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from simple_diffusion.build.text import frozen, preparation
from simple_diffusion.data.conditioning.text_features import TextFeaturesEncoder
from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import text_features, text_preparation
from simple_diffusion.data.sources import catalogue
from simple_diffusion.modes import prepare
from tests.data import pictures

CAPTIONS = {
    "0": "a red boat",
    "1": "two green trees on the hill",
    "2": "a house",
    "3": "boats, birds",
    "4": "a red boat on the left of a very large house, with two green trees",
}
LENGTH = 12  # the last caption is longer


@pytest.fixture
def records(tmp_path):
    """Records of five captioned pictures, in several shards."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        pixels = pictures.pixels(int(name), 20, 24)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    return pictures.prepare(folder, tmp_path / "records", shard_megabytes=0.002)


def compute(records, folder, **options):
    options = {"length": LENGTH, "dtype": "float32", "batch_size": 2, **options}
    options = {"report": lambda line: None, **options}
    return preparation.prepare(records, str(folder), **options)


def read(records, split="train"):
    return catalogue.open_source(
        f"records:{records}", split=split, holdout_fraction=0.0
    )


def test_stored_features_are_those_of_prompts(records, t5_folder):
    encoding = compute(records, t5_folder)
    source = read(records)
    assert source.text_encoding == encoding
    captions = [source.read(k, 8).caption for k in range(len(source))]
    assert len(captions) == 4 and set(captions) < set(CAPTIONS.values())
    prompts = frozen.embed_prompts([*captions, ""], str(t5_folder), encoding)
    assert prompts[-1].shape == (0, 32)
    encoder = TextFeaturesEncoder(32, LENGTH)
    rng = np.random.default_rng(0)
    for k, expected in enumerate(prompts[:-1]):
        example = source.read(k, 8)
        stored = example.vectors["text_features"].reshape(-1, 32)
        assert stored.shape == expected.shape and stored.dtype == np.float16
        # Another number of captions per call may be computed in another order; half
        # precision has eleven bits, and the numbers are below 8.
        np.testing.assert_allclose(stored, expected, atol=2.0**-8)
        assert 1 < len(stored) <= LENGTH
        arrays = encoder.encode(example, rng)
        mask = arrays["text_features.mask"]
        np.testing.assert_array_equal(arrays["text_features.features"][mask], stored)
        np.testing.assert_array_equal(arrays["text_features.features"][~mask], 0)


def test_no_image_is_read_with_features_that_nobody_wants(records, t5_folder):
    compute(records, t5_folder)
    source = read(records).select_fields({"caption"})
    example = source.read(0, 8)
    assert example.caption in CAPTIONS.values() and not example.vectors


def test_computing_continues_after_an_interruption(records, t5_folder, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(records, whole)
    encoding = compute(whole, t5_folder)
    encoder = frozen.open_encoder(str(t5_folder), LENGTH, "float32")
    computed = []

    def embed(texts):
        for text, row in zip(texts, frozen.embed([*texts], encoder, 2), strict=True):
            computed.append(text)
            yield row
            if len(computed) == 3:
                raise KeyboardInterrupt

    def embed_listed(texts):
        return embed([*texts])

    with pytest.raises(KeyboardInterrupt):
        text_preparation.prepare(
            records, encoding, embed_listed, report=lambda line: None
        )
    assert read(records).text_encoding is None  # not finished
    done = [p.name for p in (records / "text_features").glob("0*.array_record")]
    assert done
    said = []
    compute(records, t5_folder, report=said.append)
    assert "of 5 captions have their features" in said[1]
    assert pictures.contents(records) == pictures.contents(whole)


def test_damaged_features_are_found_and_written_again(records, t5_folder):
    compute(records, t5_folder)
    before = pictures.contents(records)
    (file, *_) = sorted((records / "text_features").glob("*.array_record"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="00000.array_record has changed"):
        text_features.check(records, report=lambda line: None)
    compute(records, t5_folder, verify=True)
    assert pictures.contents(records) == before
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"00000.*bytes instead of .*--text_encoder"):
        read(records)
    compute(records, t5_folder)
    assert pictures.contents(records) == before


def test_features_of_another_encoder_are_not_mixed(records, t5_folder, tmp_path):
    compute(records, t5_folder)
    with pytest.raises(DataError, match=r"another encoder: t5 .*12 tokens.*13 tokens"):
        compute(records, t5_folder, length=13)
    with pytest.raises(DataError, match="float32.*bfloat16"):
        compute(records, t5_folder, dtype="bfloat16")
    manifest = records / "text_features" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"records": "other"}))
    with pytest.raises(DataError, match="features of other captions"):
        read(records)
    manifest.write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        read(records)


def test_the_digest_is_that_of_weights_and_tokenizer(t5_folder, clip_folder, tmp_path):
    digest = frozen.compute_digest(str(t5_folder))
    copied = tmp_path / "copied"
    shutil.copytree(t5_folder, copied)
    assert frozen.compute_digest(str(copied)) == digest
    assert frozen.compute_digest(str(clip_folder)) != digest
    weights = safetensors.numpy.load_file(copied / "model.safetensors")
    decoder = {"decoder.final_layer_norm.weight": np.ones(32, np.float32)}
    safetensors.numpy.save_file(weights | decoder, copied / "model.safetensors")
    assert frozen.compute_digest(str(copied)) == digest  # it has no effect
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    tuned = weights | {name: weights[name] + 1e-3}
    safetensors.numpy.save_file(tuned, copied / "model.safetensors")
    assert frozen.compute_digest(str(copied)) != digest
    safetensors.numpy.save_file(weights, copied / "model.safetensors")
    with (copied / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert frozen.compute_digest(str(copied)) != digest


def test_prompts_need_the_encoder_of_the_training(records, t5_folder, tmp_path):
    encoding = compute(records, t5_folder)
    key = "conditions.text_features.encoder"
    with pytest.raises(ValueError, match=f"{key} must be the folder of t5 .digest"):
        frozen.embed_prompts(["a"], None, encoding)
    with pytest.raises(ValueError, match=f"{key}=.*gone does not exist here; set it"):
        frozen.embed_prompts(["a"], str(tmp_path / "gone"), encoding)
    with pytest.raises(ValueError, match=f"{key}=.* has the digest"):
        other = text_features.TextEncoding("0" * 64, "xxl", 32, 12, "float32")
        frozen.embed_prompts(["a"], str(t5_folder), other)
    assert [len(v) for v in frozen.embed_prompts(["", " "], None, encoding)] == [0, 0]


def test_the_command_says_what_it_needs(records, t5_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare.main([f"--output={records}", "--text_length=9"])
    assert "without --text_encoder FOLDER" in capsys.readouterr().err
    missing = [f"--output={tmp_path / 'none'}", f"--text_encoder={t5_folder}"]
    with pytest.raises(SystemExit, match="features are computed of finished records"):
        prepare.main(missing)
    plain = pictures.prepare(pictures.make(tmp_path / "plain", 3), tmp_path / "no_text")
    with pytest.raises(SystemExit, match="--text_encoder needs captions"):
        prepare.main([f"--output={plain}", f"--text_encoder={t5_folder}"])
    with pytest.raises(SystemExit, match="no file .*config.json|has no model"):
        prepare.main([f"--output={records}", f"--text_encoder={tmp_path}"])
