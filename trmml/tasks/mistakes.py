"""Known cells that are likely mistakes, as far as the estimates can tell them from chance."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from trmml.labels import POSITIVE, UNKNOWN

SURENESS = 3.0
"""Standard deviations by which contradicted cells must outnumber those that are to be expected."""

LEAST_SHARE = 0.2
"""Expected share of mistakes in the list; one with fewer is no help, and a calibration that is a
little off brings it forth."""


class Cell(NamedTuple):
    """A cell that a person should look at.

    Attributes:
        row: Position of the photo.
        column: Position of the label.
        probability: That the label is there.
        rank: Larger is more urgent; of no unit.
    """

    row: int
    column: int
    probability: float
    rank: float


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Known cells that are likely mistakes, and how many of them are to be expected.

    Attributes:
        cells: The worst first; none where the estimates cannot tell mistakes from chance.
        expected: How many of `cells` are expected to be mistakes.
        contradicted: Known cells that state what the estimate holds for less likely than not.
        contradicted_by_chance: How many there would be if every known cell were right.
    """

    cells: list[Cell]
    expected: float
    contradicted: int
    contradicted_by_chance: float

    @property
    def share(self) -> float:
        """Expected share of mistakes among `cells`, in [0, 1]; NaN if there are none."""
        return self.expected / len(self.cells) if self.cells else float("nan")

    def __str__(self) -> str:
        """Say in a sentence or two what is listed and what it is worth."""
        count = (
            f"The estimates contradict {self.contradicted} known cells, and would contradict about "
            f"{self.contradicted_by_chance:.0f} if all were right"
        )
        if not self.cells:
            return f"{count}: they cannot tell mistakes from chance here, and none is listed."
        return (
            f"{count}. Of the {len(self.cells)} listed as likely mistakes about "
            f"{100 * self.share:.0f} % are expected to be some."
        )


def likely_mistakes(
    probability: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    num_calibrated: int | None = None,
) -> Mistakes:
    """List the known cells that state the least probable things, as many as stand out from chance.

    If every known cell were right, one whose less likely state has the probability m would state that
    in a share m of the cases. So of cells up to some m, the sum of m is what chance contradicts, and
    what is beyond it is expected to be mistakes. The list ends where these are most, and still a fair
    share; there is one only if they are more than chance brings forth. To compare with what would be
    there anyway is the idea of false discovery rates (Benjamini and Hochberg, J. R. Stat. Soc. B,
    1995); the rule is ours.

    Args:
        probability: That a label is there, calibrated on cells that are held to be right.
        states: What the table states.
        num_calibrated: Known cells of the other table that the probabilities were calibrated on. What
            chance did there is in them, so that its variance, as if the cells were alike, is added.
    """
    rows, columns = np.nonzero(states != UNKNOWN)
    variances = 1.0 if num_calibrated is None else 1 + len(rows) / max(num_calibrated, 1)
    present = probability[rows, columns].astype(np.float64)
    stated = np.where(states[rows, columns] == POSITIVE, present, 1 - present)
    less_likely = np.minimum(present, 1 - present)
    order = np.argsort(less_likely, kind="stable")
    is_contradicted = (stated < 0.5)[order]
    found, chance = is_contradicted.cumsum(), less_likely[order].cumsum()
    spread = np.sqrt(variances * (less_likely * (1 - less_likely))[order].cumsum())
    # Equal ones are listed together or not at all.
    is_end = np.diff(less_likely[order], append=np.nan) != 0
    ends = np.flatnonzero(is_end & (found - chance >= LEAST_SHARE * found))
    cells: list[Cell] = []
    expected = 0.0
    if len(ends):
        best = int(ends[(found - chance)[ends].argmax()])
        # Half a cell, because whole ones are counted.
        if found[best] - chance[best] > SURENESS * spread[best] + 0.5:
            expected = float(found[best] - chance[best])
            chosen = order[: best + 1][is_contradicted[: best + 1]]
            cells = [
                Cell(int(rows[i]), int(columns[i]), float(present[i]), float(1 - stated[i]))
                for i in chosen
            ]
    return Mistakes(
        cells=cells,
        expected=expected,
        contradicted=int(is_contradicted.sum()),
        contradicted_by_chance=float(less_likely.sum()),
    )
