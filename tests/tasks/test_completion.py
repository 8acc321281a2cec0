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
from trmml.tasks.completion import _clear_negatives, _clear_positives, _fit, _offsets, complete
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


def test_a_flipped_label_is_among_the_first_mistakes(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(200)
    clean = complete(learned, data)
    sure = clean.estimates.probability.max(axis=1)
    row = int(sure.argmax())
    column = int(clean.estimates.probability[row].argmax())
    data.states[row, column] = NEGATIVE if data.states[row, column] == POSITIVE else POSITIVE
    found = complete(learned, data)
    first = [(cell.row, cell.column) for cell in found.mistakes[: max(3, len(found.mistakes) // 4)]]
    stated = data.states[row, column]
    probable = found.estimates.probability[row, column] > 0.5
    assert ((row, column) in first) == (probable == (stated == NEGATIVE))
    ranks = [cell.rank for cell in found.mistakes]
    assert ranks == sorted(ranks, reverse=True)


def test_questions_are_open_blanks_one_per_photo(
    learned: TextRegionMatcher, make_dataset: Maker
) -> None:
    before = make_dataset(60).hide_labels(0.5)
    found = complete(learned, before, precision=0.95)
    rows = [cell.row for cell in found.questions]
    assert len(rows) == len(set(rows))
    for cell in found.questions:
        assert found.dataset.states[cell.row, cell.column] == UNKNOWN


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
    assert f"{found.decided.sum()} blanks filled" in capsys.readouterr().out
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
