"""Records: a list of dicts with a photo and its labels, in memory, as JSON or line by line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trmml.data.finding import PHOTO_SUFFIXES
from trmml.data.readers.sides import image_column, plain
from trmml.data.readers.vectors import VECTOR_COLUMNS
from trmml.errors import DataError, close_name

NATIVE = ("positive", "negative")
"""Keys of the records of which this library writes JSONL."""


class Records:
    """Records as columns, as `read_frame` takes them; what a record leaves out is missing.

    Labels that a record has as a dict, as `"labels": {"dog": 1, "cat": 0}`, are a column each.

    Attributes:
        column_names: In the order in which they come up.
    """

    def __init__(self, records: Sequence[Mapping[Any, Any]]) -> None:
        rows = [_flat(record) for record in records]
        self.column_names = list(dict.fromkeys(name for row in rows for name in row))
        self._rows = rows

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values of a column."""
        return [row.get(name) for row in self._rows]


def _flat(record: Mapping[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = str(key)
        if isinstance(value, Mapping) and plain(name) in VECTOR_COLUMNS:
            flat |= {str(label): state for label, state in value.items()}
        elif isinstance(value, Mapping) and image_column([name]) is None:
            flat[name] = json.dumps(value, default=str)
        else:
            flat[name] = value
    return flat


def are_records(value: Any) -> bool:
    """Say whether a value is a list of dicts."""
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(one, Mapping) for one in value)


def are_native(records: Sequence[Mapping[Any, Any]]) -> bool:
    """Say whether records state positives and negatives by name, or were meant to."""
    keys = dict.fromkeys(str(key) for record in records for key in record)
    if any(key in NATIVE for key in keys) or image_column(list(keys)) is None:
        return True
    others = [key for key in keys if key not in ("image", "split")]
    return not others or (len(others) <= 2 and any(close_name(key, NATIVE) for key in others))


def records_of(values: Any) -> list[dict[str, Any]] | None:
    """Return JSON that says the same as a list of records in another way; None if it is no such thing.

    Taken are `{"a.jpg": ["dog"], …}` and the columns that pandas writes by default, as
    `{"image": {"0": "a.jpg"}, "dog": {"0": 1}}`.
    """
    if are_records(values):
        return list(values)
    if not isinstance(values, dict) or not values:
        return None
    parts = list(values.values())
    if any(map(are_records, parts)):  # of another format, as COCO's without its categories
        return None
    if image_column(list(values)) is None:
        are_photos = any(str(name).lower().endswith(PHOTO_SUFFIXES) for name in values)
        if not are_photos or not all(isinstance(part, list | dict) for part in parts):
            return None
        return [{"image": name, "labels": part} for name, part in values.items()]
    if all(isinstance(part, dict) for part in parts):
        rows = list(dict.fromkeys(row for part in parts for row in part))
        return [{name: part.get(row) for name, part in values.items()} for row in rows]
    if all(isinstance(part, list) for part in parts) and len(set(map(len, parts))) == 1:
        return [dict(zip(values, row, strict=True)) for row in zip(*parts, strict=True)]
    return None


def refuse_no_table(table: Any) -> None:
    """Refuse a value that is neither a path nor a table.

    Raises:
        DataError: If it is something else.
    """
    if not isinstance(table, str | Path) and not hasattr(table, "__fspath__"):
        shown = repr(table)
        shown = shown if len(shown) < 60 else f"{shown[:60]}…"
        raise DataError(
            "A table must be a path, a DataFrame, a Hugging Face dataset or a list of dicts as "
            f"[{{'image': 'a.jpg', 'labels': ['dog']}}]; got {shown} ({type(table).__name__})."
        )
