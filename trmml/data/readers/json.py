"""Labels in JSON: JSONL, COCO and LVIS, Label Studio."""

import io
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from trmml.data.readers.rows import (
    SPLIT_COLUMN,
    Options,
    Row,
    Table,
    refuse_encoding,
    unmentioned_state,
)
from trmml.errors import DataError, nearest
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

TASK_FACTS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")
"""What Label Studio writes of every task in JSON_MIN beside its data and choices."""


def read_jsonl(text: str, path: Path, options: Options) -> Table:
    """Read one object per line: `image`, `positive` and `negative`."""
    refuse_encoding(options, path, "is JSONL")
    split, unlabeled = options.split, options.unlabeled
    rows, names, lists_negatives = [], {}, False
    # Not splitlines: JSON strings may hold other line separators of Unicode.
    for line, record_text in enumerate(io.StringIO(text, newline=None), start=1):
        if not record_text.strip():
            continue
        record = _json_record(record_text, path, line)
        states: dict[str, int] = {}
        for key, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
            for name in _name_list(record.get(key, []), key, path, line):
                if states.get(name, state) != state:
                    raise DataError(f"{path}, line {line}: {name!r} is both positive and negative.")
                states[name] = state
        lists_negatives |= "negative" in record
        names |= dict.fromkeys(states)
        if split is None or record.get(SPLIT_COLUMN) == split:
            rows.append(Row(line, record["image"], states))
    if lists_negatives and unlabeled is None:
        meaning = "JSONL of positives and negatives; a label that is not listed is unknown."
        return Table(rows, list(names), meaning)
    meaning = f"JSONL; a label that is not listed is {unlabeled}."
    return Table(rows, list(names), meaning, unmentioned_state(unlabeled, path))


def _json_record(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=partial(_without_repeats, path, line))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line} is not JSON: {error}.") from error
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        raise DataError(f'{path}, line {line} must be an object with "image": "<path>".')
    known = ("image", "positive", "negative", SPLIT_COLUMN)
    for key in record:
        if key not in known:
            raise DataError(f"{path}, line {line}: unknown key {key!r}. {nearest(key, known)}")
    return record


