"""Columns beside photo and labels: the split of a row, numbers of rows and people, and their like."""

import re
from collections.abc import Sequence

from trmml.data.readers.rows import SPLIT_COLUMN, SPLIT_NAMES
from trmml.labels import BLANK_WORDS, LABEL_ENCODINGS

_SPLIT_COLUMNS = ("subset", "set", "partition", "phase", "usage", "data_split", "dataset_split")
"""Columns that are one of the split if they hold names of splits; else they may be labels."""
_FLAGS = {
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), ("train", "valid")),
    "is_test": ("train", "test"),
    **dict.fromkeys(("is_train", "is_training"), ("valid", "train")),
}
"""The splits of rows for which a column says no, and of those for which it says yes."""
_SIDES = re.compile(r"(k?fold(_?id)?|index|idx|id|row|row_(id|number)|unnamed(_\d+)?|width|height)")
_DOUBTED = re.compile(
    r"(.*_)?(id|uid|patient|subject|sex|gender|age|year)(_.*)?|set|subset|partition"
)

_IMAGE_COLUMNS = (
    *(
        "image",
        "filename",
        "file_name",
        "file",
        "path",
        "photo",
        "image_path",
        "imageid",
        "image_id",
    ),
    *(
        "fname",
        "image_name",
        "image_file",
        "image_filename",
        "img",
        "img_path",
        "img_name",
        "img_file",
    ),
    *("img_id", "imagepath", "imagename", "imgpath", "filepath", "file_path", "photo_path"),
    *("photo_name", "photo_id", "picture", "pic", "images", "name", "id"),
)
"""Names of the column of the photo. Where a table has several, the first one here is it: a path says
more than an id."""
_FAINT = ("images", "name", "id", "pic", "picture")


def image_column(header: Sequence[str]) -> int | None:
    """Return the position of the column that names the photo, if there is one."""
    names = [plain(name) for name in header]
    return next((names.index(name) for name in _IMAGE_COLUMNS if name in names), None)


def is_faint(name: str) -> bool:
    """Say whether a column of the photo could as well be something else, so that it is to be said."""
    return plain(name) in _FAINT


def plain(name: str) -> str:
    """Return a column's name in lower case, with `_` for whatever else separates its words."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def is_side(name: str) -> bool:
    """Say whether a column of this name is left out, unless it is named as a label."""
    return plain(name) in _FLAGS or _SIDES.fullmatch(plain(name)) is not None


def sounds_like_a_side(name: str) -> bool:
    """Say whether a column may say something else of a photo than what is in it."""
    return _DOUBTED.fullmatch(plain(name)) is not None


def may_be_split(name: str) -> bool:
    """Say whether a column of this name may say which split a row is of; its cells decide."""
    return plain(name) in (SPLIT_COLUMN, *_SPLIT_COLUMNS, *_FLAGS)


def split_names(name: str, cells: Sequence[str]) -> list[str] | None:
    """Return the split of each row, if a column of this name and these cells says it.

    `split` itself always does; `subset` and its like do if all their cells name splits; `is_valid` and
    its like if all are yes or no.
    """
    column = plain(name)
    values = [cell.strip() for cell in cells]
    if name == SPLIT_COLUMN:
        return values
    known = {value.lower() for value in values} - set(BLANK_WORDS)
    if column in (SPLIT_COLUMN, *_SPLIT_COLUMNS) and known and known <= set(SPLIT_NAMES):
        return values
    states = LABEL_ENCODINGS["1/0/blank"]
    if column in _FLAGS and known and known <= states.keys():
        no, yes = _FLAGS[column]
        return [(no, yes, "")[states[value.lower()]] for value in values]
    return None
