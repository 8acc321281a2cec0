import io
import sys

import pytest

from trmml.reports import progress
from trmml.reports.progress import Progress, duration, followed, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_now_and_then_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 20))  # seconds: one call when it starts, then one per item
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(followed("abcdefg", "features", 7, show=True)) == list("abcdefg")
    assert capsys.readouterr().err.splitlines() == [
        "features: 2 of 7 photos, 1:40 min left",
        "features: 4 of 7 photos, 1:00 min left",
        "features: 6 of 7 photos, 20 s left",
    ]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    list(followed([1, 2], "epoch 1/3", 2, "step", show=True))
    assert "epoch 1/3" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")


def test_nothing_is_shown_unasked_or_without_a_console(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    assert list(followed([1, 2, 3], "features", 3, show=False)) == [1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("features", 9, show=True) as counted:
        counted.advance(4)
    say("a line")
    assert counted.done == 4


def test_the_count_ends_where_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Progress("features", 9, show=True):
        _ = 1 / 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (725, "12:05 min"), (12_000, "3:20:00 h")],
)
def test_a_time_is_said_in_its_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
