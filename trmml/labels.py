"""The three states in which a label can be, the codes people use for them, and ways to hide labels.

A label is a name of what may be in a photo; its state in one photo is positive, negative or unknown.
Only this module knows the integers. Inside `trmml` unknown is −1, so that fully known states are an
ordinary array of zeros and ones (some research code has −1 for negative and 0 for unknown).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Bool, Int8

from trmml.errors import ConfigError, DataError

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNKNOWN: Final = -1

BLANK_WORDS: Final = ("", "nan", "none", "null", "<na>")
"""What tables have, in whatever case, where nothing is said."""

UNKNOWN_WORDS: Final = ("?", "unknown", "n/a", "na", "#n/a", "-", "–")
"""What people write, in whatever case, where nobody knows; a label may be called so."""


def _encoding(positive: str, negative: str, *unknown: str) -> Mapping[str, int]:
    cells = {positive: POSITIVE, negative: NEGATIVE}
    cells |= dict.fromkeys((*unknown, *BLANK_WORDS, *UNKNOWN_WORDS), UNKNOWN)
    # Spreadsheets write whole numbers as 1.0.
    cells |= {f"{cell}.0": state for cell, state in cells.items() if cell.lstrip("-").isdigit()}
    # Words that pandas, spreadsheets and people write; no number could be meant by them.
    cells |= {"true": POSITIVE, "yes": POSITIVE, "false": NEGATIVE, "no": NEGATIVE}
    return MappingProxyType(cells)


LABEL_ENCODINGS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "1/0/blank": _encoding("1", "0"),
        "1/-1/0": _encoding("1", "-1", "0"),
        "1/0/-1": _encoding("1", "0", "-1"),
        "chexpert": _encoding("1", "0", "-1"),
    }
)
"""Positive / negative / unknown as text in a table cell, by the name of the encoding.

A blank cell is unknown in all of them. `chexpert` reads CheXpert's −1 (uncertain) as unknown.
"""

DEFAULT_ENCODING: Final = "1/0/blank"


def known_mask(states: Int8[np.ndarray, "image label"]) -> Bool[np.ndarray, "image label"]:
    """Return where somebody stated something: true for positive and negative labels."""
    return states != UNKNOWN


def hide_labels(
    states: Int8[np.ndarray, "image label"], fraction: float, seed: int
) -> Int8[np.ndarray, "image label"]:
    """Keep each label with probability `fraction` and make the others unknown, for experiments.

    One uniform number per cell from NumPy's legacy generator, known where it is below `fraction`:
    the masks of the partial-label literature (seed 0 gives theirs), nested in `fraction`.

    Args:
        states: Of each image and label.
        fraction: Share of the cells to keep, in [0, 1].
        seed: Seed of the mask.

    Raises:
        ConfigError: If `fraction` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction must be in [0, 1], got {fraction}.")
    keep = np.random.RandomState(seed).random_sample(states.shape) < fraction
    return np.where(keep, states, np.int8(UNKNOWN))


def keep_single_positive(
    states: Int8[np.ndarray, "image label"], seed: int
) -> Int8[np.ndarray, "image label"]:
    """Keep one positive label per image, drawn evenly, and make everything else unknown.

    The setting of Cole et al. (CVPR 2021), where no negative label is known.

    Args:
        states: Of each image and label; an image without a positive ends up all unknown.
        seed: Seed of the draw.
    """
    draw = np.random.RandomState(seed).random_sample(states.shape)
    chosen = np.where(states == POSITIVE, draw, -1.0).argmax(axis=1)
    kept = np.full_like(states, UNKNOWN)
    images = np.flatnonzero((states == POSITIVE).any(axis=1))
    kept[images, chosen[images]] = POSITIVE
    return kept


def encoding_named(name: str) -> Mapping[str, int]:
    """Return the cell texts of an encoding.

    Raises:
        DataError: If there is no encoding of that name.
    """
    if name not in LABEL_ENCODINGS:
        raise DataError(
            f"Unknown label encoding {name!r}. Choose one of {', '.join(LABEL_ENCODINGS)} "
            "(positive/negative/unknown)."
        )
    return LABEL_ENCODINGS[name]
