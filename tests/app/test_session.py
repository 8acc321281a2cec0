from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trmml.app.journal import Journal, Reply
from trmml.app.ranking import urgency
from trmml.app.sampling import sample_length, sampling_order
from trmml.app.session import LEASE_SECONDS, Given, Question, Session
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.tasks.completion import teaching_value

STATES = np.array([[-1, -1], [-1, -1], [-1, 1], [0, -1], [-1, -1]], dtype=np.int8)
PROBABILITY = np.array([[0.9, 0.2], [0.5, 0.1], [0.3, 0.1], [0.8, 0.6], [0.45, 0.48]])
NAMES = tuple(f"{i}.jpg" for i in range(5))


def session_of(folder: Path, states: np.ndarray = STATES) -> Session:
    table = MultiLabelDataset(tuple(folder / name for name in NAMES), states, ("cat", "dog"))
    made = Session(table, NAMES, Journal(folder / "journal.jsonl"))
    made.probability = PROBABILITY
    return made


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = session_of(tmp_path)
    yield made
    made.journal.close()


def cells(session: Session, order: str, **settings: object) -> list[tuple[int, int]]:
    found = session.questions("tab", order, count=9, **settings)  # pyright: ignore
    return [(one.row, one.column) for one in found]


def test_each_order_by_hand(session: Session) -> None:
    assert cells(session, "likely") == [(0, 0), (3, 1), (1, 0), (4, 1), (2, 0)]
    assert cells(session, "unlikely") == [(1, 1), (0, 1), (2, 0), (4, 0), (3, 1)]
    # No cat is known and one dog: first positives come first, of the label that lacks more.
    assert cells(session, "teach") == [(0, 0), (1, 0), (4, 0), (2, 0), (3, 1)]
    # Said to be a dog at 0.1, said to be no cat at 0.8.
    assert cells(session, "mistakes") == [(2, 1), (3, 0)]
    assert sorted(row for row, _ in cells(session, "random")) == [0, 1, 2, 3, 4]


def test_one_label_alone(session: Session) -> None:
    assert cells(session, "likely", label="dog") == [(3, 1), (4, 1), (0, 1), (1, 1)]
    with pytest.raises(DataError, match="no label 'horse'"):
        session.questions("tab", "likely", "horse")


def test_what_nothing_is_thought_of_comes_last(session: Session) -> None:
    thought = PROBABILITY.copy()
    thought[:4] = np.nan
    session.probability = thought
    first, *rest = cells(session, "teach")
    assert first == (4, 0)  # a cat, of which none is known
    assert {row for row, _ in rest} == {0, 1, 2, 3}
    assert cells(session, "mistakes") == []


def test_an_answer_counts_until_it_is_taken_back(session: Session) -> None:
    session.answer([Given("a", 0, 0, "yes"), Given("b", 0, 0, "no"), Given("c", 2, 1, "no")])
    assert (session.states[0, 0], session.states[2, 1]) == (NEGATIVE, NEGATIVE)
    session.undo("b")
    assert session.states[0, 0] == POSITIVE
    session.undo("a")
    session.undo("c")
    assert (session.states[0, 0], session.states[2, 1]) == (UNKNOWN, POSITIVE)
    np.testing.assert_array_equal(session.states, STATES)
    assert session.undo("c") is None
    assert session.table.states[2, 1] == POSITIVE


def test_a_killed_process_loses_and_repeats_nothing(session: Session, tmp_path: Path) -> None:
    session.answer([Given("a", 0, 0, "yes"), Given("b", 1, 0, "unsure"), Given("c", 2, 1, "no")])
    session.undo("a")
    before = session.states.copy()
    session.journal.close()  # what the end of a process does
    again = session_of(tmp_path)
    np.testing.assert_array_equal(again.states, before)
    asked = {cell for order in ("teach", "likely", "mistakes") for cell in cells(again, order)}
    assert not {(1, 0), (2, 1)} & asked
    assert [answer.id for answer, _ in again.answers(9)] == ["c", "b"]
    again.journal.close()


