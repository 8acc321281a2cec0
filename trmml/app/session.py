"""A session of questions and answers on one table: what is known, what is asked, what was said.

No network and no pixels here. A cell is a photo and a label, by their positions.
"""

import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8

from trmml.app.journal import Answer, Journal, Reply
from trmml.app.ranking import DEFAULT_ORDER, Order, most_urgent, urgency
from trmml.app.sampling import SHARE, sample_length, sampling_order
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

Cell = tuple[int, int]
STATE_OF: dict[Reply, int] = {"yes": POSITIVE, "no": NEGATIVE, "unsure": UNKNOWN}
REPLY_OF = {POSITIVE: "yes", NEGATIVE: "no", UNKNOWN: None}
LEASE_SECONDS = 600.0
"""After so long a question that a tab has not answered is given to others."""
RECENT_SECONDS = 120.0


class Question(NamedTuple):
    """A cell to ask about.

    Attributes:
        row: Position of the photo.
        column: Position of the label.
        stated: What is known of it already.
        probability: That the label is there; NaN if nothing is thought yet.
        measures: Whether it was drawn at random, to measure.
    """

    row: int
    column: int
    stated: int
    probability: float
    measures: bool = False


class Given(NamedTuple):
    """An answer as the page gives it: its id, the cell and what was said."""

    id: str
    row: int
    column: int
    reply: Reply


