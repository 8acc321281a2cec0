from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageChops, ImageFont

from trmml.evaluation.reliability import Reliability, reliability_diagram
from trmml.reports import drawing
from trmml.reports.drawing import font_for


@pytest.fixture(autouse=True)
def _one_system_font(monkeypatch: pytest.MonkeyPatch) -> None:
    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    monkeypatch.setattr(drawing, "_NAMES", ("NoSuchFont", str(dejavu)))
    font_for.cache_clear()


def test_a_text_gets_a_font_that_has_its_characters() -> None:
    own = ImageFont.load_default(17).getname()
    assert font_for("dog 0.93", 17).getname() == own
    assert font_for("Café Жук", 17).getname() == ("DejaVu Sans", "Book")
    assert font_for("犬", 17).getname() == own  # which neither font has


def test_without_a_system_font_text_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_NAMES", ("NoSuchFont",))
    assert font_for("Café", 17).getname() == ImageFont.load_default(17).getname()


@pytest.mark.parametrize(
    "draw",
    [
        lambda text: drawing.captioned(Image.new("RGB", (320, 100)), text, "0.93"),
        lambda text: reliability_diagram(Reliability([], 0.0), text),
    ],
)
def test_letters_that_differ_look_different(draw: Callable[[str], Image.Image]) -> None:
    assert ImageChops.difference(draw("Tür Ж"), draw("Tér Щ")).getbbox() is not None