def _without_repeats(path: Path, line: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DataError(f"{path}, line {line} has the key {key!r} more than once.")
    return found


def _name_list(value: Any, key: str, path: Path, line: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{path}, line {line}: {key!r} must be a list of label names.")
    return value


def read_json(text: str, path: Path, options: Options, form: str | None) -> Table:
    """Read a JSON file; `form` says whose, else its keys do."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    refuse_encoding(options, path, "is JSON")
    if options.split is not None:
        raise DataError(f"{path} has no splits; give each split a file of its own.")
    form = form or _guessed_form(values)
    try:
        if form == "coco":
            return _coco(values, path, options)
        if form == "label-studio":
            return _label_studio(values, path, options)
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not what {form} writes: {error!r}.") from error
    raise DataError(
        f"{path} is neither COCO (images, annotations, categories) nor Label Studio (a list of "
        "tasks); name the format if it is one of them."
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

    LVIS lists for every photo which categories are known to be absent; what neither has a box nor is
    listed is unknown there.
    """
    for what in ("images", "categories"):
        repeated = [i for i, n in Counter(one["id"] for one in values[what]).items() if n > 1]
        if repeated:
            raise DataError(f"{path}: several {what} have the id {repeated[0]!r}.")
    # By id, so that a training and a validation file have the same columns in whatever order they list.
    categories = sorted(values["categories"], key=lambda category: category["id"])
    names = {category["id"]: str(category["name"]) for category in categories}
    states = _coco_states(values, names, path)
    rows = [
        _coco_row(number, image, states[image["id"]])
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
    return Table(rows, list(names.values()), meaning, unmentioned, unit="image")


def _coco_states(
    values: dict[str, Any], names: dict[Any, str], path: Path
) -> dict[Any, dict[str, int]]:
    """Return by the id of the photo what boxes and, in LVIS, lists of absent categories state."""
    states: dict[Any, dict[str, int]] = {
        image["id"]: {names[absent]: NEGATIVE for absent in image.get("neg_category_ids", ())}
        for image in values["images"]
    }
    for box in values.get("annotations", ()):
        image, category = box["image_id"], box["category_id"]
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
        if states[image].get(name) == NEGATIVE:
            raise DataError(f"{path}: image {image} has a box of {name!r} and lists it as absent.")
        states[image][name] = POSITIVE
    return states


def _coco_row(number: int, image: dict[str, Any], states: dict[str, int]) -> Row:
    # LVIS names photos by their address, of which the folder and the file are kept.
    address = Path(image.get("file_name") or urlsplit(image["coco_url"]).path)
    place = image.get("file_name") or "/".join(address.parts[-2:])
    return Row(number, place, states, other_names=(address.name,))


def _label_studio(tasks: list[dict[str, Any]], path: Path, options: Options) -> Table:
    """Read choices of Label Studio, from its JSON or JSON_MIN export.

    A choice that only some of the annotators of a photo made is unknown, and so is all of a photo
    that nobody annotated.
    """
    unmentioned = unmentioned_state(options.unlabeled, path)
    photos = [_task_image(task, number, path) for number, task in enumerate(tasks, start=1)]
    choice_keys = _choice_keys(tasks, {key for key, _ in photos}, path)
    rows, names = [], {}
    for number, (task, (_, place)) in enumerate(zip(tasks, photos, strict=True), start=1):
        answers = _answers(task, choice_keys)
        counts = Counter(name for answer in answers for name in dict.fromkeys(answer))
        states = {
            name: POSITIVE if count == len(answers) else UNKNOWN for name, count in counts.items()
        }
        names |= dict.fromkeys(states)
        # An upload is stored under its name behind eight digits of a hash.
        plain = re.sub(r"^[0-9a-f]{8}-", "", Path(place).name)
        others = (Path(place).name, plain)
        rows.append(Row(number, place, states, None if answers else UNKNOWN, others))
    meaning = f"Label Studio: a choice is positive; one that was not made is {options.unlabeled}."
    if choice_keys:
        meaning += f" Choices are read from {', '.join(map(repr, choice_keys))}."
    return Table(rows, list(names), meaning, unmentioned, unit="task")


def _answers(task: dict[str, Any], choice_keys: list[str]) -> list[list[str]]:
    """Return the choices of each annotator."""
    if _is_flat(task):  # one answer
        chosen = [_flat_choices(task[key]) for key in choice_keys if task.get(key)]
        return [[name for choices in chosen for name in choices]] if chosen else []
    answers = []
    for annotation in task.get("annotations") or task.get("completions") or ():
        if annotation.get("was_cancelled"):
            continue
        results = [r for r in annotation.get("result", ()) if r.get("type") == "choices"]
        answers.append([name for r in results for name in _flat_choices(r["value"])])
    return answers


def _is_flat(task: dict[str, Any]) -> bool:
    """Say whether a task is of JSON_MIN, where data and choices lie side by side."""
    return not {"data", "annotations", "completions"} & task.keys()


def _flat_choices(value: Any) -> list[str]:
    choices = value if isinstance(value, str) else value["choices"]
    return [choices] if isinstance(choices, str) else [str(name) for name in choices]


def _choice_keys(tasks: list[dict[str, Any]], photo_keys: set[str], path: Path) -> list[str]:
    """Return the keys of JSON_MIN that hold choices: those with a list of them, or the only text.

    Raises:
        DataError: If several hold text: a choice or what else is known of a photo.
    """
    lists: dict[str, None] = {}
    texts: dict[str, None] = {}
    no_choices = {"image", *TASK_FACTS, *photo_keys}
    for task in filter(_is_flat, tasks):
        for key, value in task.items():
            if isinstance(value, dict) and isinstance(value.get("choices"), list):
                lists[key] = None
            elif isinstance(value, str) and value.strip() and key not in no_choices:
                texts[key] = None
    if not lists and len(texts) > 1:
        raise DataError(
            f"{path}: {', '.join(map(repr, texts))} hold text, and which is a choice JSON_MIN does "
            "not tell; export as JSON, or remove what is no choice."
        )
    return list(lists or texts)


def _task_image(task: dict[str, Any], number: int, path: Path) -> tuple[str, str]:
    """Return the key of a task's photo, and where it lies."""
    data = task.get("data", task)
    for key in ("image", *data):
        value = data.get(key)
        if isinstance(value, str) and re.search(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", value, re.I):
            address = urlsplit(value)
            local = re.search(r"(?:^|&)d=([^&]+)", address.query)
            return key, unquote(local[1]) if local else unquote(address.path).lstrip("/")
    raise DataError(f"{path}, task {number}: no photo among its data.")
