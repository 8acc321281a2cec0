import json
from pathlib import Path

import numpy as np
import pytest
from shown_html import HOSTILE, Shown

from trmml import labels as states
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN
NAMES = ("dog", "日本語", "<b>")
ROWS = [[P, N, U], [P, U, P], [P, N, P], [P, U, U], [P, N, N]]


def make(rows: list[list[int]] = ROWS, names: tuple[str, ...] = NAMES) -> MultiLabelDataset:
    return MultiLabelDataset(
        photos=tuple(Path(f"photos/{i}.png") for i in range(len(rows))),
        states=np.array(rows, dtype=np.int8),
        labels=names,
        source="t.csv",
        interpretation="As written.",
    )


def test_labels_photos_and_names_must_fit_together() -> None:
    with pytest.raises(DataError, match=r"t\.csv: states have the shape \(5, 3\), .*2 labels"):
        make(names=("dog", "cat"))
    with pytest.raises(DataError, match=r"t\.csv: labels must all be different"):
        make(names=("dog", "cat", "dog"))


def test_hidden_labels_keep_what_was_known() -> None:
    dataset = make()
    hidden = dataset.hide_labels(0.4, seed=3)
    np.testing.assert_array_equal(hidden.states, states.hide_labels(dataset.states, 0.4, 3))
    assert hidden.hidden_states is dataset.states
    assert (
        hidden.interpretation == "As written. 40 % of the labels kept for an experiment (seed 3)."
    )
    assert hidden.summary().to_dict()["interpretation"] == hidden.interpretation
    assert dataset.states.tolist() == ROWS
    assert dataset.hidden_states is None


def test_a_single_positive_keeps_the_other_labels_aside() -> None:
    dataset = make()
    single = dataset.keep_single_positive(seed=3)
    np.testing.assert_array_equal(single.states, states.keep_single_positive(dataset.states, 3))
    assert single.hidden_states is dataset.states
    assert single.interpretation.endswith("One positive kept per photo for an experiment (seed 3).")


def test_hiding_twice_remembers_the_first_labels() -> None:
    dataset = make()
    twice = dataset.hide_labels(0.5).keep_single_positive()
    assert twice.hidden_states is dataset.states


def test_a_subset_follows_its_positions() -> None:
    chosen = make().hide_labels(0.4).subset(np.array([4, 1]))
    assert chosen.photos == (Path("photos/4.png"), Path("photos/1.png"))
    np.testing.assert_array_equal(chosen.states, make().hide_labels(0.4).states[[4, 1]])
    assert chosen.hidden_states is not None
    assert chosen.hidden_states.tolist() == [ROWS[4], ROWS[1]]
    assert len(chosen) == 2


def test_labels_are_chosen_and_ordered() -> None:
    chosen = make().hide_labels(0.4).with_labels(["<b>", "dog"])
    assert chosen.labels == ("<b>", "dog")
    np.testing.assert_array_equal(chosen.states, make().hide_labels(0.4).states[:, [2, 0]])
    assert chosen.hidden_states is not None
    assert chosen.hidden_states.tolist() == [[row[2], row[0]] for row in ROWS]


def test_a_label_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(DataError, match=r"no label 'dgo'\. Did you mean 'dog'\? Known: dog, 日"):
        make().with_labels(["<b>", "dgo"])


def test_a_summary_counts_each_state() -> None:
    summary = make().summary()
    assert summary.positives == (5, 0, 2)
    assert summary.negatives == (0, 3, 1)
    assert summary.unknown == (0, 2, 2)
    assert summary.known_share == pytest.approx(11 / 15)
    assert summary.examples == (
        "0.png: positive dog; negative 日本語; unknown <b>",
        "1.png: positive dog, <b>; negative none; unknown 日本語",
        "2.png: positive dog, <b>; negative 日本語; unknown none",
    )


def test_a_summary_names_what_cannot_be_learned() -> None:
    assert make().summary().problems == (
        "'dog' has no known negative: unknown labels stand in for them.",
        "'日本語' has no known positive: it cannot be learned.",
    )


def test_an_example_shows_four_names_and_the_count() -> None:
    dataset = make([[P] * 7], tuple("abcdefg"))
    expected = "0.png: positive a, b, c, d … (7); negative none; unknown none"
    assert dataset.summary().examples == (expected,)


