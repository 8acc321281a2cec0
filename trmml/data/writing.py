"""Writers of the two native forms: wide CSV and JSONL.

What is read again is what was written; in JSONL a label of which nothing is known has no place.
"""

import csv
import io
import json
import os
from pathlib import Path

from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.forms import guessed_form
from trmml.data.readers.rows import Options
from trmml.data.readers.sides import is_side
from trmml.errors import DataError
from trmml.files import with_home, write_text, writing_to
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

_CELLS = {POSITIVE: "1", NEGATIVE: "0", UNKNOWN: ""}


def write_dataset(
    dataset: MultiLabelDataset, path: str | Path, *, images: str | Path | None = None
) -> None:
    """Write a data set as a wide CSV or as JSONL, by the ending of the path.

    Args:
        dataset: What to write.
        path: A `.csv` or `.jsonl` file; replaced as a whole if it exists.
        images: Folder that photo paths are written relative to; by default the file's own.

    Raises:
        DataError: If the ending is another, a label cannot be a column, or a photo's name is not UTF-8.
        OutputError: If the file cannot be written.
    """
    path = with_home(path)
    base = path.parent if images is None else with_home(images)
    names = [relative_name(photo, base) for photo in dataset.photos]
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"{path}: a label table ends in .csv (wide) or .jsonl.")
    text = _wide(dataset, names) if kind == ".csv" else _jsonl(dataset, names)
    with writing_to(path):
        write_text(path, text)


def relative_name(photo: Path, base: Path) -> str:
    """Return the path of a photo from a folder, with `/`, through whatever links lie between.

    Raises:
        DataError: If the photo's name is not UTF-8.
    """
    # Where `..` leads depends on where a link points. A photo that is a link itself keeps its name.
    name = Path(os.path.relpath(photo.parent.resolve() / photo.name, base.resolve())).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The name of the photo {name!r} is not UTF-8 and cannot be written; rename the file."
        ) from error
    return name


def _wide(dataset: MultiLabelDataset, names: list[str]) -> str:
    # Reading takes blanks off names, and columns of some names for what they are called.
    for name in dataset.labels:
        is_taken = name.lower() in ("image", "split") or is_side(name)
        if not name or name != name.strip() or is_taken:
            raise DataError(f"The label {name!r} cannot be a column of a wide CSV; write .jsonl.")
    header = ["image", *dataset.labels]
    # With a label "tags" or "class" the columns would be those of another form.
    form = guessed_form(header, list(range(1, len(header))), [], Options())
    if form != "wide":
        raise DataError(
            f"With its labels as columns, {', '.join(header[1:9])}, a wide CSV would be read as "
            f"{form}; write .jsonl."
        )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for name, states in zip(names, dataset.states.tolist(), strict=True):
        writer.writerow([name, *(_CELLS[state] for state in states)])
    return buffer.getvalue()


def _jsonl(dataset: MultiLabelDataset, names: list[str]) -> str:
    lines = []
    for name, states in zip(names, dataset.states.tolist(), strict=True):
        record: dict[str, object] = {"image": name}
        for key, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
            pairs = zip(dataset.labels, states, strict=True)
            record[key] = [label for label, found in pairs if found == state]
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)
