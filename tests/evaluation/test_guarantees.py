import numpy as np
import pytest
from scipy.stats import beta, binom

from trmml.errors import ConfigError
from trmml.evaluation.guarantees import binomial_tail, guarantee, guaranteed_threshold
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.thresholds import NEVER


@pytest.mark.parametrize(
    ("hits", "found", "share"),
    [(0, 10, 0.9), (29, 29, 0.9), (28, 29, 0.9), (1, 1, 0.5), (950, 1000, 0.97), (4, 50_000, 1e-4)],
)
def test_the_binomial_tail_is_scipys(hits: int, found: int, share: float) -> None:
    assert binomial_tail(hits, found, share) == pytest.approx(binom.sf(hits - 1, found, share))


def test_a_threshold_holds_where_clopper_and_pearsons_bound_reaches_it() -> None:
    for found in (40, 200, 1000):
        for hits in range(int(0.85 * found), found + 1):
            bound = beta.ppf(0.05, hits, found - hits + 1) if hits else 0.0
            positive = np.arange(found) < hits
            held = guaranteed_threshold(np.full(found, 0.5), positive, 0.9) < NEVER
            assert held == (bound >= 0.9), (hits, found)


def test_twenty_nine_hits_are_the_least_for_ninety_per_cent() -> None:
    scores = np.linspace(0.9, 0.6, 29)
    assert guaranteed_threshold(scores, np.ones(29, dtype=bool), 0.9) == pytest.approx(0.6)
    assert guaranteed_threshold(scores[:28], np.ones(28, dtype=bool), 0.9) == NEVER
    assert guaranteed_threshold(scores[:0], np.ones(0, dtype=bool), 0.9) == NEVER


def test_equal_scores_stand_or_fall_together() -> None:
    scores = np.concatenate([np.full(35, 0.8), np.full(35, 0.7)])
    positive = np.ones(70, dtype=bool)
    positive[30:50] = False
    assert guaranteed_threshold(scores, positive, 0.9) == NEVER
    positive[30:35] = True
    assert guaranteed_threshold(scores, positive, 0.9) == 0.8


def drawn(
    generator: np.random.Generator, num_photos: int, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores, and states that are positive with a probability of score ** slope."""
    scores = generator.random((num_photos, len(slopes))).astype(np.float32)
    states = generator.random(scores.shape) < scores**slopes
    return scores, np.where(states, POSITIVE, NEGATIVE).astype(np.int8)


def precision_from(threshold: float, slope: float) -> float:
    """Return the mean of score ** slope over scores from a threshold to 1."""
    return (1 - threshold ** (slope + 1)) / (slope + 1) / (1 - threshold)


def test_a_promise_is_broken_in_no_more_than_one_case_of_twenty() -> None:
    generator = np.random.default_rng(0)
    given = broken = 0
    for _ in range(400):
        slope = generator.uniform(0.3, 1.5)
        scores, states = drawn(generator, 300, np.array([slope]))
        limit = guaranteed_threshold(scores[:, 0].astype(float), states[:, 0] == POSITIVE, 0.85)
        if limit < NEVER:
            given += 1
            broken += precision_from(limit, slope) < 0.85
    assert given > 200
    assert broken / 400 <= 0.05
    assert broken > 0  # else it would promise less than it could


def test_labels_by_themselves_together_and_never() -> None:
    generator = np.random.default_rng(1)
    scores, states = drawn(generator, 2000, np.array([0.2, 0.2, 0.2, 0.2, 0.2]))
    states[31:, 1:3] = UNKNOWN  # too few to show anything of each
    states[states[:, 3] == NEGATIVE, 3] = UNKNOWN
    states[:, 4] = UNKNOWN
    made = guarantee(scores, states, ("many", "few", "as few", "no negative", "blank"), 0.85)
    first, second, third, fourth, fifth = made.thresholds
    assert first < second == third == made.global_threshold < 1
    assert fourth == fifth == NEVER
    kinds = [values["promise"] for values in made.evidence.values()]
    assert kinds == ["alone", "together", "together", "never", "never"]
    assert made.method == (
        "precision of 0.85 or more with 95 % confidence, on known labels: 1 label each by "
        "itself, 2 together"
    )
    # What nobody knows changes nothing.
    assert guarantee(scores[:, :1], states[:, :1], ("many",), 0.85).thresholds == (first,)


def test_nothing_is_promised_where_nothing_holds() -> None:
    scores, states = drawn(np.random.default_rng(2), 500, np.array([9.0, 9.0]))
    assert guarantee(scores, states, ("a", "b"), 0.95).thresholds == (NEVER, NEVER)


def test_an_equal_confidence_is_a_lower_threshold_the_less_it_is() -> None:
    scores, states = drawn(np.random.default_rng(3), 500, np.array([0.4]))
    limits = [guarantee(scores, states, ("a",), 0.85, level).thresholds[0] for level in (0.5, 0.99)]
    assert limits[0] < limits[1]


@pytest.mark.parametrize("name", ["precision", "confidence"])
def test_ranges(name: str) -> None:
    scores, states = drawn(np.random.default_rng(4), 5, np.array([1.0]))
    with pytest.raises(ConfigError, match=f"{name} must be above 0 and below 1, got 1"):
        guarantee(scores, states, ("a",), **{name: 1.0})
