"""One spelling for one name: forms of Unicode, characters that nobody sees, letters that look alike."""

import unicodedata
from collections.abc import Iterable

_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_BLANKS = dict.fromkeys(map(ord, "\u00a0\u2007\u202f"), " ")
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))
_ALIKE = str.maketrans(
    "АВЕЗКМНОРСТУХЅІЈаеорсухѕіјԁһԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧονα",
    "ABE3KMHOPCTYXSIJaeopcyxsijdhqwABEZHIKMNOPTYXova",
)
"""Letters of Cyrillic and Greek, and those of Latin that they look like."""


def spelled(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), without what nobody sees.

    Such are soft hyphens and blanks of no width; joiners, which some scripts need, stay.
    """
    return unicodedata.normalize("NFC", name.translate(_UNSEEN).translate(_BLANKS))


def looks(name: str) -> str:
    """Return what a name looks like: the same for names that a reader could not tell apart."""
    folded = unicodedata.normalize("NFKC", spelled(name).strip().translate(_JOINERS))
    return folded.translate(_ALIKE)


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Return groups of different names that look the same."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(looks(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
