"""Columns of text on a terminal, for names in any script."""

import unicodedata
from collections.abc import Iterable


def first_column(head: str, names: Iterable[str]) -> list[str]:
    """Return a head and names, filled up with blanks until a terminal shows them equally wide.

    East Asian characters take two places there, marks that lie on another character none.
    """
    cells = [head, *names]
    widths = [sum(map(_places, cell)) for cell in cells]
    return [cell + " " * (max(widths) - width) for cell, width in zip(cells, widths, strict=True)]


def _places(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
