"""Which cells measure a model: drawn at random, so that whatever chose the other questions has no say.

Every cell has a number that its names alone decide. The cells of photos that validate are asked in the
order of these numbers, so that those up to the first one that is still open are a random sample of
all of them, whatever else was asked and answered in the meantime.
"""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

SHARE = 0.1
"""Of the questions, asked to measure."""


def sampling_order(
    names: Sequence[str], labels: Sequence[str], cells: Bool[np.ndarray, "image label"]
) -> Int64[np.ndarray, " cell"]:
    """Return the flat positions of some cells in their random order, the same one every time.

    Args:
        names: Of the photos.
        labels: Of the columns.
        cells: Those to order.
    """
    numbers = _mixed(_numbers(names)[:, None] ^ _mixed(_numbers(labels))[None])
    chosen = np.flatnonzero(cells)
    return chosen[np.argsort(numbers.flat[chosen], kind="stable")]


def _numbers(names: Sequence[str]) -> UInt64[np.ndarray, " name"]:
    digests = (hashlib.sha256(os.fsencode(name)).digest()[:8] for name in names)
    return np.array([int.from_bytes(digest) for digest in digests], dtype=np.uint64)


def _mixed(numbers: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Spread each number over all bits (the last step of SplitMix64; Steele and others, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def sample_length(order: Int64[np.ndarray, " cell"], done: Bool[np.ndarray, "image label"]) -> int:
    """Return how many cells there are, in their random order, before the first that is still open."""
    is_open = ~done.flat[order]
    return int(is_open.argmax()) if is_open.any() else len(order)
