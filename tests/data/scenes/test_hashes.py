import numpy as np

from simple_diffusion.data.scenes import hashes


def test_random_numbers_are_uniform_and_independent():
    keys = np.arange(4096, dtype=np.uint64)
    u = hashes.hash_to_uniforms(hashes.mix64(keys))
    assert u.min() >= 0 and u.max() < 1
    # Within five standard errors: 1/sqrt(12 n), and 1/sqrt(n) for correlations.
    assert np.abs(u.mean(1) - 0.5).max() < 5 / np.sqrt(12 * 4096)
    off = np.corrcoef(u) - np.eye(len(u))
    assert np.abs(off).max() < 5 / np.sqrt(4096)
    assert np.abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.01


def test_a_hash_of_words_depends_on_each_word_and_on_their_order():
    numbers = np.arange(100)
    found = [
        hashes.hash_words(*words)
        for words in ((1, 2, numbers), (2, 1, numbers), (1, 2, 0, numbers))
    ]
    assert len(np.unique(np.concatenate(found))) == 300
