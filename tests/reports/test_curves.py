import numpy as np
import pytest
from PIL import Image

from trmml.reports.curves import _BEST, _LINE, HEIGHT, WIDTH, Curve, draw_curves


def columns_of(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.unique(np.nonzero((np.asarray(picture) == colour).all(axis=2))[1])


def rows_of(picture: Image.Image, colour: tuple[int, int, int], column: int) -> np.ndarray:
    return np.nonzero((np.asarray(picture)[:, column] == colour).all(axis=1))[0]


def test_a_curve_falls_where_its_values_fall_and_stops_where_they_stop() -> None:
    whole = draw_curves([Curve("loss", [4.0, 3, 2, 1])], 4, None)
    drawn = columns_of(whole, _LINE)
    heights = [rows_of(whole, _LINE, column).mean() for column in drawn[3:-3:20]]
    assert heights == sorted(heights)  # rows count downwards
    half = columns_of(draw_curves([Curve("loss", [4.0, 3])], 4, None), _LINE)
    assert half.max() < drawn.min() + 0.4 * (drawn.max() - drawn.min())


def test_the_kept_epoch_is_marked_in_every_panel_at_its_place() -> None:
    curves = [Curve("loss", [3.0, 2, 1]), Curve("validation mAP in %", [50.0, None, 40], start=20)]
    picture = draw_curves(curves, 3, 3)
    assert picture.size == (2 * WIDTH, HEIGHT)
    axis = np.asarray(picture)[HEIGHT // 2]
    marked = np.nonzero((axis == _BEST).all(axis=1))[0]
    last = columns_of(draw_curves(curves, 3, None).crop((0, 60, WIDTH, HEIGHT)), _LINE).max() - 2
    assert list(marked) == [last, last + WIDTH]
    assert not len(columns_of(draw_curves(curves, 3, None), _BEST))


@pytest.mark.parametrize(
    "values", [[], [None, None], [0.0], [1e-9, float("nan")], [5.0] * 300, [-1e6, 1e6], [float("inf")]]
)  # fmt: skip
def test_odd_values_are_drawn_as_well(values: list[float | None]) -> None:
    for best in (None, 1, 7):
        assert draw_curves([Curve("loss", values)], 2, best).size == (WIDTH, HEIGHT)