def test_a_summary_reads_as_a_table() -> None:
    assert str(make().summary()).splitlines() == [
        "t.csv: 5 photos, 3 labels, 73.3 % of the cells known.",
        "As written.",
        "  0.png: positive dog; negative 日本語; unknown <b>",
        "  1.png: positive dog, <b>; negative none; unknown 日本語",
        "  2.png: positive dog, <b>; negative 日本語; unknown none",
        "",
        "label   positive  negative   unknown",
        "dog            5         0         0",
        "日本語         0         3         2",  # three characters in six places
        "<b>            2         1         2",
        "problem: 'dog' has no known negative: unknown labels stand in for them.",
        "problem: '日本語' has no known positive: it cannot be learned.",
    ]


def test_a_summary_survives_json() -> None:
    values = make().summary().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["images"] == 5
    assert values["known_share"] == 0.733333
    assert values["labels"]["<b>"] == {"positive": 2, "negative": 1, "unknown": 2}


def test_a_data_set_without_photos_can_still_be_summed_up() -> None:
    empty = make().subset(np.array([], dtype=np.int64)).summary()
    assert empty.known_share == 0
    assert empty.positives == (0, 0, 0)


def test_labels_that_are_not_stated_are_unknown_after_alignment() -> None:
    photos = (Path("a.png"), Path("b.png"))
    states = np.array([[POSITIVE, NEGATIVE], [UNKNOWN, POSITIVE]], dtype=np.int8)
    dataset = MultiLabelDataset(photos, states, ("dog", "cat"))
    aligned = dataset.aligned_to(("bus", "dog"))
    assert aligned.labels == ("bus", "dog")
    assert aligned.states.tolist() == [[UNKNOWN, POSITIVE], [UNKNOWN, UNKNOWN]]


def test_other_integers_are_no_labels() -> None:
    states = np.array([[2]], dtype=np.int8)
    with pytest.raises(DataError, match="states must be 1 \\(positive\\)"):
        MultiLabelDataset((Path("a.png"),), states, ("dog",))


def test_a_data_set_is_one_short_line() -> None:
    assert repr(make()) == (
        "MultiLabelDataset('t.csv', 5 photos, 3 labels (dog, 日本語, <b>), 73.3 % of the cells known)"
    )
    many = make([[U] * 200] * 900, tuple(f"label {i}" for i in range(200)))
    assert repr(many) == (
        "MultiLabelDataset('t.csv', 900 photos, 200 labels (label 0, label 1, label 2, …), 0.0 % of the "
        "cells known)"
    )
    assert "0 photos" in repr(make().subset(np.array([], dtype=np.int64)))


def test_a_notebook_shows_the_table_of_the_summary() -> None:
    dataset = make()
    html = dataset._repr_html_()
    assert html == dataset.summary()._repr_html_()
    shown = Shown(html)
    assert shown.texts[:3] == [
        "t.csv",
        "5 photos, 3 labels, 73.3 % of the cells known.",
        "As written.",
    ]
    text = " ".join(shown.texts)
    assert "label positive negative unknown dog 5 0 0 日本語 0 3 2 <b> 2 1 2 positive" in text
    bars = [found["aria-label"] for _, found in shown.elements if "aria-label" in found]
    assert bars[2] == "40.0 % positive, 20.0 % negative"
    assert "Problems (2)" in shown.texts
    assert "'日本語' has no known positive: it cannot be learned." in shown.texts


def test_many_labels_are_shown_on_request() -> None:
    shown = Shown(make([[P] * 1100], tuple(f"label {i}" for i in range(1100)))._repr_html_())
    assert "1075 more labels" in shown.texts
    assert "… and 100 more, in" in shown.texts
    first = [tag for tag, _ in shown.elements].index("details")
    assert sum(tag == "tr" for tag, _ in shown.elements[:first]) == 1 + 25


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_labels_photos_and_tables_are_text(name: str) -> None:
    dataset = MultiLabelDataset(
        (Path(f"{name}.png"),), np.array([[P, U]], np.int8), (name, "dog"), name, name
    )
    shown = Shown(dataset._repr_html_())
    assert shown.texts.count(name) == 3
    assert any(f".png: positive {name}; negative none" in text for text in shown.texts)
    assert shown.count("tr") == 3


def test_a_data_set_without_photos_shows_itself_as_well() -> None:
    empty = MultiLabelDataset((), np.zeros((0, 2), np.int8), ("dog", "cat"))
    assert "0 photos, 2 labels, 0.0 % of the cells known." in Shown(empty._repr_html_()).texts
