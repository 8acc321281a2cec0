"""What can go wrong, as a user meets it: every error says the rule, the value found and the way out.

Each class also derives from the built-in error that Python programmers would catch for it.
"""

import difflib
from collections.abc import Iterable


class TrmmlError(Exception):
    """Parent of every error that `trmml` raises on purpose; the command shows it as one line."""


class ConfigError(TrmmlError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(TrmmlError, ValueError):
    """A label table or its photos cannot be used as they are."""


class ImageError(TrmmlError, OSError):
    """A photo cannot be read."""


class OutputError(TrmmlError, OSError):
    """A result cannot be written: the disk is full, permission is missing, a folder is in the way."""


class ModelNotFoundError(TrmmlError, LookupError):
    """No model of this name or in this folder."""


class ModelAccessError(TrmmlError, PermissionError):
    """The model exists, but may not be read with the credentials at hand."""


class OfflineError(TrmmlError, ConnectionError):
    """A file is needed from the network, and the network is off or out of reach."""


class ArtifactError(TrmmlError, ValueError):
    """A model file is damaged, of another format or does not fit its configuration."""


class UnsupportedBackboneError(TrmmlError, NotImplementedError):
    """The CLIP model is of a kind that this library cannot take apart exactly."""


class DependencyError(TrmmlError, ImportError):
    """A package is missing, or two installed packages do not go together."""


def refuse_text(names: object, argument: str) -> None:
    """Refuse a text where a list of names is expected: it would be taken for a list of letters.

    Raises:
        ConfigError: If it is a text.
    """
    if isinstance(names, str):
        raise ConfigError(f"{argument} must be a list of names, got the text {names!r}.")


def close_name(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Return the known name that is most like another, if any has so high a share of it, in [0, 1]."""
    # Capitals are no mistake to speak of: `vit-b-16` is next to `ViT-B-16`.
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message that lists what is known, the nearest name first.

    Args:
        name: What the user wrote.
        known: The names that would have been right; at most eight are shown.
    """
    names = list(known)
    close = close_name(name, names, 0.5)
    hint = f"Did you mean {close!r}? " if close else ""
    shown = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
    return f"{hint}Known: {shown or 'none'}."
