"""The order of examples and their random draws, as functions of (seed, position).

A position counts examples from the start of training: step * batch_size + index in the
batch. There is no state from one example to the next, so training resumes at any step
at the cost of one step, and every process computes its own share.

Every epoch visits each example once, in the order of a keyed permutation: a Feistel
network permutes the numbers of 2k bits, whatever its round function is, and following
its orbit until it returns below `length` ("cycle walking") makes that a permutation of
range(length). There are at most four numbers of 2k bits to an example (more only where
the examples are few), so the walk is short.

Source: Black & Rogaway, Ciphers with arbitrary finite domains (2002), methods 2 and 3.
"""

import numpy as np
from jaxtyping import Int64, UInt64

_WORD = 2**64 - 1
# Chosen by measurement: with eight rounds on at least six bits, the orders of three to
# five examples are equally likely, as far as 20000 keys can show. A round on fewer bits
# mixes too little, whatever their number.
_ROUNDS = 8
_MIN_HALF_BITS = 3
_GOLDEN = 0x9E3779B97F4A7C15  # odd, 2^64 / golden ratio: spreads consecutive keys


def shuffle(
    position: Int64[np.ndarray, "n"], length: int, seed: int
) -> Int64[np.ndarray, "n"]:
    """Returns the index of the example at each position of an endless shuffled stream.

    Args:
      position: counts from 0; position // length is the epoch.
      length: number of examples, at least 1.
      seed: orders of different seeds, and of different epochs, are independent.
    """
    epoch, place = np.divmod(position.astype(np.uint64), np.uint64(length))
    key = _mix(epoch + np.uint64(_mix_int(seed)))
    half_bits = np.uint64(max(_MIN_HALF_BITS, ((length - 1).bit_length() + 1) // 2))
    index = _feistel(place, key, half_bits)
    while (outside := index >= length).any():
        index[outside] = _feistel(index[outside], key[outside], half_bits)
    return index.astype(np.int64)


def make_generator(seed: int, position: int, use: int = 0) -> np.random.Generator:
    """Returns the random generator of the example at one position of the stream.

    It is counter-based: each position owns a range of 2^192 numbers of one sequence,
    and each use of its random numbers, below 2^64, a range of 2^128 of them.
    """
    return np.random.Generator(
        np.random.Philox(key=_mix_int(seed), counter=[0, 0, use, position])
    )


def _feistel(
    value: UInt64[np.ndarray, "n"], key: UInt64[np.ndarray, "n"], half_bits: np.uint64
) -> UInt64[np.ndarray, "n"]:
    """Returns a permutation, chosen by `key`, of the numbers of 2 * half_bits bits."""
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & low
    for k in range(_ROUNDS):
        round_key = np.uint64((k + 1) * _GOLDEN & _WORD)
        left, right = right, left ^ (_mix(right ^ _mix(key + round_key)) & low)
    return (left << half_bits) | right


def _mix(v: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Returns v with all bits mixed (the output function of SplitMix64)."""
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return v ^ (v >> np.uint64(31))


def _mix_int(v: int) -> int:
    """Returns any integer, also a negative one, as 64 mixed bits."""
    return int(_mix(np.array([v & _WORD], np.uint64) + np.uint64(_GOLDEN))[0])
