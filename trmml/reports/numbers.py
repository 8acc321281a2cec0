"""Numbers and lists as people read them."""

from collections.abc import Sequence


def signed_per_cent(share: float) -> str:
    """Return a share in per cent with its sign and one digit behind the point, zero as +0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def counted(number: int, noun: str) -> str:
    """Return `1 label` or `2 labels`, with the noun in the singular."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_of(names: Sequence[str], most: int = 10) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
