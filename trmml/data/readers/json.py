"""Labels in JSON: JSONL, COCO and LVIS; which reader a JSON file is for."""

import io
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trmml.data.readers.frames import read_frame
from trmml.data.readers.label_studio import read_label_studio
from trmml.data.readers.records import NATIVE, Records, are_native, records_of
from trmml.data.readers.rows import (
    SPLIT_COLUMN,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.data.readers.sides import image_column
from trmml.errors import DataError, nearest
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN


def read_jsonl(text: str, path: Path, options: Options) -> Table:
    """Read one object per line: `image`, `positive` and `negative`, or the columns of another table."""
    records = []
    # Not splitlines: JSON strings may hold other line separators of Unicode.
    for line, record_text in enumerate(io.StringIO(text, newline=None), start=1):
        if record_text.strip():
            records.append((line, _json_record(record_text, path, line)))
    objects = [record for _, record in records]
    if not are_native(objects):
        return read_frame(Records(objects), options, None, path)
    return _read_stated(records, path, options)


def _read_stated(
    records: list[tuple[int, dict[str, Any]]], path: Path, options: Options, unit: str = "line"
) -> Table:
    """Read objects that state positives and negatives by name, each with its line or other number."""
    refuse_encoding(options, path, "is JSONL")
    split, unlabeled = options.split, options.unlabeled
    rows, names, lists_negatives = [], {}, False
    for number, record in records:
        place = f"{path}, {unit} {number}"
        _require_keys(record, place)
        states: dict[str, int] = {}
        for key, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
            for name in _name_list(record.get(key, []), key, place):
                if states.get(name, state) != state:
                    raise DataError(f"{place}: {name!r} is both positive and negative.")
                states[name] = state
        lists_negatives |= "negative" in record
        names |= dict.fromkeys(states)
        if split is None or record.get(SPLIT_COLUMN) == split:
            rows.append(Row(number, record["image"], states))
    if lists_negatives and unlabeled is None:
        meaning = "JSONL of positives and negatives; a label that is not listed is unknown."
        return Table(rows, list(names), meaning, unit=unit)
    meaning = f"JSONL; a label that is not listed is {unlabeled}."
    return Table(rows, list(names), meaning, unmentioned_state(unlabeled, path), unit)


def _json_record(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=partial(_without_repeats, path, line))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise DataError(f'{path}, line {line} must be an object with "image": "<path>".')
    return record


def _require_keys(record: dict[str, Any], place: str) -> None:
    if not isinstance(record.get("image"), str):
        raise DataError(f'{place} must be an object with "image": "<path>".')
    known = ("image", "positive", "negative", SPLIT_COLUMN)
    for key in record:
        if key not in known:
            raise DataError(f"{place}: unknown key {key!r}. {nearest(key, known)}")


def _without_repeats(path: Path, line: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DataError(f"{path}, line {line} has the key {key!r} more than once.")
    return found


def _name_list(value: Any, key: str, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{place}: {key!r} must be a list of label names.")
    return value


def read_json(text: str, path: Path, options: Options, form: str | None) -> Table:
    """Read a JSON file; `form` says whose, else its keys do."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    form = form or _guessed_form(values)
    records = None if form in ("coco", "label-studio") else records_of(values)
    if records is not None and any(key in NATIVE for record in records for key in record):
        return _read_stated(list(enumerate(records, start=1)), path, options, "record")
    if records is not None and image_column(list(Records(records).column_names)) is not None:
        return read_frame(Records(records), options, form, path)
    refuse_encoding(options, path, "is JSON")
    if options.split is not None:
        raise DataError(f"{path} has no splits; give each split a file of its own.")
    try:
        if form == "coco":
            return _coco(values, path, options)
        if form == "label-studio":
            return read_label_studio(values, path, options)
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not what {form} writes: {error!r}.") from error
    raise DataError(
        f"{path} is neither COCO (images, annotations, categories), nor Label Studio (a list of "
        'tasks), nor records as [{"image": "a.jpg", "labels": ["dog"]}]; name the format if it is one '
        "of the first two."
    )


def _guessed_form(values: Any) -> str | None:
    if isinstance(values, dict) and {"images", "categories"} <= values.keys():
        return "coco"
    if isinstance(values, list) and values and isinstance(values[0], dict):
        keys = values[0].keys()
        if "data" in keys or "annotations" in keys or {"annotator", "lead_time"} & keys:
            return "label-studio"
    return None


def _coco(values: dict[str, Any], path: Path, options: Options) -> Table:
    """Read image-level labels from boxes: a category with a box, crowds counted, is positive.

    One whose every box is to be ignored is unknown. LVIS lists for every photo which categories are
    known to be absent; what neither has a box nor is listed is unknown there.
    """
    for what in ("images", "categories"):
        counts = Counter(_key(one["id"]) for one in values[what])
        repeated = [i for i, n in counts.items() if n > 1]
        if repeated:
            raise DataError(f"{path}: several {what} have the id {repeated[0]}.")
    # By id, so that a training and a validation file have the same columns in whatever order they list.
    categories = sorted(values["categories"], key=lambda category: _order(category["id"]))
    names = {_key(category["id"]): str(category["name"]) for category in categories}
    states = _coco_states(values, names, path)
    rows = [
        _coco_row(number, image, states[_key(image["id"])])
        for number, image in enumerate(values["images"], start=1)
    ]
    if any("neg_category_ids" in image for image in values["images"]):
        if options.unlabeled is not None:
            raise DataError(
                f"{path} lists the categories that are absent (LVIS); `unlabeled` does not apply."
            )
        meaning = "LVIS: a box is positive, a category listed as absent negative, others unknown."
        return Table(rows, list(names.values()), meaning, unit="image")
    unmentioned = unmentioned_state(options.unlabeled, path)
    meaning = f"COCO: a box is positive; a category without one is {options.unlabeled}."
    ignored = sum(map(_is_ignored, values.get("annotations", ())))
    if ignored:
        meaning += f" {ignored} boxes are to be ignored; alone they leave a category unknown."
    return Table(
        rows, list(names.values()), meaning, unmentioned, unit="image", has_all_labels=True
    )


def _key(identity: Any) -> str:
    """Return an id as text: some tools write "7", or 7.0, in one place and 7 in another."""
    is_whole = isinstance(identity, float) and identity.is_integer()
    return str(int(identity) if is_whole else identity).strip()


def _order(identity: Any) -> tuple[int, str]:
    """Return what sorts ids as numbers where they are some."""
    key = _key(identity)
    return (int(key), "") if key.isdecimal() else (0, key)


def _is_ignored(box: dict[str, Any]) -> bool:
    return _key(box.get("ignore", 0)).lower() in ("1", "true")


def _coco_states(
    values: dict[str, Any], names: dict[str, str], path: Path
) -> dict[str, dict[str, int]]:
    """Return by the id of the photo what boxes and, in LVIS, lists of absent categories state."""
    states: dict[str, dict[str, int]] = {
        _key(image["id"]): {
            names[_key(absent)]: NEGATIVE for absent in image.get("neg_category_ids", ())
        }
        for image in values["images"]
    }
    for box in values.get("annotations", ()):
        image, category = _key(box["image_id"]), _key(box["category_id"])
        if image not in states:
            raise DataError(
                f"{path}: annotation {box.get('id')} is of image {image}, which is not listed."
            )
        if category not in names:
            raise DataError(
                f"{path}: annotation {box.get('id')} is of category {category}, "
                "which is not listed."
            )
        name = names[category]
        if _is_ignored(box):
            states[image].setdefault(name, UNKNOWN)
            continue
        if states[image].get(name) == NEGATIVE:
            raise DataError(f"{path}: image {image} has a box of {name!r} and lists it as absent.")
        states[image][name] = POSITIVE
    return states


def _coco_row(number: int, image: dict[str, Any], states: dict[str, int]) -> Row:
    # LVIS names photos by their address, of which the folder and the file are kept.
    address = Path(image.get("file_name") or urlsplit(image["coco_url"]).path)
    place = image.get("file_name") or "/".join(address.parts[-2:])
    return Row(number, place, states, other_names=(address.name,))
