import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import colour_squares, run_command
from sklearn.linear_model import LogisticRegression

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.data.writing import write_dataset
from trmml.errors import ConfigError, DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.tasks.completion import (
    FIRST_ASKED,
    _clear_negatives,
    _clear_positives,
    _questions,
    complete,
    teaching_value,
)
from trmml.tasks.estimates import _fit, _offsets, joined, probability_of
from trmml.tasks.mistakes import likely_mistakes
from trmml.tasks.rates import other_rates
from trmml.tasks.review import estimates_csv, review_page

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture(scope="module")
def learned(
    clip_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> TextRegionMatcher:
    """A model that tells colours apart, from other photos than those of `make_dataset`."""
    data = colour_squares(tmp_path_factory.mktemp("learn"), 96, seed=9)
    config = {
        "training.epochs": 30, "training.batch_size": 16, "training.learning_rate": 3e-3,
        "matching.num_heads": 2, "matching.num_context_tokens": 2,
    }  # fmt: skip
    return trmml.finetune(data, backbone=f"local-dir:{clip_folders['vit']}", config=config)


def test_known_cells_stay_and_only_blanks_are_decided(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(60).hide_labels(0.5)
    found = complete(learned, before, precision=0.8)
    known = before.states != UNKNOWN
    np.testing.assert_array_equal(found.dataset.states[known], before.states[known])
    assert not (found.decided & known).any()
    np.testing.assert_array_equal(
        found.decided, (before.states == UNKNOWN) & (found.dataset.states != UNKNOWN)
    )
    again = complete(learned, before, precision=0.8)
    np.testing.assert_array_equal(again.dataset.states, found.dataset.states)


def test_what_is_filled_is_right_more_often_than_chance(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(200).hide_labels(0.5)
    found = complete(learned, before, precision=0.8)
    truth = before.hidden_states
    right = (found.dataset.states == truth)[found.decided].mean()
    share = (truth == POSITIVE).mean()
    assert found.decided.sum() > 10
    assert right > max(share, 1 - share) + 0.1


def test_flipped_labels_are_found_and_their_share_is_as_expected(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    clean, data = make_dataset(300, seed=1), make_dataset(300)
    flipped = np.random.default_rng(0).random(data.states.shape) < 0.1
    data.states[flipped] = 1 - data.states[flipped]
    found = complete(learned, data, calibrate_on=clean)
    hits = [flipped[cell.row, cell.column] for cell in found.mistakes]
    assert len(hits) > 30
    assert np.mean(hits) == pytest.approx(found.doubts.share, abs=0.15)
    assert np.mean(hits) > 3 * flipped.mean()
    ranks = [cell.rank for cell in found.mistakes]
    assert ranks == sorted(ranks, reverse=True)


def test_no_mistakes_are_listed_where_there_are_no_more_than_by_chance(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    found = complete(learned, make_dataset(300), calibrate_on=make_dataset(300, seed=1))
    assert found.doubts.contradicted == pytest.approx(found.doubts.contradicted_by_chance, rel=0.5)
    assert len(found.mistakes) <= 3


def test_what_chance_did_where_was_calibrated_is_no_mistake() -> None:
    """Rates of few cells are off; on as many others that must not look like mistakes."""
    generator, listed = np.random.default_rng(0), {"as if exact": 0, "as it is": 0}
    for _ in range(300):
        there, here = (generator.random((100, 3)) < 0.1 for _ in range(2))
        probability = np.broadcast_to(there.mean(axis=0), here.shape)
        states = here.astype(np.int8)
        listed["as if exact"] += bool(likely_mistakes(probability, states).cells)
        listed["as it is"] += bool(likely_mistakes(probability, states, there.size).cells)
    assert listed["as if exact"] > listed["as it is"] <= 3


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_model_that_cannot_tell_lists_no_mistakes(noise: float) -> None:
    """All positives of a rare label are contradicted by a model that knows its rate alone."""
    generator = np.random.default_rng(0)
    states = (generator.random((8000, 3)) < 0.05).astype(np.int8)
    scores = noise * generator.normal(size=(8000, 3, 2))
    weights = _fit(scores[:4000].reshape(-1, 2), states[:4000].ravel() == POSITIVE)
    states, guessed = states[4000:], probability_of(joined(scores[4000:], weights))
    found = likely_mistakes(guessed, states)
    assert found.cells == []
    assert found.contradicted == states.sum()
    assert found.contradicted_by_chance == pytest.approx(states.sum(), rel=0.1)
    assert "they cannot tell mistakes from chance here, and none is listed." in str(found)
    assert np.isnan(found.share)


@pytest.mark.parametrize("spread", [2.0, 6.0])
def test_the_expected_share_of_mistakes_is_that_which_there_is(spread: float) -> None:
    generator = np.random.default_rng(0)
    probability = 1 / (1 + np.exp(-spread * generator.normal(size=(20_000, 3))))
    truth = generator.random(probability.shape) < probability
    clean = likely_mistakes(probability.astype(np.float32), truth.astype(np.int8))
    assert clean.contradicted == pytest.approx(clean.contradicted_by_chance, rel=0.05)
    assert len(clean.cells) < 100
    wrong = generator.random(truth.shape) < 0.03
    found = likely_mistakes(probability.astype(np.float32), (truth ^ wrong).astype(np.int8))
    hits = [wrong[cell.row, cell.column] for cell in found.cells]
    assert len(hits) > 500
    assert np.mean(hits) == pytest.approx(found.share, abs=0.1)
    assert f"about {100 * found.share:.0f} % are expected" in str(found)


def test_one_plain_mistake_is_enough_to_be_listed() -> None:
    probability = np.full((50, 2), 0.9999, dtype=np.float32)
    states = np.ones((50, 2), dtype=np.int8)
    assert likely_mistakes(probability, states).cells == []
    states[7, 1] = NEGATIVE
    (cell,) = likely_mistakes(probability, states).cells
    assert (cell.row, cell.column) == (7, 1)
    assert likely_mistakes(probability, np.full_like(states, UNKNOWN)).cells == []


def of_rates(rates: list[float], known: int, seed: int = 0) -> MultiLabelDataset:
    """Return a table without files whose known cells are positive at so many rates."""
    labels = tuple(f"label {i}" for i in range(len(rates)))
    states = np.zeros((known, len(rates)), dtype=np.int8)
    for i, rate in enumerate(rates):
        states[: round(rate * known), i] = POSITIVE
    return MultiLabelDataset(
        tuple(Path(f"{i}.png") for i in range(known)), states, labels, source=f"table {seed}"
    )


def test_other_rates_in_the_table_to_calibrate_on_are_said_with_the_numbers() -> None:
    found = other_rates(of_rates([0.48] * 4, 200), of_rates([0.74] * 4, 100, seed=1))
    assert found.labels.all()
    assert found.note == (
        "48.0 % of the known cells of table 0 are positive, and 74.0 % of those of table 1, for the "
        "same mix of labels"
    )
    # Two labels that trade their rates are the same on the whole.
    one, two = of_rates([0.48, 0.74, 0.5], 400), of_rates([0.74, 0.48, 0.5], 400, seed=1)
    found = other_rates(one, two)
    assert found.labels.tolist() == [True, True, False]
    assert "label 0 (48.0 % here, 74.0 % there)" in found.note


@pytest.mark.parametrize(
    ("here", "there", "known"),
    [
        ([0.5] * 3, [0.6] * 3, 30),  # may be chance
        ([0.5] * 3, [0.53] * 3, 20_000),  # is none, and does little harm
        ([1.0, 0.3], [0.05, 0.3], 500),  # a label that is listed only where it is
        ([0.3, 0.3], [0.3, 0.3], 500),
    ],
)
def test_rates_that_may_be_the_same_are_no_matter(
    here: list[float], there: list[float], known: int
) -> None:
    found = other_rates(of_rates(here, known), of_rates(there, known, seed=1))
    assert found.note == ""
    assert not found.labels.any()


def test_the_mix_of_labels_alone_changes_no_rate() -> None:
    """Of a table of mostly rare labels fewer cells are positive, at the same rates."""
    here, there = of_rates([0.8, 0.1], 1000), of_rates([0.8, 0.1], 1000, seed=1)
    here.states[np.random.default_rng(0).random(1000) < 0.9, 0] = UNKNOWN
    there.states[np.random.default_rng(1).random(1000) < 0.9, 1] = UNKNOWN
    assert other_rates(here, there).note == ""


def test_nothing_is_filled_where_the_rates_differ_unless_one_says_so(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(200).hide_labels(0.5)
    other = make_dataset(300, seed=1)
    # Of each label, photos without it for the most part.
    few = other.subset(np.flatnonzero((other.states == POSITIVE).sum(axis=1) < 2))
    few = replace(few, states=np.where(np.arange(len(few))[:, None] % 3, NEGATIVE, few.states))
    found = complete(learned, before, precision=0.6, calibrate_on=few)
    assert not found.decided.any()
    assert found.mistakes == []
    assert "Nothing is filled or doubted" in found.warnings[0]
    done = complete(learned, before, precision=0.6, calibrate_on=few, any_rates=True)
    assert done.decided.any()
    assert "Filled all the same" in done.warnings[0]
    page = review_page(found, before, learned, "shop")
    assert "Nothing is filled or doubted" in page


def test_questions_are_open_blanks_one_per_photo(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(60).hide_labels(0.5)
    found = complete(learned, before, precision=0.95)
    rows = [cell.row for cell in found.questions]
    assert len(rows) == len(set(rows))
    for cell in found.questions:
        assert found.dataset.states[cell.row, cell.column] == UNKNOWN


def test_labels_that_lack_positives_are_asked_in_turns() -> None:
    probability = np.full((60, 2), 0.01)
    probability[:30, 0] = np.linspace(0.9, 0.6, 30)
    probability[30:, 1] = np.linspace(0.5, 0.1, 30)
    blank = np.full(probability.shape, UNKNOWN, dtype=np.int8)
    asked = _questions(probability, blank, blank)
    assert len(asked) == 60
    first = asked[: 2 * FIRST_ASKED]
    assert [cell.column for cell in first] == [0, 1] * FIRST_ASKED
    for label in (0, 1):  # of each the most probable one first
        found = [cell.probability for cell in first if cell.column == label]
        assert found == sorted(found, reverse=True)
        assert found[0] == probability[:, label].max()


def test_the_fit_is_that_of_a_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(500, 2))
    positive = generator.random(500) < 1 / (1 + np.exp(-inputs @ [1.5, -0.5] + 0.3))
    weights = _fit(inputs, positive)
    expected = LogisticRegression(C=1000, tol=1e-8).fit(inputs, positive)
    assert weights[:2] == pytest.approx(expected.coef_[0], abs=2e-3)
    assert weights[2] == pytest.approx(expected.intercept_[0], abs=2e-3)


def test_decisions_are_as_right_as_expected_where_probabilities_are() -> None:
    """Also where a label is rare: although 95 % would be right if all were called negative."""
    generator = np.random.default_rng(0)
    probability = generator.beta([0.05, 2], [0.95, 2], (20_000, 2))
    truth = generator.random(probability.shape) < probability
    blank = generator.random(probability.shape) < 0.8
    positive = _clear_positives(probability, blank, 0.9)
    negative = _clear_negatives(probability, blank, 0.9)
    assert not ((positive | negative) & ~blank).any()
    assert positive.sum(axis=0).min() > 20
    for c in range(2):
        assert truth[positive[:, c], c].mean() == pytest.approx(0.9, abs=0.03)
        assert probability[positive[:, c], c].min() > probability[negative[:, c], c].max()
        assert (~truth[negative[:, c], c]).mean() >= 0.9 - 0.02
        lost = (truth & negative)[:, c].sum() / (truth & blank)[:, c].sum()
        assert lost <= 0.1 + 0.02


def test_equal_probabilities_are_decided_together_or_not_at_all() -> None:
    """Of those at 0.85 all would make the mean 0.864, though the first few would keep it at 0.9."""
    tied = np.array([[0.99]] * 2 + [[0.85]] * 18)
    blank = np.ones((20, 1), dtype=bool)
    assert _clear_positives(tied, blank, 0.9)[:, 0].tolist() == [True] * 2 + [False] * 18
    tied = np.array([[0.01]] * 2 + [[0.15]] * 18 + [[0.99]] * 20)
    blank = np.ones((40, 1), dtype=bool)
    assert _clear_negatives(tied, blank, 0.9)[:, 0].tolist() == [True] * 2 + [False] * 38


def test_nothing_is_decided_where_nothing_is_clear() -> None:
    unclear, blank = np.full((10, 1), 0.5), np.ones((10, 1), dtype=bool)
    assert not _clear_positives(unclear, blank, 0.9).any()
    assert not _clear_negatives(unclear, blank, 0.9).any()


def test_a_category_that_is_scored_too_low_is_corrected_as_far_as_its_labels_show() -> None:
    generator = np.random.default_rng(0)
    odds = generator.normal(size=(4000, 2))
    states = generator.random(odds.shape) < 1 / (1 + np.exp(-(odds + np.array([2, 0]))))
    states = states.astype(np.int8)
    many, narrow = _offsets(odds, states)
    assert many == pytest.approx([2, 0], abs=0.15)
    states[5:] = UNKNOWN
    few, wide = _offsets(odds, states)
    assert 0 < few[0] < many[0]
    assert (wide > 5 * narrow).all()
    states[:] = UNKNOWN
    none, prior = _offsets(odds, states)
    assert none == pytest.approx([0, 0])
    assert prior == pytest.approx([1, 1])


def test_a_category_that_is_scored_all_wrong_is_corrected_too() -> None:
    odds, states = np.full((300, 1), 12.0), np.full((300, 1), NEGATIVE, dtype=np.int8)
    (offset,), _ = _offsets(odds, states)
    # Where the slope of the posterior is zero: as many false positives as the prior pulls back.
    assert 300 / (1 + np.exp(-(12 + offset))) == pytest.approx(-offset, rel=1e-6)


def test_the_estimates_have_a_row_for_every_blank(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(40).hide_labels(0.6)
    found = complete(learned, before, precision=0.8)
    text = estimates_csv(found, before, before.photos[0].parent)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["image"] for row in rows} <= {photo.name for photo in before.photos}
    assert len(rows) == (before.states == UNKNOWN).sum()
    assert sum(row["decision"] != "" for row in rows) == found.decided.sum()


def test_the_page_to_review_counts_what_was_filled_and_needs_no_network(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(40).hide_labels(0.6)
    found = complete(learned, before, precision=0.8)
    page = review_page(found, before, learned, "<b>shop</b>")
    assert "&lt;b&gt;shop&lt;/b&gt;" in page
    assert f"{found.decided.sum()} of {(before.states == UNKNOWN).sum()} blanks filled" in page
    assert "http" not in page


def test_the_command_fills_a_table_as_the_function_does(
    learned: TextRegionMatcher, make_dataset: Maker, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = make_dataset(40).hide_labels(0.6)
    found = complete(learned, before, precision=0.8)
    folder = trmml.save_model(learned, tmp_path / "model")
    table = before.photos[0].parent / "labels.csv"
    write_dataset(before, table)
    files = {"-o": "done.csv", "--estimates": "e.csv", "--html": "r.html"}
    options = [part for key, name in files.items() for part in (key, tmp_path / name)]
    options += ["--model", folder, "--precision", "0.8", "--images", table.parent, "-q"]
    assert run_command("complete", table, *options) == 0
    shown = capsys.readouterr().out
    assert f"{found.decided.sum()} blanks filled" in shown
    assert str(found.doubts) in shown
    again = trmml.read_dataset(tmp_path / "done.csv", images=table.parent)
    np.testing.assert_array_equal(again.states, found.dataset.states)
    assert (tmp_path / "r.html").read_text().count("<li ") > 0


def test_what_cannot_be_completed_is_refused(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    with pytest.raises(ConfigError, match=r"at least 0\.5 and below 1"):
        complete(learned, make_dataset(4), precision=1.0)
    with pytest.raises(DataError, match="at least 10 of each are needed to calibrate"):
        complete(learned, make_dataset(4))


def test_a_label_that_the_model_does_not_know_is_named(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(12).hide_labels(0.8)
    renamed = replace(data, labels=("red", "gren", "blue"))
    with pytest.raises(DataError, match="'gren', which the model does not know"):
        complete(learned, renamed)


def test_first_positives_teach_most_and_then_scarce_states() -> None:
    probability = np.array([[0.9, 0.5, 0.5], [0.2, 0.5, 0.9], [0.4, 0.5, np.nan]])
    states = np.full((11, 3), UNKNOWN, dtype=np.int8)
    states[3:, 1] = POSITIVE, *[NEGATIVE] * 7
    states[3:, 2] = POSITIVE
    thought = np.vstack([probability, np.full((8, 3), 0.1)])
    found = teaching_value(thought, states)[:3]
    # None is known of the first label and one of the second: 5 and 4 are missing.
    np.testing.assert_allclose(found[:, 0], [6.9, 6.2, 6.4])
    np.testing.assert_allclose(found[:, 1], 5.5)
    # Of the third 8 positives are known and no negative: 2·p·(1 − p)·(1 / 9 + 1).
    np.testing.assert_allclose(found[:, 2], [0.5 * 10 / 9, 0.18 * 10 / 9, np.nan])


def test_a_label_without_positives_asks_for_a_few_alone() -> None:
    probability = np.linspace(0.0, 0.99, 100)[:, None]
    found = teaching_value(probability, np.full((100, 1), UNKNOWN, dtype=np.int8))[:, 0]
    assert (found > 1).sum() == 20
    assert (found[-20:] > 5).all()
    assert found.argmax() == 99


def test_the_command_keeps_labels_that_the_model_does_not_know(
    learned: TextRegionMatcher,
    make_dataset: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their cells, known and blank, come out as they were; the others as without them."""
    data = make_dataset(40).hide_labels(0.6)
    wider = replace(
        data,
        states=np.hstack([data.states[:, 1:2], data.states]),
        labels=("crane", *data.labels),
        hidden_states=None,
    )
    found = complete(learned, data, precision=0.8)
    folder = trmml.save_model(learned, tmp_path / "model")
    table = data.photos[0].parent / "wider.csv"
    write_dataset(wider, table)
    options = ["--model", folder, "--precision", "0.8", "--images", table.parent, "-q"]
    done = tmp_path / "done.csv"
    assert run_command("complete", table, *options, "-o", done) == 0
    assert "The model does not know 'crane': their blanks stay blank." in capsys.readouterr().err
    again = trmml.read_dataset(done, images=table.parent)
    assert again.labels == wider.labels
    np.testing.assert_array_equal(again.states[:, 0], wider.states[:, 0])
    np.testing.assert_array_equal(again.states[:, 1:], found.dataset.states)
    chosen = (*options, "--labels", "red,blue", "-o", tmp_path / "chosen.csv")
    assert run_command("complete", table, *chosen) == 0
    assert "has the labels of --labels alone" in capsys.readouterr().err
    assert (tmp_path / "chosen.csv").read_text().startswith("image,red,blue\n")
    unknown = (*options, "--labels", "crane,red", "-o", tmp_path / "none.csv")
    assert run_command("complete", table, *unknown) == 4
    assert "'crane', which the model does not know" in capsys.readouterr().err
