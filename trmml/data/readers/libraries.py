"""Photo libraries: keywords that people gave, in the photos and in XMP files beside them."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trmml.config.base import is_name
from trmml.data.finding import find_photos
from trmml.data.libraries.keywords import Keywords, left_out, read_keywords
from trmml.data.readers.rows import Options, Row, Table, refuse_encoding, unmentioned_state
from trmml.errors import DataError
from trmml.labels import POSITIVE, UNKNOWN

MOST_SHOWN = 3


def read_library(folder: Path, options: Options) -> Table:
    """Read the keywords of the photos in a folder: those that a photo has are positive.

    Raises:
        DataError: If it holds no photo, or none of its photos has a keyword.
    """
    refuse_encoding(options, folder, "is read by its keywords")
    if options.split is not None:
        raise DataError(f"{folder} has no splits; pass the folder of one split.")
    photos = find_photos(folder)
    if not photos:
        raise DataError(f"{folder} holds no photo.")
    with ThreadPoolExecutor() as pool:  # disks on the network answer slowly, and several at once
        found = list(pool.map(read_keywords, photos))
    kept = [left_out(keywords, options.leave_out) for keywords in found]
    rows, refused = [], 0
    for photo, keywords in zip(photos, kept, strict=True):
        names = keywords.whole_paths if options.hierarchy == "path" else keywords.names
        good = [name for name in names if is_name(name)]
        refused += len(names) - len(good)
        place = photo.relative_to(folder).as_posix()
        rows.append(Row(len(rows) + 1, place, dict.fromkeys(good, POSITIVE), source=place))
    labels = sorted({name for row in rows for name in row.states})
    unmentioned = UNKNOWN
    if options.unlabeled is not None:
        unmentioned = unmentioned_state(options.unlabeled, folder)
    problems = [problem for keywords in found for problem in keywords.problems]
    if not labels:
        raise DataError(
            f"{folder}: none of its {len(photos)} photos has a keyword, in it or in a sidecar"
            f"{'' if options.leave_out == () else ', that is not left out'}.{_said(problems)}"
        )
    meaning = (
        f"Keywords: those that a photo or a sidecar of it has are positive, all others "
        f"{options.unlabeled or 'unknown'}; of hierarchies "
        f"{'the whole path' if options.hierarchy == 'path' else 'the last part'} is the label. "
        f"{sum(not row.states for row in rows)} of {len(rows)} photos have none."
    )
    meaning += _left_out_note(found, kept)
    if refused:
        meaning += f" {refused} keywords hold line ends or control characters and are left out."
    return Table(rows, labels, meaning + _said(problems), unmentioned, unit="photo")


def _left_out_note(found: list[Keywords], kept: list[Keywords]) -> str:
    gone = Counter(
        path
        for before, after in zip(found, kept, strict=True)
        for path in set(before.paths) - set(after.paths)
    )
    return f" {len(gone)} keywords ({gone.total()} times) are left out, as wanted." if gone else ""


def _said(problems: list[str]) -> str:
    if not problems:
        return ""
    shown = " ".join(problems[:MOST_SHOWN]) + (" …" if len(problems) > MOST_SHOWN else "")
    return f" {len(problems)} sidecars or photos cannot be read and say nothing: {shown}"
