"""What all readers of label tables share: rows with their line numbers, and the photos they name."""

from dataclasses import dataclass
from pathlib import Path

from trmml.errors import DataError
from trmml.labels import UNKNOWN

MAX_NAMED = 10


@dataclass(frozen=True)
class Row:
    """One line of a table: where it stands, which photo, and what it states by category."""

    line: int
    image: str
    states: dict[str, int]


@dataclass(frozen=True)
class Table:
    """All rows, and what a category that a row does not mention is in it."""

    rows: list[Row]
    category_names: list[str]
    interpretation: str
    unmentioned: int = UNKNOWN


def merge_duplicates(table: Table, path: Path) -> list[Row]:
    """Join rows of the same photo; two that state different things are an error."""
    merged: dict[str, Row] = {}
    for row in table.rows:
        if not row.image:
            raise DataError(f"{path}, line {row.line}: the photo is not named.")
        photo = str(Path(row.image))  # ./a.jpg is a.jpg
        earlier = merged.setdefault(photo, row)
        if earlier is row:
            continue
        for name in sorted(earlier.states.keys() | row.states.keys()):
            first = earlier.states.get(name, table.unmentioned)
            second = row.states.get(name, table.unmentioned)
            if UNKNOWN not in (first, second) and first != second:
                raise DataError(
                    f"{path}: lines {earlier.line} and {row.line} disagree about {name!r} "
                    f"in {row.image}; keep one of them."
                )
        merged[photo] = Row(earlier.line, row.image, earlier.states | row.states)
    return list(merged.values())


def find_table_photos(names: list[str], table: Path, images: str | Path | None) -> list[Path]:
    """Resolve photo paths; all that are missing or empty are named in one error."""
    folders = [table.parent]
    if images is not None:
        folders.insert(0, Path(images).expanduser())
        if not folders[0].is_dir():
            raise DataError(f"The photo folder {folders[0]} does not exist.")
    photos, missing, empty = [], [], []
    for name in names:
        for folder in folders:
            photo = folder / name
            try:
                size = photo.stat().st_size if photo.is_file() else None
            except (OSError, ValueError):
                size = None
            if size is not None:
                photos.append(photo)
                if size == 0:
                    empty.append(name)
                break
        else:
            missing.append(name)
    if missing or empty:
        looked = " and ".join(str(folder) for folder in folders)
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(names)} photos not found: {_some(missing)}")
        if empty:
            problems.append(f"{len(empty)} photos are empty (0 bytes): {_some(empty)}")
        raise DataError(f"{table}: {'; '.join(problems)}. Looked in {looked}.")
    return photos


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