def test_two_tabs_are_asked_different_questions(session: Session) -> None:
    mine = session.questions("a", "likely", count=3, now=0)
    yours = session.questions("b", "likely", count=9, now=1)
    assert len(mine) == 3
    assert not {m[:2] for m in mine} & {y[:2] for y in yours}
    # A tab that was closed gives its questions back after a while.
    later = session.questions("b", "likely", count=9, now=LEASE_SECONDS + 2)
    assert {m[:2] for m in mine} <= {one[:2] for one in later}


def test_what_is_passed_over_comes_when_nothing_else_is_left(session: Session) -> None:
    (first,) = session.questions("tab", "mistakes")
    session.pass_over("tab", first.row, first.column)
    (second,) = session.questions("tab", "mistakes")
    assert second[:2] != first[:2]
    session.answer([Given("a", second.row, second.column, "yes")])
    assert session.questions("tab", "mistakes")[0][:2] == first[:2]


def test_unreadable_photos_are_not_asked_about(session: Session) -> None:
    session.unreadable[[0, 3]] = True
    assert {row for row, _ in cells(session, "likely")} == {1, 2, 4}


def test_a_cell_that_does_not_exist_writes_nothing(session: Session) -> None:
    for row, column in ((5, 0), (0, 2), (-1, 0)):
        with pytest.raises(DataError, match="There is no photo"):
            session.answer([Given("a", 0, 0, "yes"), Given("b", row, column, "yes")])
    assert not session.journal.answers


def test_answers_about_photos_that_the_table_lost_stay_in_the_journal(
    session: Session, tmp_path: Path
) -> None:
    session.answer([Given("a", 0, 0, "yes"), Given("b", 1, 0, "no")])
    table = session.table.subset(np.array([1, 2]))
    less = Session(table, ("1.jpg", "2.jpg"), session.journal)
    assert less.states[:, 0].tolist() == [NEGATIVE, UNKNOWN]
    assert len(less.journal.answers) == 2


def test_progress(session: Session) -> None:
    session.answer([Given("a", 0, 0, "yes"), Given("b", 1, 0, "unsure")])
    found = session.progress()
    assert (found["answers"], found["unsure"], found["open"]) == (2, 1, 6)
    assert found["known_share"] == 3 / 10
    assert found["precision"] == pytest.approx((0.5 + 0.6) / 2)
    assert session.label_counts()[0] == {"positive": 1, "negative": 1, "unknown": 3}


def test_urgency_of_teaching_is_that_of_complete() -> None:
    chance = np.zeros_like(PROBABILITY)
    found = urgency("teach", PROBABILITY, STATES, chance)
    blank = STATES == UNKNOWN
    np.testing.assert_allclose(found[blank], teaching_value(PROBABILITY, STATES)[blank])
    assert np.isneginf(found[~blank]).all()


LABELS = ("cat", "dog", "horse")
VALIDATES = np.arange(60) % 4 == 0


def blank_session(folder: Path, states: np.ndarray | None = None) -> Session:
    """60 photos with three labels; every fourth validates."""
    names = tuple(f"{i}.jpg" for i in range(60))
    if states is None:
        states = np.full((60, 3), UNKNOWN, dtype=np.int8)
    table = MultiLabelDataset(tuple(folder / name for name in names), states, LABELS)
    made = Session(table, names, Journal(folder / "blank.jsonl"), validates=VALIDATES)
    made.probability = np.random.default_rng(0).random((60, 3))
    return made


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Session]:
    made = blank_session(tmp_path)
    yield made
    made.journal.close()


def answer_all(session: Session, questions: list[Question], reply: Reply = "no") -> None:
    session.answer([Given(f"{q.row}-{q.column}", q.row, q.column, reply) for q in questions])


