"""Features of captions that are computed once."""

import jax
import numpy as np
import pytest

from simple_diffusion.build.text import encoders, features

TEXTS = ["a red boat", "", "two green trees on the hill", "a house", "boats, birds"]


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_stored_features_are_those_of_each_caption(t5_folder, clip_folder, kind):
    folder, length = (t5_folder, 20) if kind == "t5" else (clip_folder, 12)
    encoder = encoders.load_text_encoder(folder, max_length=length)
    batches = list(features.embed_captions(iter(TEXTS), encoder, batch_size=2))
    assert [len(batch.features) for batch in batches] == [2, 2, 1]
    found = np.concatenate([batch.features for batch in batches])
    mask = np.concatenate([batch.mask for batch in batches])
    assert found.dtype == np.float16 and found.shape == (5, length, 32)
    apply = jax.jit(encoder.apply)
    for k, text in enumerate(TEXTS):
        ids, row = encoder.tokenizer.encode([text], length)
        exact = np.asarray(apply(encoder.params, ids, row))[0]
        np.testing.assert_array_equal(mask[k], row[0])
        # Half precision has eleven bits, and the numbers are below 8.
        assert np.abs(exact).max() < 8
        np.testing.assert_allclose(found[k][row[0]], exact[row[0]], atol=2.0**-9)
        np.testing.assert_array_equal(found[k][~row[0]], 0)


def test_features_too_large_for_their_type_are_an_error(t5_folder):
    encoder = encoders.load_text_encoder(t5_folder, max_length=20)
    large = encoder._replace(apply=lambda *inputs: 1e5 * encoder.apply(*inputs))
    with pytest.raises(ValueError, match="'a house' are not finite in float16"):
        list(features.embed_captions(["a house"], large, batch_size=1))
    kept = features.embed_captions(["a house"], large, 1, dtype="bfloat16")
    assert np.isfinite(next(kept).features.astype(np.float32)).all()
    with pytest.raises(ValueError, match="dtype='int8' must be float16 or bfloat16"):
        list(features.embed_captions(["a"], encoder, dtype="int8"))
