"""Which cell to ask about next: one number for each, from what is thought and what is known."""

from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from trmml.labels import POSITIVE, UNKNOWN
from trmml.tasks.completion import teaching_value

Order = Literal["teach", "likely", "unlikely", "mistakes", "random"]
ORDERS: Final[dict[Order, str]] = {
    "teach": "What teaches most",
    "likely": "Likely yes first",
    "unlikely": "Likely no first",
    "mistakes": "Likely mistakes",
    "random": "At random",
}
DEFAULT_ORDER: Final[Order] = "teach"


def urgency(
    order: Order,
    probability: Float[np.ndarray, "image label"],
    states: Int8[np.ndarray, "image label"],
    chance: Float[np.ndarray, "image label"],
) -> Float[np.ndarray, "image label"]:
    """Return how urgent each cell is, −∞ where it is not to be asked in this order.

    Args:
        order: `teach` asks likely blanks of labels that lack positives, then uncertain ones (see
            `trmml.tasks.completion.teaching_value`); `likely` and `unlikely` blanks by their
            probability; `mistakes` known cells that the estimate contradicts; `random` blanks.
        probability: That each label is there, in [0, 1]; NaN where nothing is thought yet, which is
            asked last.
        states: What is known.
        chance: Evenly drawn from [0, 1); decides between equals.
    """
    blank = states == UNKNOWN
    if order == "mistakes":
        stated = np.where(states == POSITIVE, probability, 1 - probability)
        return np.where(~blank & (stated < 0.5), 1 - stated, -np.inf)
    values = {
        "teach": lambda: teaching_value(probability, states),
        "likely": lambda: probability,
        "unlikely": lambda: 1 - probability,
        "random": lambda: chance,
    }[order]()
    # NaN compares with nothing: those come after all others, and by chance.
    values = np.where(np.isnan(values), chance - 2, values + 1e-6 * chance)
    return np.where(blank, values, -np.inf)


def most_urgent(
    urgency: Float[np.ndarray, "image label"], free: Bool[np.ndarray, "image label"], count: int
) -> tuple[Int64[np.ndarray, " chosen"], Int64[np.ndarray, " chosen"]]:
    """Return rows and columns of the most urgent free cells, the best first, at most one per photo."""
    values = np.where(free, urgency, -np.inf)
    columns = values.argmax(axis=1)
    best = values[np.arange(len(values)), columns]
    rows = np.argsort(-best, kind="stable")[:count]
    rows = rows[np.isfinite(best[rows])]
    return rows, columns[rows]
