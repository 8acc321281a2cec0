"""A picture of a training: loss and validation mAP of each epoch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from trmml.reports.drawing import INK, PAPER, QUIET, font_for

WIDTH, HEIGHT = 460, 320
"""Of a panel, in pixels."""
LEFT, TOP, RIGHT, BOTTOM = 62, 44, 18, 46
"""Room around the axes of a panel."""
_GRID, _LINE, _BEST = (225, 225, 225), (42, 111, 219), (183, 55, 121)


class Curve(NamedTuple):
    """A value of each epoch.

    Attributes:
        title: What it is.
        values: One per epoch, the first of epoch 1; None where there is none.
        start: Its value before training, drawn as a dashed line, if known.
    """

    title: str
    values: Sequence[float | None]
    start: float | None = None


def draw_curves(curves: Sequence[Curve], num_epochs: int, best: int | None) -> Image.Image:
    """Draw curves beside each other over the epochs, the best epoch marked.

    Args:
        curves: What to draw; their values may end before the last epoch.
        num_epochs: Length of the horizontal axis.
        best: Number of the epoch that is kept, from 1; None if there is none.
    """
    sheet = Image.new("RGB", (WIDTH * len(curves), HEIGHT), PAPER)
    for i, curve in enumerate(curves):
        panel = _Panel(curve, num_epochs)
        sheet.paste(panel.drawn(best), (i * WIDTH, 0))
    return sheet


class _Panel:
    """One curve with its axes."""

    def __init__(self, curve: Curve, num_epochs: int) -> None:
        self.curve, self.num_epochs = curve, max(num_epochs, len(curve.values), 1)
        known = [v for v in (*curve.values, curve.start) if v is not None and math.isfinite(v)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        self.step = _round_step((high - low) or abs(high) or 1.0)
        self.low = math.floor(low / self.step) * self.step
        self.high = max(math.ceil(high / self.step) * self.step, self.low + self.step)

    def drawn(self, best: int | None) -> Image.Image:
        picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        draw = ImageDraw.Draw(picture)
        title, small = font_for(self.curve.title, 15), font_for("0", 11)
        draw.text((LEFT, 14), self.curve.title, INK, title)
        for i in range(round((self.high - self.low) / self.step) + 1):
            value = round(self.low + i * self.step, 12)  # no 0.30000000000000004
            height = self._y(value)
            draw.line((LEFT, height, WIDTH - RIGHT, height), _GRID)
            draw.text((LEFT - 6, height), f"{value:.4g}", QUIET, small, "rm")
        for epoch in _whole_ticks(self.num_epochs):
            draw.text((self._x(epoch), HEIGHT - BOTTOM + 6), str(epoch), QUIET, small, "ma")
        draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20), "epoch", QUIET, small, "ma")
        if self.curve.start is not None:
            self._draw_start(draw, self.curve.start)
        points = [
            (self._x(i + 1), self._y(value))
            for i, value in enumerate(self.curve.values)
            if value is not None and math.isfinite(value)
        ]
        draw.line(points, _LINE, 2, "curve")
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), _LINE)
        if best is not None and best <= len(self.curve.values):
            self._mark(draw, best, self.curve.values[best - 1])
        return picture

    def _draw_start(self, draw: ImageDraw.ImageDraw, value: float) -> None:
        height = self._y(value)
        for x in range(LEFT, WIDTH - RIGHT, 8):
            draw.line((x, height, min(x + 4, WIDTH - RIGHT), height), QUIET)
        text = "before training"
        draw.text((WIDTH - RIGHT, height - 3), text, QUIET, font_for(text, 11), "rs")

    def _mark(self, draw: ImageDraw.ImageDraw, best: int, value: float | None) -> None:
        x = self._x(best)
        draw.line((x, TOP, x, HEIGHT - BOTTOM), _BEST)
        text = f"kept: epoch {best}"
        if value is not None and math.isfinite(value):
            draw.ellipse((x - 4, self._y(value) - 4, x + 4, self._y(value) + 4), _BEST)
            text += f", {value:.4g}"
        draw.text((WIDTH - RIGHT, 17), text, _BEST, font_for(text, 12), "ra")

    def _x(self, epoch: float) -> float:
        room = WIDTH - LEFT - RIGHT
        return LEFT + room * (epoch - 1) / max(self.num_epochs - 1, 1)

    def _y(self, value: float) -> float:
        room = HEIGHT - TOP - BOTTOM
        return TOP + room * (self.high - value) / (self.high - self.low)


def _round_step(span: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten, of which a span has three to six."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= span)


def _whole_ticks(last: int) -> range:
    step = max(1, round(_round_step(last))) if last > 8 else 1
    return range(step, last + 1, step)
