"""How far scores can be read as probabilities: a reliability diagram, as data and as a picture."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8
from PIL import Image, ImageDraw, ImageFont

from trmml.labels import POSITIVE, UNKNOWN
from trmml.reports.drawing import font_for

NUM_BINS = 10
_PAPER, _INK, _QUIET, _BAR, _LINE = "#ffffff", "#141414", "#8a8a8a", "#35618f", "#b5533c"


class Bin(NamedTuple):
    """Labels whose scores lie in one tenth of [0, 1]."""

    mean_score: float
    share_positive: float
    num_labels: int


class Reliability(NamedTuple):
    """The bins, empty ones left out, and the expected calibration error in [0, 1]."""

    bins: list[Bin]
    expected_error: float


def reliability(
    scores: Float[np.ndarray, "image label"], states: Int8[np.ndarray, "image label"]
) -> Reliability:
    """Compare scores with how often the label was there, over all known labels.

    The expected error is the mean distance of a bin's score from its share of positives, weighted by
    its labels (Naeini et al., 2015).
    """
    known = states != UNKNOWN
    values, positive = scores[known].astype(np.float64), states[known] == POSITIVE
    # A score of exactly 1 belongs to the last bin.
    which = np.minimum((values * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = [
        Bin(float(values[here].mean()), float(positive[here].mean()), int(here.sum()))
        for here in (which == i for i in range(NUM_BINS))
        if here.any()
    ]
    total = sum(b.num_labels for b in bins)
    error = sum(b.num_labels * abs(b.mean_score - b.share_positive) for b in bins) / max(total, 1)
    return Reliability(bins, error)


def reliability_diagram(found: Reliability, title: str) -> Image.Image:
    """Draw the bins as bars against the diagonal on which scores are probabilities."""
    side, left, top = 440, 70, 60
    sheet = Image.new("RGB", (left + side + 40, top + side + 100), _PAPER)
    draw = ImageDraw.Draw(sheet)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    draw.text((left, 14), title, _INK, font_for(title, 18))
    summary = f"expected calibration error {100 * found.expected_error:.1f} %"
    draw.text((left, 36), summary, _QUIET, _font(13))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        draw.line([place(0, tick), place(1, tick)], "#e4e4e4")
        draw.text((left - 8, place(0, tick)[1]), f"{100 * tick:.0f}", _QUIET, _font(13), "rm")
        draw.text((place(tick, 0)[0], top + side + 8), f"{100 * tick:.0f}", _QUIET, _font(13), "mt")
    for b in found.bins:
        middle = (min(int(b.mean_score * NUM_BINS), NUM_BINS - 1) + 0.5) / NUM_BINS
        half = 0.42 / NUM_BINS
        corner, base = place(middle - half, b.share_positive), place(middle + half, 0)
        draw.rectangle([corner, base], _BAR)
        below = (place(middle, 0)[0], top + side + 28)  # where neither bar nor diagonal covers it
        draw.text(below, _short(b.num_labels), _INK, _font(11), "mt")
    draw.line([place(0, 0), place(1, 1)], _LINE, 2)
    draw.rectangle([place(0, 1), place(1, 0)], outline=_QUIET)
    draw.text((left - 8, top + side + 28), "cells", _INK, _font(11), "rt")
    middle = left + side / 2
    draw.text((middle, top + side + 52), "score, per cent", _INK, _font(14), "mt")
    note = "bars: share of known cells that are positive, per cent; line: as the score says"
    draw.text((middle, top + side + 74), note, _QUIET, _font(12), "mt")
    return sheet


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