@pytest.mark.parametrize("at_a_time", [1, 5])
def test_one_question_in_ten_is_drawn_from_the_photos_that_validate(
    blank: Session, at_a_time: int
) -> None:
    asked = []
    while len(asked) < 100:
        found = blank.questions("tab", count=at_a_time)
        answer_all(blank, found)
        asked += found
        measure = [one for one in asked if one.measures]
        assert len(measure) == len(asked) // 10 or at_a_time == 5
    assert len([one for one in asked if one.measures]) == 10
    assert all(one.measures == VALIDATES[one.row] for one in asked)
    assert blank.measures().sum() == 10
    assert not blank.measures()[~VALIDATES].any()


def test_other_orders_draw_nothing(blank: Session) -> None:
    for order, label in (("likely", None), ("random", None), ("teach", "dog")):
        found = blank.questions("tab", order, label, count=20)  # pyright: ignore
        assert not any(one.measures for one in found)
    # A label of one's choice is asked of all photos, those that teach first.
    rows = [one.row for one in blank.questions("tab", "teach", "dog", count=60)]
    assert not VALIDATES[rows[:45]].any()
    assert VALIDATES[rows[45:]].all()


def test_what_was_asked_for_another_reason_measures_only_in_its_turn(blank: Session) -> None:
    likely = blank.questions("tab", "likely", count=60)
    answer_all(blank, likely, "yes")
    assert sum(VALIDATES[one.row] for one in likely) == 15
    # What is before the first open cell in the random order may count: it is in the sample anyway.
    turn = [tuple(np.unravel_index(i, (60, 3))) for i in blank._to_sample]
    said = [cell for cell in turn if blank.states[cell] == POSITIVE]
    first_open = next(i for i, cell in enumerate(turn) if blank.states[cell] == UNKNOWN)
    assert blank.measures().sum() == first_open < len(said)
    drawn = next(one for one in blank.questions("tab", count=1) if one.measures)
    assert (drawn.row, drawn.column) == turn[first_open]


def test_what_measures_and_is_passed_over_comes_back_in_its_turn(blank: Session) -> None:
    answer_all(blank, blank.questions("a", "unlikely", count=9))
    (drawn,) = blank.questions("a")
    assert drawn.measures
    blank.pass_over("a", drawn.row, drawn.column)
    asked = []
    while len(asked) < 25:
        (one,) = blank.questions("a")
        answer_all(blank, [one])
        asked.append(one)
    # Passed over, it is not asked at once; the next is due after ten more, and then it is asked again.
    assert [i for i, one in enumerate(asked) if one.measures][:2] == [10, 11]
    assert asked[11][:2] == drawn[:2]


def test_an_unsure_answer_ends_a_turn_and_measures_nothing(blank: Session) -> None:
    answer_all(blank, blank.questions("a", "unlikely", count=9))
    (drawn,) = [one for one in blank.questions("a", count=1) if one.measures]
    answer_all(blank, [drawn], "unsure")
    assert not blank.measures()[drawn.row, drawn.column]
    assert sample_length(blank._to_sample, blank._done()) >= 1


def test_what_the_table_states_of_photos_that_validate_measures(tmp_path: Path) -> None:
    states = np.full((60, 3), UNKNOWN, dtype=np.int8)
    states[:8, 1] = POSITIVE
    session = blank_session(tmp_path, states)
    assert np.argwhere(session.measures()).tolist() == [[0, 1], [4, 1]]
    session.journal.close()


def test_the_random_order_is_that_of_the_names_alone() -> None:
    names, every = [f"{i}.jpg" for i in range(50)], np.ones((50, 3), dtype=bool)
    order = sampling_order(names, LABELS, every)
    assert sorted(order) == list(range(150))
    fewer = sampling_order(names[10:30], LABELS[::-1], every[:20])
    there = [(names[10 + i // 3], LABELS[2 - i % 3]) for i in fewer]
    whole = [(names[i // 3], LABELS[i % 3]) for i in order]
    assert there == [cell for cell in whole if cell[0] in names[10:30]]
    # No label and no photo comes first more than by chance.
    half = order[:75]
    assert (np.bincount(half % 3) > 15).all()
    assert abs(np.mean(half // 3) - 24.5) < 5
