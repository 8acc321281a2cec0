"""Where the photos of a table lie: under the names that it has, or under the one that these can mean."""

import difflib
import itertools
import os
import re
import unicodedata
from enum import Enum
from functools import cached_property
from pathlib import Path, PurePosixPath

from trmml.data.finding import OTHER_SUFFIXES, PHOTO_SUFFIXES, is_system_file
from trmml.data.readers.rows import MAX_NAMED, Row
from trmml.errors import DataError
from trmml.files import is_folder

GUESSED_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Tried for a photo that is named without one, before its folder is looked through."""
MOST_FILES = 200_000
"""Of a folder that is looked through; it may be a whole disk."""
MOST_COMPARED = 20_000
"""Names among which the nearest to a missing one is looked for."""


class Way(Enum):
    """How a photo was found."""

    exact = "under its name"
    other = "under another name that the table has for it"
    slashes = "with / for \\"
    folder = "without the folders of another machine"
    ending = "with an ending"
    spelling = "with another ending or other capitals"
    number = "by its number, written otherwise"

    @property
    def is_guess(self) -> bool:
        """Whether the photo's own name leads to another file, or to none."""
        return self not in (Way.exact, Way.slashes, Way.ending)


Found = tuple[Path, Way]


def find_photos_of(rows: list[Row], table: Path, images: Path | None) -> list[Found]:
    """Find each row's photo.

    Raises:
        DataError: If photos are missing or empty; all are counted, and the first ones named.
    """
    folders = [table if table.is_dir() else table.parent]
    if images is not None:
        folders.insert(0, images)
        if not is_folder(folders[0]):
            raise DataError(f"The photo folder {folders[0]} does not exist.")
    listings = [_Listing(folder) for folder in folders]
    photos, missing, empty, hints = [], [], [], []
    for row in rows:
        found = _by_name(row, folders) or _by_likeness(row, listings)
        if not isinstance(found, tuple):
            missing.append(row.image)
            hints.append(found)
            continue
        photos.append(found)
        # What a broken download leaves; named here with all others, before any work.
        if found[0].stat().st_size == 0:
            empty.append(row.image)
    if missing or empty:
        looked = " and ".join(str(folder.resolve()) for folder in folders)
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(rows)} photos not found: {_some(missing)}")
        if empty:
            problems.append(f"{len(empty)} photos are empty (0 bytes): {_some(empty)}")
        hint = next((hint for hint in hints if hint), "") or _nearest_file(missing, listings)
        # Where most are found, the folder is right.
        gone = "remove the rows of those, or " if len(photos) > len(missing) else ""
        raise DataError(
            f"{table}: {'; '.join(problems)}. {hint}Looked in {looked}; {gone}name another folder with "
            "`images` (--images)."
        )
    return photos


def other_names(rows: list[Row], found: list[Found]) -> str:
    """Say how many photos have another name than in the table, with an example of each kind."""
    parts = []
    for way in (Way.slashes, Way.folder, Way.ending, Way.spelling, Way.number):
        those = [(row, photo) for row, (photo, how) in zip(rows, found, strict=True) if how is way]
        if those:
            row, photo = those[0]
            parts.append(f"{len(those)} {way.value} ({row.image!r} is {photo.name})")
    return f"Photos found by another name than the table has: {', '.join(parts)}." if parts else ""


def _by_name(row: Row, folders: list[Path]) -> Found | None:
    """Look for a row's photo under its names; without an ending also under usual ones."""
    names = dict.fromkeys([row.image, *row.other_names])
    # macOS takes names apart into letters and accents, other systems leave them together.
    forms = [unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")]
    others = {_composed(name) for name in row.other_names} - {_composed(row.image)}
    for folder in folders:
        for name in dict.fromkeys([*names, *forms]):
            if _is_file(folder / name):
                return folder / name, Way.other if _composed(name) in others else Way.exact
        if not Path(row.image).suffix:
            there = [folder / f"{row.image}{suffix}" for suffix in GUESSED_SUFFIXES]
            there = [photo for photo in there if _is_file(photo)]
            if len(there) == 1:
                return there[0], Way.ending
    return None


def _by_likeness(row: Row, listings: "list[_Listing]") -> Found | str:
    """Look for the one file that a row's name can mean; a hint if there are several, or none."""
    name = row.image.replace("\\", "/")
    # From another machine: of its folders the last ones may be here, too.
    is_absolute = re.match(r"([A-Za-z]:)?/", name) is not None
    parts = PurePosixPath(re.sub(r"^[A-Za-z]:", "", name)).parts
    parts = parts[1:] if parts[:1] == ("/",) else parts
    tails = ["/".join(parts[i:]) for i in range(len(parts) if is_absolute else 1)]
    for tail in filter(None, tails):
        for listing in listings:
            if _is_file(listing.folder / tail):
                return listing.folder / tail, Way.folder if is_absolute else Way.slashes
    for tail in filter(None, tails):
        for listing in listings:
            for way, files in listing.like(tail):
                if len(files) == 1:
                    return listing.folder / files[0], way
                if files:
                    return f"{row.image!r} may be {' or '.join(files[:4])}: say which. "
    return ""


class _Listing:
    """The photos below a folder, looked through when the first one is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def names(self) -> list[str]:
        """Paths from the folder, with `/`."""
        found = (
            Path(place, name).relative_to(self.folder)
            for place, _, files in os.walk(self.folder)
            for name in files
            if name.lower().endswith((*PHOTO_SUFFIXES, *OTHER_SUFFIXES))
        )
        files = itertools.islice(found, MOST_FILES)
        return sorted(path.as_posix() for path in files if not is_system_file(path))

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.names:
            for key in {_without_ending(name), _numbered(name)}:
                found.setdefault(key, []).append(name)
        return found

    def like(self, name: str) -> list[tuple[Way, list[str]]]:
        """Return the files that a name can mean, the likeliest way first."""
        key = _without_ending(name)
        has_ending = key != _folded(name)
        way = Way.spelling if has_ending else Way.ending
        same = [file for file in self._by_key.get(key, []) if _without_ending(file) == key]
        found = [(way, same)]
        if _numbered(name) != key:
            found.append((Way.number, self._by_key.get(_numbered(name), [])))
        return found


def _without_ending(name: str) -> str:
    folded = _folded(name)
    ending = next((s for s in (*PHOTO_SUFFIXES, *OTHER_SUFFIXES) if folded.endswith(s)), "")
    return folded.removesuffix(ending)


def _numbered(name: str) -> str:
    """Return a name without ending, and a number as programs may write it: 17 for 000017 and 17.0."""
    key = _without_ending(name)
    folder, slash, stem = key.rpartition("/")
    if re.fullmatch(r"[0-9]{1,30}(\.0)?", stem) is None:
        return key
    return f"{folder}{slash}#{int(stem.removesuffix('.0'))}"


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _nearest_file(missing: list[str], listings: list[_Listing]) -> str:
    """Return a sentence that names the file whose name is most like the first missing one."""
    if not missing:
        return ""
    wanted = missing[0].replace("\\", "/")
    names = [name for listing in listings for name in listing.names[:MOST_COMPARED]]
    by_key = {_without_ending(name): name for name in names}
    # Perhaps the folder alone is another.
    last = wanted.rsplit("/", 1)[-1]
    near = [name for name in names if name.rsplit("/", 1)[-1] == last]
    if not near:
        close = difflib.get_close_matches(_without_ending(wanted), by_key, n=1)
        near = [by_key[key] for key in close]
    return f"The file nearest to {missing[0]!r} is {near[0]!r}. " if near else ""


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