class Session:
    """Questions and answers on one table.

    Attributes:
        table: As it was read.
        states: What is known now: the table, and the answers over it.
        probability: What is thought of each cell, in [0, 1]; NaN where nothing is.
        unreadable: Photos that cannot be shown, which are not asked about.
        validates: Photos that no model learns from: what teaches most is asked of the others, and one
            question in ten of these, at random (see `trmml.app.sampling`).
    """

    def __init__(
        self,
        table: MultiLabelDataset,
        names: Sequence[str],
        journal: Journal,
        seed: int = 0,
        validates: Bool[np.ndarray, " image"] | None = None,
    ) -> None:
        """Go on from what the journal holds.

        Args:
            table: Photos with partly known labels.
            names: Of the photos, in the journal.
            journal: Its answers count before what the table says. Those about photos or labels that
                the table does not have are kept there.
            seed: Of the draw between equals.
            validates: By default no photo does.
        """
        self.table, self.names, self.journal = table, tuple(names), journal
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.column_of = {name: column for column, name in enumerate(table.labels)}
        shape = table.states.shape
        self.states: Int8[np.ndarray, "image label"] = table.states.copy()
        self.probability: Float[np.ndarray, "image label"] = np.full(shape, np.nan)
        self.unreadable: Bool[np.ndarray, " image"] = np.zeros(len(table), dtype=bool)
        self.validates: Bool[np.ndarray, " image"] = (
            np.zeros(len(table), dtype=bool) if validates is None else validates
        )
        blank = self.validates[:, None] & (table.states == UNKNOWN)
        self._to_sample = sampling_order(self.names, table.labels, blank)
        self._chance = np.random.default_rng(seed).random(shape)
        self._said: Bool[np.ndarray, "image label"] = np.zeros(shape, dtype=bool)
        self._by_cell: dict[Cell, list[Answer]] = {}
        self._leases: dict[Cell, tuple[str, float]] = {}
        self._passed: dict[str, set[Cell]] = {}
        self._recent: deque[float] = deque()
        for answer in journal.answers.values():
            self._note(answer)

    def questions(
        self,
        client: str,
        order: Order = DEFAULT_ORDER,
        label: str | None = None,
        count: int = 1,
        *,
        now: float | None = None,
    ) -> list[Question]:
        """Return what to ask a tab next, the most urgent first, at most one per photo.

        They are the tab's until it asks again: no other tab is given them in the meantime.

        Args:
            client: Name of the tab.
            order: What is most urgent.
            label: Ask about this one alone; by default about any.
            count: At most so many.
            now: Seconds; by default the clock's.
        """
        now = time.monotonic() if now is None else now
        self._leases = {
            cell: (owner, since)
            for cell, (owner, since) in self._leases.items()
            if owner != client and now - since < LEASE_SECONDS
        }
        free = ~self._said & ~self.unreadable[:, None]
        if label is not None:
            free &= np.arange(len(self.table.labels)) == self._column(label)
        for cell in self._leases:
            free[cell] = False
        passed = self._passed.get(client, set())
        held_back = free.copy()
        for cell in passed:
            held_back[cell] = False
        drawn: list[Cell] = []
        if order == DEFAULT_ORDER and label is None:
            drawn = self._drawn(held_back, count)
        if (
            drawn
        ):  # what measures and was passed over comes back in its turn, or the sample would end
            passed -= {cell for cell in passed if self.validates[cell[0]]}
        urgent = urgency(order, self.probability, self.states, self._chance)
        if order == DEFAULT_ORDER:  # what teaches nobody comes last
            urgent = np.where(self.validates[:, None], urgent - 1e6, urgent)
        cells = _best(urgent, held_back, count, drawn)
        if not cells and passed:  # only what was passed over is left
            passed.clear()
            cells = _best(urgent, free, count, drawn)
        self._leases |= {cell: (client, now) for cell in cells}
        return [self.question(*cell)._replace(measures=cell in drawn) for cell in cells]

    def _drawn(self, free: Bool[np.ndarray, "image label"], count: int) -> list[Cell]:
        """Return the next cell that measures, if one is due: one question in ten is such a one."""
        is_free = free.flat[self._to_sample]
        if not is_free.any():
            return []
        # Those before it are answered, or asked and passed over, here or in another tab.
        so_far = int(is_free.argmax())
        due = int(SHARE * (int(self._said.sum()) + count)) - so_far
        if due < 1:
            return []
        row, column = np.unravel_index(self._to_sample[so_far], free.shape)
        return [(int(row), int(column))]

    def _done(self) -> Bool[np.ndarray, "image label"]:
        """Say which cells need not be asked any more."""
        return self._said | self.unreadable[:, None]

    def measures(self) -> Bool[np.ndarray, "image label"]:
        """Say which known cells measure: of photos that validate, the table's and the random sample."""
        chosen = self.validates[:, None] & (self.table.states != UNKNOWN)
        so_far = sample_length(self._to_sample, self._done())
        chosen.flat[self._to_sample[:so_far]] = True
        return chosen & (self.states != UNKNOWN)

    def question(self, row: int, column: int) -> Question:
        """Return a cell as a question, whatever is known of it."""
        self._require(row, column)
        stated = int(self.states[row, column])
        return Question(row, column, stated, float(self.probability[row, column]))

    def pass_over(self, client: str, row: int, column: int) -> None:
        """Ask a tab about a cell only when nothing else is left."""
        self._require(row, column)
        self._passed.setdefault(client, set()).add((row, column))

    def answer(self, given: Sequence[Given]) -> list[Answer]:
        """Take answers; they are on disk when this returns. One that came before counts once.

        Raises:
            DataError: If a cell does not exist.
            OutputError: If they cannot be written.
        """
        for one in given:
            self._require(one.row, one.column)
        now = time.time()
        answers = [
            Answer(one.id, self.names[one.row], self.table.labels[one.column], one.reply, now)
            for one in given
        ]
        new = self.journal.add(answers)
        for answer in new:
            self._note(answer)
            self._recent.append(time.monotonic())
        return new

    def undo(self, answer_id: str) -> Question | None:
        """Take an answer back; the one before it on the cell counts again, or what the table says."""
        answer = self.journal.take_back(answer_id)
        cell = None if answer is None else self._cell_of(answer)
        if answer is None or cell is None:
            return None
        self._by_cell[cell].remove(answer)
        self._settle(cell)
        return self.question(*cell)

    def answers(self, count: int) -> list[tuple[Answer, Cell]]:
        """Return the last answers that stand on photos and labels of the table, the newest first."""
        found = ((answer, self._cell_of(answer)) for answer in self.journal.answers.values())
        return [(answer, cell) for answer, cell in found if cell is not None][::-1][:count]

    def merged(self) -> MultiLabelDataset:
        """Return the table with the answers in it."""
        note = f"{self.interpretation} {len(self.journal.answers)} answers."
        return replace(
            self.table, states=self.states.copy(), interpretation=note.strip(), rest=None
        )

    @property
    def interpretation(self) -> str:
        """How the table was read."""
        return self.table.interpretation

    def progress(self, now: float | None = None) -> dict[str, Any]:
        """Return counts for people: answers, what is known and left, and answers a minute."""
        now = time.monotonic() if now is None else now
        while self._recent and now - self._recent[0] > RECENT_SECONDS:
            self._recent.popleft()
        span = max(now - self._recent[0], 10.0) if self._recent else 1.0
        blank = self.states == UNKNOWN
        return {
            "answers": len(self.journal.answers),
            "unsure": int((self._said & blank).sum()),
            "known_share": float((~blank).mean()),
            "open": int((blank & ~self._said).sum()),
            "per_minute": round(60 * len(self._recent) / span, 1) if self._recent else None,
            "precision": self._expected_precision(),
        }

    def label_counts(self) -> list[dict[str, int]]:
        """Return what is known of each label: positives, negatives and blanks."""
        counts = [(self.states == state).sum(axis=0) for state in (POSITIVE, NEGATIVE, UNKNOWN)]
        return [
            {"positive": p, "negative": n, "unknown": u}
            for p, n, u in zip(*(c.tolist() for c in counts), strict=True)
        ]

    def _expected_precision(self) -> float | None:
        """Mean probability of the blanks that are rather there than not: how many would be right."""
        with np.errstate(invalid="ignore"):
            likely = (self.states == UNKNOWN) & (self.probability >= 0.5)
        return float(self.probability[likely].mean()) if likely.any() else None

    def _note(self, answer: Answer) -> None:
        cell = self._cell_of(answer)
        if cell is not None:
            self._by_cell.setdefault(cell, []).append(answer)
            self._settle(cell)

    def _settle(self, cell: Cell) -> None:
        """Let the last answer that stands decide a cell."""
        answers = self._by_cell.get(cell)
        self._said[cell] = bool(answers)
        self.states[cell] = STATE_OF[answers[-1].reply] if answers else self.table.states[cell]

    def _cell_of(self, answer: Answer) -> Cell | None:
        row, column = self.row_of.get(answer.image), self.column_of.get(answer.label)
        return None if row is None or column is None else (row, column)

    def _column(self, label: str) -> int:
        if label not in self.column_of:
            raise DataError(f"{self.table.source} has no label {label!r}.")
        return self.column_of[label]

    def _require(self, row: int, column: int) -> None:
        shape = self.states.shape
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise DataError(f"There is no photo {row} with label {column}; the table is {shape}.")


def _best(
    urgent: Float[np.ndarray, "image label"],
    free: Bool[np.ndarray, "image label"],
    count: int,
    first: list[Cell],
) -> list[Cell]:
    """Return some cells, and then the most urgent of other photos, `count` in all."""
    free = free.copy()
    free[[row for row, _ in first]] = False
    rows, columns = most_urgent(urgent, free, max(count - len(first), 0))
    return [*first, *zip(rows.tolist(), columns.tolist(), strict=True)][:count]


def new_id() -> str:
    """Return an id that no other answer has."""
    return uuid.uuid4().hex
