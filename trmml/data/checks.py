"""What is wrong with a data set before anybody trains on it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from trmml.config.groups import TrainingConfig
from trmml.data.dataset import MultiLabelDataset, Summary
from trmml.data.duplicates import Copies, NearDuplicate, copies_in, near_duplicates, opened
from trmml.data.spelling import looks
from trmml.data.splits import photos_in_both, split_dataset
from trmml.errors import DataError, nearest
from trmml.labels import NEGATIVE, POSITIVE
from trmml.reports.numbers import first_of

MOST_SHOWN = 20


class Rule(NamedTuple):
    """A statement about two labels that holds in every photo; `first implies second`, for instance."""

    first: str
    kind: Literal["implies", "excludes"]
    second: str

    def __str__(self) -> str:
        """Return the rule as it is written."""
        return f"{self.first} {self.kind} {self.second}"


class Contradiction(NamedTuple):
    """A photo whose labels break a rule."""

    photo: Path
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What is wrong or doubtful in a data set, found before training.

    Attributes:
        summary: Counts per label.
        unreadable: Photos that cannot be opened, with the reason.
        split_problem: Why these are no training and validation photos, if they are not.
        val_gaps: What the validation photos do not tell of the labels.
        similar_names: Labels that differ by case, spacing or plural only.
        contradictions: Photos that break a declared rule.
        near_duplicates: Photos that are in training and validation at once.
        copies: Photos that are the same file, those whose labels disagree first.
    """

    summary: Summary
    unreadable: tuple[str, ...]
    split_problem: str | None
    val_gaps: tuple[str, ...]
    similar_names: tuple[tuple[str, ...], ...]
    contradictions: tuple[Contradiction, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    copies: tuple[Copies, ...] = ()

    @property
    def num_learnable(self) -> int:
        """Labels with a known positive."""
        return sum(count > 0 for count in self.summary.positives)

    @property
    def is_accepted(self) -> bool:
        """Whether `trmml finetune` with its default settings would take the data set as it is.

        The function `finetune` only warns of photos that are in training and validation.
        """
        return not self.problems and 0 not in self.summary.positives

    @property
    def problems(self) -> list[str]:
        """What `finetune` would refuse, beside labels that cannot be learned."""
        return [*self.unreadable, *([self.split_problem] if self.split_problem else [])]

    @property
    def warnings(self) -> list[str]:
        """What `finetune` would take and a person should look at."""
        found = list(self.val_gaps)
        found += [f"similar labels: {', '.join(names)}" for names in self.similar_names]
        found += [f"{item.photo} breaks the rule: {item.rule}" for item in self.contradictions]
        found += list(map(str, self.copies[:MOST_SHOWN]))
        if len(self.copies) > MOST_SHOWN:
            found.append(
                f"{len(self.copies) - MOST_SHOWN} more photos that are there several times"
            )
        pairs = [f"{pair.train} looks like {pair.val}" for pair in self.near_duplicates]
        if len(pairs) > MOST_SHOWN:
            pairs[MOST_SHOWN:] = [f"{len(pairs) - MOST_SHOWN} more that look alike"]
        return found + pairs

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return self.summary.to_dict() | {
            "learnable_labels": self.num_learnable,
            "accepted": self.is_accepted,
            "unreadable": list(self.unreadable),
            "split_problem": self.split_problem,
            "validation_gaps": list(self.val_gaps),
            "similar_names": [list(names) for names in self.similar_names],
            "contradictions": [
                {"photo": str(item.photo), "rule": str(item.rule)} for item in self.contradictions
            ],
            "near_duplicates": [
                {"train": str(pair.train), "val": str(pair.val)} for pair in self.near_duplicates
            ],
            "copies": [
                {"photos": list(map(str, item.photos)), "disagree": list(item.disagree)}
                for item in self.copies
            ],
        }

    def __str__(self) -> str:
        """Return a report for people."""
        lines = [str(self.summary)]
        lines += [f"problem: {reason}" for reason in self.problems]
        lines += [f"look at: {warning}" for warning in self.warnings]
        num_labels = len(self.summary.labels)
        verdict = "would take" if self.is_accepted else "would refuse"
        lines.append(
            f"{self.num_learnable} of {num_labels} labels can be learned; with its default settings "
            f"finetune {verdict} this table."
        )
        return "\n".join(lines)


def check_dataset(
    dataset: MultiLabelDataset,
    *,
    val: MultiLabelDataset | None = None,
    rules: Sequence[str] = (),
    open_photos: bool = True,
    progress: bool = False,
) -> DataCheck:
    """Look for damaged photos, photos on both sides of a split, doubtful names and broken rules.

    Args:
        dataset: Training photos.
        val: Validation photos, which must have no others' labels and no training photos among them;
            by default, whether some can be held out is tried as `finetune` does it.
        rules: `a implies b` or `a excludes b`, labels by name.
        open_photos: Whether to open every photo, for damaged ones and near-duplicates.
        progress: Whether to show how far it is.

    Raises:
        DataError: If a rule has another form or names no label.
    """
    parsed = [parsed_rule(text, dataset.labels) for text in rules]
    reasons: list[str] = []
    duplicates: tuple[NearDuplicate, ...] = ()
    if open_photos:
        reasons, hashes = opened(dataset.photos, progress)
        if val is not None:
            more, val_hashes = opened(val.photos, progress)
            reasons += more
            duplicates = near_duplicates(dataset.photos, hashes, val.photos, val_hashes)
    return DataCheck(
        summary=dataset.summary(),
        unreadable=tuple(reasons),
        split_problem=_split_problem(dataset, val),
        val_gaps=() if val is None else _gaps(dataset, val),
        similar_names=similar_names(dataset.labels),
        contradictions=tuple(found for rule in parsed for found in _broken(dataset, rule)),
        near_duplicates=duplicates,
        copies=copies_in(dataset) if open_photos else (),
    )


def similar_names(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names that look alike, or differ by case, spacing or plural only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        words = re.sub(r"[\s_-]+", " ", looks(name).casefold())
        # Endings only: "glass" stays, and that "bus" becomes "bu" does no harm to a comparison.
        singular = re.sub(r"ies$", "y", words)
        singular = re.sub(r"(?<=[xz])es$|(?<=[sc]h)es$|(?<=[^s])s$", "", singular)
        groups.setdefault(singular, []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _split_problem(dataset: MultiLabelDataset, val: MultiLabelDataset | None) -> str | None:
    if val is None:
        # The very split that finetune makes by default, so that the two cannot disagree.
        defaults = TrainingConfig()
        try:
            split_dataset(dataset, defaults.val_fraction, defaults.seed)
        except DataError as error:
            return str(error)
        return None
    shared = photos_in_both(dataset, val)
    if shared:
        return f"{shared} photos are for training and for validation."
    others = [repr(name) for name in val.labels if name not in dataset.labels]
    if others:
        return (
            f"{val.source} has labels that {dataset.source} does not have: {first_of(others)}; rename "
            "what is the same, or name the labels to use with `labels` (--labels)."
        )
    return None


def _gaps(dataset: MultiLabelDataset, val: MultiLabelDataset) -> tuple[str, ...]:
    """Say of which labels the validation photos know nothing, or no positive."""
    summary = val.summary()
    positives = dict(zip(val.labels, summary.positives, strict=True))
    negatives = dict(zip(val.labels, summary.negatives, strict=True))
    silent = [n for n in dataset.labels if not positives.get(n, 0) + negatives.get(n, 0)]
    absent = [n for n in dataset.labels if n not in silent and not positives[n]]
    found = []
    if silent:
        found.append(f"the {len(val)} validation photos say nothing of {first_of(silent)}")
    if absent:
        found.append(
            f"the {len(val)} validation photos have no known positive of {first_of(absent)}"
        )
    return tuple(found)


def parsed_rule(text: str, names: tuple[str, ...]) -> Rule:
    """Read `a implies b` or `a excludes b`.

    Raises:
        DataError: If a rule has another form or names no label.
    """
    match = re.fullmatch(r"\s*(.+?)\s+(implies|excludes)\s+(.+?)\s*", text)
    if not match:
        raise DataError(f"The rule {text!r} must be `a implies b` or `a excludes b`.")
    first, kind, second = match.groups()
    for name in (first, second):
        if name not in names:
            raise DataError(f"The rule {text!r} names no label: {name!r}. {nearest(name, names)}")
    return Rule(first, "implies" if kind == "implies" else "excludes", second)


def _broken(dataset: MultiLabelDataset, rule: Rule) -> list[Contradiction]:
    first, second = (dataset.labels.index(n) for n in (rule.first, rule.second))
    unwanted = NEGATIVE if rule.kind == "implies" else POSITIVE
    rows = (dataset.states[:, first] == POSITIVE) & (dataset.states[:, second] == unwanted)
    return [Contradiction(dataset.photos[i], rule) for i in np.flatnonzero(rows)]
