"""Labels in folders: one folder per label, in splits and wrappers as they come out of archives."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trmml.data.finding import find_photos, is_system_file
from trmml.data.readers.rows import (
    SPLIT_NAMES,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.data.readers.voc import holds_voc, read_voc
from trmml.data.spelling import spelled
from trmml.errors import DataError, nearest
from trmml.labels import POSITIVE

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet")
PHOTO_FOLDERS = ("images", "imgs", "img", "photos", "pictures", "jpegimages")
"""Folders of photos whose labels are elsewhere; what is in them does not say which label it has."""


def read_folder(folder: Path, options: Options, form: str | None) -> Table:
    """Read a folder; `form` says whose layout it has, else its contents do.

    Raises:
        DataError: If its photos have no labels, or it is not clear which.
    """
    refuse_encoding(options, folder, "is a folder")
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        raise DataError(f"{folder} is a model and no table; the model is the other argument.")
    if form == "voc" or (form is None and holds_voc(folder)):
        return read_voc(folder, options)
    inner = _inner_folders(folder)
    parts = {path.name: path for path in inner if _is_split(path, options)}
    if parts:
        return _read_splits(folder, inner, parts, options, form)
    if len(inner) == 1 and _is_wrapper(inner[0], options):
        name = inner[0].name
        table = _below(name, read_folder(inner[0], options, form))
        note = f"Everything is in the one folder {name!r}, which is no label."
        return replace(table, interpretation=f"{table.interpretation} {note}")
    if options.split is not None:
        raise DataError(f"{folder} has no splits; pass the folder of one split.")
    return _label_folders(folder, inner, options)


def read_photos(folder: Path, options: Options) -> Table:
    """Read a folder of photos of which nothing is known yet: every label of every photo is unknown.

    Raises:
        DataError: If no labels are named, or options say what tables alone have.
    """
    refuse_encoding(options, folder, "is read as photos without labels")
    if options.split is not None or options.unlabeled is not None:
        raise DataError(
            f"{folder} is read as photos without labels, so that every label is unknown; `split` and "
            "`unlabeled` do not apply."
        )
    if not options.labels:
        raise DataError(
            f"{folder} is read as photos without labels; name the labels to ask about in `labels` "
            "(--labels dog,cat)."
        )
    photos = find_photos(folder)
    places = [photo.relative_to(folder).as_posix() for photo in photos]
    rows = [Row(i, place, {}, source=place) for i, place in enumerate(places, 1)]
    meaning = "Photos without labels: nothing is known of them yet."
    return Table(rows, list(options.labels), meaning, unit="photo")


def is_without_labels(folder: Path, labels: Sequence[str]) -> bool:
    """Say whether a folder is photos alone: no table, no XML, and no folder is named like a label."""
    if _tables_in(folder) or holds_voc(folder):
        return False
    names = {spelled(name) for name in labels}
    inner = (path.parent.relative_to(folder).parts for path in find_photos(folder))
    return not any(spelled(part) in names for parts in inner for part in parts)


def _inner_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without those that systems and programs make."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not is_system_file(path.relative_to(folder))
    )


def _is_split(folder: Path, options: Options) -> bool:
    """Say whether a folder is named like a split: `train`, unless trains are a label that is read."""
    if folder.name.lower() not in SPLIT_NAMES or folder.name in (options.labels or ()):
        return False
    # Beside buses, and with photos right in it, it is the label "train".
    siblings = [path for path in _inner_folders(folder.parent) if path != folder]
    holds_folders = bool(_inner_folders(folder)) or holds_voc(folder) or bool(_tables_in(folder))
    return holds_folders or all(path.name.lower() in SPLIT_NAMES for path in siblings)


def _is_wrapper(folder: Path, options: Options) -> bool:
    """Say whether an only folder is no label: it has no photos but folders with photos in it."""
    if folder.name in (options.labels or ()):
        return False
    photos = find_photos(folder)
    return bool(photos) and all(path.parent != folder for path in photos)


def _tables_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLE_SUFFIXES
        and not is_system_file(path.relative_to(folder))
        and path.is_file()
    )


def _read_splits(
    folder: Path,
    inner: list[Path],
    parts: dict[str, Path],
    options: Options,
    form: str | None,
) -> Table:
    """Read one split of a folder, or all of them; each has the labels of all."""
    others = [path.name for path in inner if path.name not in parts and find_photos(path)]
    if others:
        raise DataError(
            f"{folder}: {', '.join(parts)} look like splits, and {', '.join(others[:8])} does not; "
            "pass a folder that holds one or the other. (What is named in `labels` (--labels) is a "
            "label.)"
        )
    if options.split is not None and options.split not in parts:
        raise DataError(f"{folder} has no split {options.split!r}. {nearest(options.split, parts)}")
    tables = {
        name: _below(name, read_folder(path, replace(options, split=None), form))
        for name, path in parts.items()
        if find_photos(path) or name == options.split
    }
    if not tables:
        raise DataError(f"{folder}: there are no photos in {', '.join(parts)}.")
    read = tables if options.split is None else {options.split: tables[options.split]}
    rows = [row for table in read.values() for row in table.rows]
    counts = ", ".join(f"{name} {len(table.rows)}" for name, table in tables.items())
    note = (
        f"All photos are taken, whatever their split ({counts})."
        if options.split is None
        else f"Of the splits ({counts}) {options.split!r} is read."
    )
    first = next(iter(read.values()))
    labels = sorted({name for table in tables.values() for name in table.labels})
    return replace(first, rows=rows, labels=labels, interpretation=f"{first.interpretation} {note}")


def _below(name: str, table: Table) -> Table:
    """Return a table whose photos are named from the folder above its own."""

    def moved(row: Row) -> Row:
        others = tuple(f"{name}/{other}" for other in row.other_names)
        source = f"{name}/{row.source}" if row.source else ""
        return replace(row, image=f"{name}/{row.image}", other_names=others, source=source)

    return replace(table, rows=[moved(row) for row in table.rows])


def _label_folders(folder: Path, labels: list[Path], options: Options) -> Table:
    """Read `label/photo.jpg`; the same file in two folders is one photo with two labels."""
    _refuse_unlabelled(folder, labels, options)
    unmentioned = unmentioned_state(options.unlabeled, folder)
    rows: dict[str, Row] = {}
    num_photos = 0
    for label in labels:
        for photo in find_photos(label):
            num_photos += 1
            # By content: cameras give the same names in every folder, and copies get new ones.
            digest = _digest(photo)
            place = photo.relative_to(folder).as_posix()
            row = rows.setdefault(digest, Row(len(rows) + 1, place, {}, source=place))
            row.states[label.name] = POSITIVE
    meaning = (
        f"Folders: a photo has the label of its folder; other labels are {options.unlabeled}. The same "
        "file in several folders has all of their labels."
    )
    if num_photos > len(rows):
        meaning += f" {num_photos - len(rows)} files are copies of others."
    return Table(
        list(rows.values()), [label.name for label in labels], meaning, unmentioned, unit="photo"
    )


def _digest(photo: Path) -> str:
    try:
        with photo.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {photo}: {error.strerror or error}.") from error


def _refuse_unlabelled(folder: Path, labels: list[Path], options: Options) -> None:
    """Refuse folders whose names are no labels."""
    tables = _tables_in(folder)
    pointer = f"it holds the table {tables[0].name}; pass {tables[0]}" if tables else ""
    if not labels:
        raise DataError(
            f"{folder} is no table: {pointer}."
            if pointer
            else f"{folder} holds no table and no folders; expected label/photo.jpg, or format= "
            "(--table-format) 'keywords' to read the photos' own keywords, or 'photos' with labels "
            "(--labels) if nothing is known of them yet."
        )
    names = {path.name.lower() for path in labels if path.name not in (options.labels or ())}
    if {"images", "labels"} <= names:
        raise DataError(
            f"{folder} holds images/ and labels/, as for YOLO, which is not read; convert it to COCO's "
            "JSON or to VOC, or name the folders in `labels` (--labels) if they are labels."
        )
    if names and names <= {*PHOTO_FOLDERS, *SPLIT_NAMES}:
        way_out = (
            pointer or "pass the table with their labels, and this folder as `images` (--images)"
        )
        raise DataError(
            f"{folder}: the photos in {', '.join(path.name for path in labels)} have no folder per "
            f"label; {way_out}. If these are labels, name them in `labels` (--labels)."
        )
    deeper: Callable[[Path], bool] = holds_voc
    if any(map(deeper, labels)):
        found = [path.name for path in labels if deeper(path)]
        raise DataError(
            f"{folder}: {', '.join(found)} hold VOC's XML and are no labels; pass one of them."
        )
