"""Tables in files of bytes: Excel's workbooks and Parquet, through the libraries that read them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trmml.data.readers.csv import read_sheet
from trmml.data.readers.forms import Line
from trmml.data.readers.frames import read_frame
from trmml.data.readers.rows import Options, Table, with_notes
from trmml.errors import DataError, DependencyError

WORKBOOKS = (".xlsx", ".xlsm")
PARQUET = (".parquet", ".pq")
OTHER_SPREADSHEETS = (".xls", ".xlsb", ".ods", ".numbers", ".gsheet", ".feather", ".arrow", ".orc")
"""Tables as well, of kinds that are not read."""


def read_workbook(path: Path, options: Options, form: str | None) -> Table:
    """Read the first sheet of a workbook that has rows, as a CSV of its cells.

    Raises:
        DataError: If the file cannot be read, or with the row of what cannot be used.
        DependencyError: If openpyxl is not installed.
    """
    with _reading(path, "an Excel workbook"):
        import openpyxl

        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheets = {sheet.title: _lines(sheet) for sheet in book.worksheets}
        finally:
            book.close()
    full = [title for title, lines in sheets.items() if lines]
    if not full:
        raise DataError(f"{path} is empty; a table needs a header and at least one row.")
    table = read_sheet(sheets[full[0]], path, options, form)
    others = ", ".join(map(repr, full[1:]))
    note = f"Sheet {full[0]!r} is read, and {others} left out." if others else ""
    return with_notes(table, note)


def _lines(sheet: Any) -> list[Line]:
    """Return the rows that are not empty, without the empty columns at their ends."""
    lines = [
        (number, [_text(cell) for cell in row])
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1)
    ]
    lines = [(number, cells) for number, cells in lines if any(cells)]
    width = max((i + 1 for _, cells in lines for i, cell in enumerate(cells) if cell), default=0)
    return [(number, (cells + [""] * width)[:width]) for number, cells in lines]


def _text(cell: Any) -> str:
    """Return a cell as Excel would write it into a CSV."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).removesuffix(" 00:00:00") if isinstance(cell, date) else str(cell)


def read_parquet(path: Path, options: Options, form: str | None) -> Table:
    """Read a Parquet file, also with the names of classes that Hugging Face datasets write.

    Raises:
        DataError: If the file cannot be read, or with the row of what cannot be used.
        DependencyError: If pyarrow is not installed.
    """
    with _reading(path, "a Parquet file"):
        from pyarrow import parquet

        table = parquet.read_table(path)
        metadata = dict(table.schema.metadata or {})
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        # Pandas writes its index as a column, if it is more than a count.
        names = [name for name in table.column_names if not name.startswith("__index_level_")]
        columns = {name: table[name].to_pylist() for name in names}
    return read_frame(Columns(columns, _features(features)), options, form, path)


class Columns:
    """Columns by name, as `read_frame` takes them.

    Attributes:
        column_names: In the order of the file.
        features: What is said of the classes of columns.
    """

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self._columns = columns
        self.column_names = list(columns)
        self.features = features

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values of a column."""
        return self._columns[name]


def _features(features: Any) -> dict[str, Any]:
    """Return the names of the classes of columns, or of what their lists hold."""
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else None
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[name] = SimpleNamespace(names=inner["names"])
    return found


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises for a file into the one error that names it."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"{path} is {kind}; to read it, pip install 'trmml[tables]', or save it as CSV."
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise DataError(f"Cannot read the table {path}: {reason}.") from error
    except Exception as error:
        # On damaged files the libraries raise almost any class.
        raise DataError(f"{path} is not {kind}: {str(error).rstrip('. ')}.") from error
