"""Tokenizers: from a text to the ids of its tokens, without start and end.

open_clip's own comes with it. Others are `tokenizer.json` files, read by the library `tokenizers`; a
name of one in a configuration is never followed here.
"""

import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import open_clip
from open_clip.tokenizer import get_clean_fn

from trmml.errors import ArtifactError, DependencyError, UnsupportedBackboneError
from trmml.files import read_json

TOKENIZER_NAME, SETTINGS_NAME = "tokenizer.json", "tokenizer_config.json"
_CLEANINGS = ("canonicalize", "lower", "whitespace")
_OPTIONS = {"clean": _CLEANINGS, "strip_sep_token": (True, False)}


@runtime_checkable
class Tokenizer(Protocol):
    """What a text tower asks of a tokenizer.

    Attributes:
        start: Ids in front of every text.
        end: Ids behind it.
        pad: What fills the rest of the context length.
        vocab_size: How many ids it can give.
    """

    start: list[int]
    end: list[int]
    pad: int
    vocab_size: int

    def encode(self, text: str, *, follows: bool = False) -> list[int]:
        """Return the ids of a text; `follows` if other words stand in front of it."""
        ...


class ClipTokenizer:
    """open_clip's own; words are cut at spaces, so that none depends on what stands before it."""

    def __init__(self) -> None:
        self._inner = open_clip.SimpleTokenizer()
        self.start, self.end = [self._inner.sot_token_id], [self._inner.eot_token_id]
        self.pad = 0
        self.vocab_size: int = self._inner.vocab_size

    def encode(self, text: str, *, follows: bool = False) -> list[int]:
        """Return the ids of a text."""
        return self._inner.encode(text)


class FileTokenizer:
    """One read from a `tokenizer.json`, used as open_clip uses it through transformers."""

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        """Read it.

        Args:
            path: The file; `tokenizer_config.json` is read beside it if it is there.
            options: `tokenizer_kwargs` of the text tower.

        Raises:
            DependencyError: If the library is not installed.
            ArtifactError: If the file is none.
            UnsupportedBackboneError: If it fills texts in front.
        """
        self._inner = _read(path)
        self._clean = get_clean_fn(options.get("clean", "whitespace"))
        self.vocab_size: int = self._inner.get_vocab_size()
        settings = _settings_beside(path)
        if settings.get("padding_side") == "left":
            raise UnsupportedBackboneError(
                f"The tokenizer {path} pads at the left; supported: right."
            )
        self.pad = self._special(settings, "pad_token", ("<pad>", "[PAD]")) or 0
        self.start, self.end = self._around(settings)
        if options.get("strip_sep_token"):
            separator = self._special(settings, "sep_token", ("[SEP]", "</s>"))
            self.start = [0 if i == separator else i for i in self.start]
            self.end = [0 if i == separator else i for i in self.end]

    def encode(self, text: str, *, follows: bool = False) -> list[int]:
        """Return the ids of a text; behind other words it may begin with a token of its own."""
        text = self._clean(text)
        if not follows or not text:
            return self._ids(text)
        before, joined = self._ids("a"), self._ids(f"a {text}")
        return joined[len(before) :] if joined[: len(before)] == before else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def _around(self, settings: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Return what stands in front of every text, and behind it."""
        # transformers builds Gemma's from its settings, and not from the file.
        if str(settings.get("tokenizer_class", "")).startswith("Gemma"):
            ends = (("add_bos_token", "bos_token", True), ("add_eos_token", "eos_token", False))
            found = [
                self._special(settings, name, ()) if settings.get(flag, default) else None
                for flag, name, default in ends
            ]
            return tuple([] if i is None else [i] for i in found)  # pyright: ignore[reportReturnType]
        plain, whole = self._ids("a"), self._inner.encode("a").ids
        for at in range(len(whole) - len(plain) + 1):
            if plain and whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
        return [], []

    def _special(self, settings: dict[str, Any], name: str, usual: tuple[str, ...]) -> int | None:
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        for text in (token, *usual):
            number = self._inner.token_to_id(text) if isinstance(text, str) else None
            if number is not None:
                return number
        return None


def check_options(options: Any, source: str) -> None:
    """Refuse options of a tokenizer that are not known here.

    Raises:
        UnsupportedBackboneError: If there is one.
    """
    for name, value in dict(options or {}).items():
        if name not in _OPTIONS or value not in _OPTIONS[name]:
            raise UnsupportedBackboneError(
                f"{source} has a tokenizer with {str(name)[:40]}={str(value)[:40]!r}; supported are "
                f"clean ({', '.join(_CLEANINGS)}) and strip_sep_token."
            )


def require_library() -> Any:
    """Return the library `tokenizers`.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise DependencyError(
            "The text tower of this CLIP has a tokenizer of its own, which needs the library "
            "tokenizers: pip install trmml[tokenizers]. Prediction with a trained model does not."
        ) from error
    return tokenizers


def _read(path: Path) -> Any:
    library = require_library()
    try:
        inner = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        inner.no_padding()
        inner.no_truncation()
        inner.encode("a photo")
    except (KeyboardInterrupt, SystemExit):
        raise
    # What the library has not foreseen in a file ends in its own kind, which is no Exception.
    except BaseException as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ArtifactError(
            f"{path} is no tokenizer of the library tokenizers: {reason}"
        ) from error
    return inner


def _settings_beside(path: Path) -> dict[str, Any]:
    file = path.with_name(SETTINGS_NAME)
    if not file.is_file():
        return {}
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise ArtifactError(f"{file} is no table of settings.")
    return settings
