"""One row for each photo: rows that name the same one are joined, unless they disagree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from trmml.data.readers.places import find_photos_of, other_names
from trmml.data.readers.rows import Row, Table
from trmml.errors import DataError
from trmml.labels import UNKNOWN


def merge_duplicates(
    table: Table, path: Path, images: Path | None
) -> tuple[list[Row], list[Path], str]:
    """Find the photos, and join the rows of each; two that state different things are an error.

    Args:
        table: What was read; may name a photo in several rows and in several ways.
        path: The table's file or folder.
        images: Folder to look in first.

    Returns:
        One row per photo, the photos, and a word on those that have another name than in the table.

    Raises:
        DataError: If photos are missing or empty, rows of one photo disagree, or two names lead to one
            photo and one of them only without its folder or hash.
    """
    named: dict[str, Row] = {}
    for row in table.rows:
        if not row.image:
            raise DataError(f"{path}, {table.unit} {row.place}: the photo is not named.")
        _join(named, str(Path(row.image)), row, table, path)  # ./a.jpg is a.jpg
    # Once more by file: a table may name one photo in two ways, and links lead to the same.
    merged: dict[Path, Row] = {}
    photos: dict[Path, Path] = {}
    guessed: set[Path] = set()
    found = find_photos_of(list(named.values()), path, images)
    for row, (photo, way) in zip(named.values(), found, strict=True):
        file, is_guess = photo.resolve(), way.is_guess
        if file in merged and (is_guess or file in guessed):
            earlier = merged[file]
            raise DataError(
                f"{path}: {table.unit}s {earlier.place} and {row.place} name {earlier.image} and "
                f"{row.image}, and for both there is only {photo}; give each a file of the name that "
                "the table has, or remove one of them."
            )
        if is_guess:
            guessed.add(file)
        photos.setdefault(file, photo)
        _join(merged, file, row, table, path)
    note = other_names(list(named.values()), found)
    return list(merged.values()), list(photos.values()), note


def _join(merged: dict[Any, Row], key: Any, row: Row, table: Table, path: Path) -> None:
    """Add what a row states to what is known of its photo."""

    def rest(row: Row) -> int:
        return table.unmentioned if row.unmentioned is None else row.unmentioned

    earlier = merged.setdefault(key, row)
    if earlier is row:
        return
    # What neither row mentions is the same in both; where a row leaves the rest open, only what
    # it states itself can disagree.
    names = row.states.keys() | (earlier.states.keys() if rest(row) != UNKNOWN else set())
    for name in sorted(names):
        first = earlier.states.get(name, rest(earlier))
        second = row.states.get(name, rest(row))
        if UNKNOWN not in (first, second) and first != second:
            places = dict.fromkeys((earlier.image, row.image))
            raise DataError(
                f"{path}: {table.unit}s {earlier.place} and {row.place} disagree about {name!r} "
                f"in {' = '.join(places)}; keep one of them."
            )
    for name, state in row.states.items():
        if state != UNKNOWN:
            earlier.states[name] = state
    if rest(earlier) == UNKNOWN:
        # A row that leaves the rest open takes nothing from one that says what it is.
        merged[key] = replace(earlier, unmentioned=rest(row))
