"""How far long work is, on stderr: a bar on a terminal, a line now and then in files and notebooks."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0


def followed(
    items: Iterable[Item], what: str, total: int, unit: str = "photo", *, show: bool
) -> Iterator[Item]:
    """Yield items and show how many are done.

    Args:
        items: What is worked on.
        what: The work, in a word or two.
        total: Number of items.
        unit: What an item is.
        show: Whether to show anything.
    """
    with Progress(what, total, unit, show=show) as progress:
        for item in items:
            yield item
            progress.advance(1)


class Progress:
    """A count of what is done, for work that comes in pieces of different size."""

    def __init__(self, what: str, total: int, unit: str = "photo", *, show: bool) -> None:
        """Start to count; the arguments are those of `followed`."""
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        has_bar = show and is_terminal()
        self._says_lines = show and not has_bar
        self._bar = tqdm(total=total, desc=what, unit=unit, leave=False, disable=not has_bar)
        self._started = self._said = time.monotonic()

    def advance(self, number: int) -> None:
        """Count items that are done now."""
        self.done += number
        self._bar.update(number)
        now = time.monotonic()
        # The first ones mostly wait for something to start, and the end shows by itself.
        if (
            self._says_lines
            and now - self._said >= SECONDS_BETWEEN_LINES
            and self.done < self.total
        ):
            self._said = now
            left = (now - self._started) * (self.total / max(self.done, 1) - 1)
            say(f"{self.what}: {self.done} of {self.total} {self.unit}s, {duration(left)} left")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def is_terminal() -> bool:
    """Say whether stderr is a terminal, where a line can be drawn over."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(line: str) -> None:
    """Write a line to stderr, above a bar if there is one."""
    if sys.stderr is not None:  # a program without a console has none
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return a time for people: `45 s`, `12:05 min` or `3:20:00 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
