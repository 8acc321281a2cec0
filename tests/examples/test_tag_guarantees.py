import numpy as np
import pytest
from conftest import load_example

from trmml.labels import NEGATIVE, POSITIVE


def test_a_precision_is_kept_plainly_or_within_chance() -> None:
    kept = load_example("benchmarks/guarantees.py").kept
    hits, found = np.array([9, 8, 5, 0]), np.array([10, 10, 10, 0])
    assert kept(hits, found, 0.9) == ([True, False, False], [True, True, False])


def test_halves_are_measured_by_both_ways() -> None:
    measured = load_example("benchmarks/guarantees.py").measured
    scores = np.random.default_rng(0).random((400, 2)).astype(np.float32)
    states = np.where(scores > 0.4, POSITIVE, NEGATIVE).astype(np.int8)
    found = measured(scores, states, ("a", "b"), seed=0, share=1.0, precision=0.9)
    assert found["guarantee"]["promises_plainly"] == 1
    assert found["guarantee"]["labels_with_tags"] == 2
    assert 0.8 < found["guarantee"]["recall"] <= 1
    assert found["guarantee"]["group_plainly"] is None
    assert found["calibrate"]["right"] == pytest.approx(0.9, abs=0.05)
