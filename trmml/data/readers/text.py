"""The text of a table, in whatever encoding programs write it."""

import re
from pathlib import Path

from trmml.data.readers.spreadsheets import OTHER_SPREADSHEETS
from trmml.errors import DataError
from trmml.files import read_bytes

_SHOWN = 3


def read_text(path: Path) -> tuple[str, str]:
    """Return a table's text, and a word on its encoding where that was guessed.

    Raises:
        DataError: If the file cannot be read, is empty or no text.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error.strerror}.") from error
    if path.suffix.lower() in OTHER_SPREADSHEETS:
        raise DataError(
            f"{path} is of a kind that is not read; save it as .xlsx, .csv or .parquet."
        )
    # Excel marks both: what it calls Unicode text is UTF-16, and its CSV UTF-8 starts with a mark that
    # would become a part of the first column's name.
    encoding, note = ("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"), ""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text, note = _western(data) or ("", "")
        if not text:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line} is not UTF-8; save the table as UTF-8 (CSV UTF-8 in Excel)."
            ) from error
    if not text.strip():
        raise DataError(f"{path} is empty; a table needs a header and at least one row.")
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes; is it a spreadsheet file? Export it as CSV.")
    return text, note


def _western(data: bytes) -> tuple[str, str] | None:
    """Return text in cp1252, which Excel writes in Western Europe, if it can hardly be anything else.

    There, accented letters stand between plain ones; other encodings look like runs of them.
    """
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    runs = dict.fromkeys(re.findall(r"[A-Za-z\x80-\U0010ffff]+", text))
    words = [run for run in runs if not run.isascii()]
    if "\0" in text or not all(map(_is_western, words)):
        return None
    shown = ", ".join(map(repr, words[:_SHOWN]))
    return text, (
        f"It is not UTF-8 and was read as cp1252 (Windows), as in {shown}; if that looks wrong, save "
        "the table as UTF-8."
    )


def _is_western(word: str) -> bool:
    plain = sum(character.isascii() for character in word)
    runs = re.findall(r"[^\x00-\x7f]+", word)
    are_letters = all(character.isalpha() for run in runs for character in run)
    return are_letters and max(map(len, runs)) <= 2 and plain >= len(word) - plain
