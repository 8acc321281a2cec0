"""Choices of Label Studio, from its JSON and JSON_MIN exports."""

import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from trmml.data.readers.rows import Options, Row, Table, unmentioned_state
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

TASK_FACTS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")
"""What Label Studio writes of every task in JSON_MIN beside its data and choices."""

_ANSWERS = {
    **dict.fromkeys(("yes", "true", "present", "positive", "1"), POSITIVE),
    **dict.fromkeys(("no", "false", "absent", "negative", "0"), NEGATIVE),
    **dict.fromkeys(("unsure", "not sure", "maybe", "unknown", "unclear", "skip", "?"), UNKNOWN),
}
"""Choices that answer a question, whose name is the label."""
_PHOTO = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|avif|jp2|ppm)$", re.IGNORECASE)

Answer = list[tuple[str, str]]
"""What one annotator chose for a photo: pairs of a control's name and a choice."""


@dataclass
class _Photo:
    """A photo of a task, and each annotator's choices for it."""

    number: int
    place: str
    answers: list[Answer] = field(default_factory=list)


def read_label_studio(tasks: list[dict[str, Any]], path: Path, options: Options) -> Table:
    """Read choices of Label Studio.

    A choice that only some of the annotators of a photo made is unknown, and so is all of a photo
    that nobody annotated. Where the choices are yes and no, the name of their control is the label.

    Raises:
        DataError: If a task has no photo, or it is not clear what its choices are about.
    """
    seen = [_photos_of(task, number, path) for number, task in enumerate(tasks, start=1)]
    photo_keys = {key for places in seen for key in places}
    choice_keys = _choice_keys(tasks, photo_keys, path)
    is_about = _objects(tasks, seen)
    photos: list[_Photo] = []
    flat: dict[str, _Photo] = {}
    for number, (task, places) in enumerate(zip(tasks, seen, strict=True), start=1):
        if _is_flat(task):
            # JSON_MIN has a record for each annotator of a photo.
            place = next(iter(places.values()))
            if place not in flat:
                photos.append(flat.setdefault(place, _Photo(number, place)))
            flat[place].answers += _flat_answers(task, choice_keys)
        else:
            photos += _photos_of_task(task, number, places, is_about, path)
    names = _Names(answer for photo in photos for answer in photo.answers)
    rows = [_row(photo, names) for photo in photos]
    labels = dict.fromkeys(name for row in rows for name in row.states)
    if names.questions and len(names.questions) == len(names.choices):
        # Answers are stated either way, and what was not answered is unknown: nothing is to be asked.
        unmentioned, meaning = UNKNOWN, "Label Studio: what was not answered is unknown."
    else:
        unmentioned = unmentioned_state(options.unlabeled, path)
        meaning = (
            f"Label Studio: a choice is positive; one that was not made is {options.unlabeled}."
        )
    if choice_keys:
        meaning += f" Choices are read from {', '.join(map(repr, choice_keys))}."
    meaning += names.said()
    return Table(rows, list(labels), meaning, unmentioned, unit="task")


class _Names:
    """Which label a choice of a control is about."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self.choices: dict[str, dict[str, None]] = {}
        for control, choice in (pair for answer in answers for pair in answer):
            self.choices.setdefault(control, {})[choice] = None
        self.questions = {
            control: None
            for control, choices in self.choices.items()
            if all(choice.strip().lower() in _ANSWERS for choice in choices)
        }
        counts = Counter(
            choice
            for control, choices in self.choices.items()
            if control not in self.questions
            for choice in choices
        )
        self.shared = {choice: None for choice, count in counts.items() if count > 1}

    def states(self, answer: Answer) -> dict[str, int]:
        """Return what one annotator states; of a question that was left out, nothing is known."""
        states = dict.fromkeys(self.questions, UNKNOWN)
        for control, choice in answer:
            if control in self.questions:
                states[control] = _ANSWERS[choice.strip().lower()]
            else:
                states[f"{control}: {choice}" if choice in self.shared else choice] = POSITIVE
        return states

    def said(self) -> str:
        """Return how controls were understood, where that is more than their choices' names."""
        said = ""
        if self.questions:
            said += (
                f" Yes and no in {', '.join(map(repr, self.questions))} are states of that label."
            )
        if self.shared:
            said += (
                f" Several controls have the choices {', '.join(map(repr, self.shared))}; the control's "
                "name is part of those labels."
            )
        return said


def _row(photo: _Photo, names: _Names) -> Row:
    stated = [names.states(answer) for answer in photo.answers]
    states = {}
    for name in dict.fromkeys(name for one in stated for name in one):
        found = {one.get(name) for one in stated}
        states[name] = found.pop() if len(found) == 1 else None
    # An upload is stored under its name behind eight digits of a hash.
    plain = re.sub(r"^[0-9a-f]{8}-", "", Path(photo.place).name)
    return Row(
        photo.number,
        photo.place,
        {name: UNKNOWN if state is None else state for name, state in states.items()},
        None if stated else UNKNOWN,
        (Path(photo.place).name, plain),
    )


def _photos_of_task(
    task: dict[str, Any],
    number: int,
    places: dict[str, str],
    is_about: dict[str, str],
    path: Path,
) -> list[_Photo]:
    """Return the photos of a task of the full export that its choices are about."""
    wanted = [key for key in places if key in is_about.values()] or list(places)[:1]
    if len(_tags(task)) > 1 and len(places) > 1:  # two image tags are about two photos
        wanted = list(places)
    photos = {key: _Photo(number, places[key]) for key in wanted}
    for annotation in task.get("annotations") or task.get("completions") or ():
        if annotation.get("was_cancelled"):
            continue
        answers: dict[str, Answer] = {key: [] for key in wanted}
        for result in annotation.get("result", ()):
            if result.get("type") != "choices":
                continue
            about = str(result.get("to_name", ""))
            key = wanted[0] if len(wanted) == 1 else is_about.get(about)
            if key not in answers:
                raise DataError(
                    f"{path}, task {number}: its photos are {', '.join(map(repr, places))}, and a "
                    f"choice is about {about!r}; rename the data or the image tag so that they agree."
                )
            control = str(result.get("from_name", ""))
            answers[key] += [(control, choice) for choice in _choices(result["value"])]
        for key, answer in answers.items():
            photos[key].answers.append(answer)
    return list(photos.values())


def _objects(tasks: list[dict[str, Any]], photos: list[dict[str, str]]) -> dict[str, str]:
    """Return which data a choice is about, by its `to_name`, where tasks have several photos.

    The export has the names of the image tags and not what they show; here they are found where both
    are called alike, or end in the same number.
    """
    names = dict.fromkeys(name for task in tasks if not _is_flat(task) for name in _tags(task))
    keys = dict.fromkeys(key for places in photos for key in places)
    if len(keys) < 2:
        return {}

    def number(name: str) -> str:
        return name[len(name.rstrip(string.digits)) :]

    found = {}
    for name in names:
        alike = [key for key in keys if key.lower() == name.lower()] or [
            key for key in keys if number(key) and number(key) == number(name)
        ]
        if len(alike) == 1:
            found[name] = alike[0]
    return found


def _tags(task: dict[str, Any]) -> set[str]:
    """Return the names of the image tags that the choices of a task are about."""
    return {
        str(result.get("to_name", ""))
        for annotation in task.get("annotations") or task.get("completions") or ()
        for result in annotation.get("result", ())
        if result.get("type") == "choices"
    }


def _flat_answers(task: dict[str, Any], choice_keys: list[str]) -> list[Answer]:
    chosen = [(key, _choices(task[key])) for key in choice_keys if task.get(key)]
    return [[(key, name) for key, names in chosen for name in names]] if chosen else []


def _is_flat(task: dict[str, Any]) -> bool:
    """Say whether a task is of JSON_MIN, where data and choices lie side by side."""
    return not {"data", "annotations", "completions"} & task.keys()


def _choices(value: Any) -> list[str]:
    choices = value if isinstance(value, str) else value["choices"]
    return [choices] if isinstance(choices, str) else [str(name) for name in choices]


def _choice_keys(tasks: list[dict[str, Any]], photo_keys: set[str], path: Path) -> list[str]:
    """Return the keys of JSON_MIN that hold choices: lists of them, yes and no, or the only text.

    Raises:
        DataError: If several hold text: a choice or what else is known of a photo.
    """
    lists: dict[str, None] = {}
    texts: dict[str, set[str]] = {}
    no_choices = {"image", *TASK_FACTS, *photo_keys}
    for task in filter(_is_flat, tasks):
        for key, value in task.items():
            if isinstance(value, dict) and isinstance(value.get("choices"), list):
                lists[key] = None
            elif isinstance(value, str) and value.strip() and key not in no_choices:
                texts.setdefault(key, set()).add(value.strip().lower())
    # Of one question, several choices are a list and one is a text; yes and no are nothing else.
    questions = [key for key, said in texts.items() if said <= _ANSWERS.keys()]
    found = list(dict.fromkeys([*lists, *questions]))
    if not found and len(texts) > 1:
        raise DataError(
            f"{path}: {', '.join(map(repr, texts))} hold text, and which is a choice JSON_MIN does "
            "not tell; export as JSON, or remove what is no choice."
        )
    return found or list(texts)


def _photos_of(task: dict[str, Any], number: int, path: Path) -> dict[str, str]:
    """Return where the photos of a task lie, by their key in its data; `image` first."""
    data = task.get("data", task)
    places = {}
    for key in dict.fromkeys(("image", *data)):
        value = data.get(key)
        if isinstance(value, str) and _PHOTO.search(value):
            address = urlsplit(value)
            local = re.search(r"(?:^|&)d=([^&]+)", address.query)
            places[key] = unquote(local[1]) if local else unquote(address.path).lstrip("/")
    if not places:
        raise DataError(f"{path}, task {number}: no photo among its data.")
    return places
