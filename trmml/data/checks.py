"""What is wrong with a data set before anybody trains on it."""

import contextlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trmml.config.groups import TrainingConfig
from trmml.data.dataset import MultiLabelDataset, Summary
from trmml.data.photos import load_photo
from trmml.data.spelling import looks
from trmml.data.splits import photos_in_both, split_dataset
from trmml.errors import ArtifactError, DataError, ImageError, nearest
from trmml.files import sha256_of
from trmml.labels import NEGATIVE, POSITIVE
from trmml.reports.progress import followed

MOST_SHOWN = 20
HASHED_SIDE = 36
"""Side at which photos are decoded for their hash, which is of 9 × 8 means."""
MOST_BITS_APART = 4
"""Of 64: photos whose hashes differ in so many bits or fewer count as the same picture."""

_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


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


class Copies(NamedTuple):
    """Photos of one table that are the same file under several names."""

    photos: tuple[Path, ...]
    disagree: tuple[str, ...]
    """Labels that one of them has as positive and another as negative."""

    def __str__(self) -> str:
        """Return what is wrong with them."""
        same = f"{' = '.join(map(str, self.photos))}: the same photo"
        names = ", ".join(map(repr, self.disagree[:4])) + (" …" if len(self.disagree) > 4 else "")
        return f"{same}, and the rows disagree about {names}" if self.disagree else same


class NearDuplicate(NamedTuple):
    """A training photo that looks like a validation photo."""

    train: Path
    val: Path


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What is wrong or doubtful in a data set, found before training.

    Attributes:
        summary: Counts per label.
        unreadable: Photos that cannot be opened, with the reason.
        split_problem: Why these are no training and validation photos, if they are not.
        similar_names: Labels that differ by case, spacing or plural only.
        contradictions: Photos that break a declared rule.
        near_duplicates: Photos that are in training and validation at once.
        copies: Photos that are the same file, those whose labels disagree first.
    """

    summary: Summary
    unreadable: tuple[str, ...]
    split_problem: str | None
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
        found = [f"similar labels: {', '.join(names)}" for names in self.similar_names]
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
        val: Validation photos, to look for training photos among them; by default, whether some can
            be held out is tried as `finetune` does it.
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
        reasons, hashes = _opened(dataset.photos, progress)
        if val is not None:
            more, val_hashes = _opened(val.photos, progress)
            reasons += more
            duplicates = _near(dataset.photos, hashes, val.photos, val_hashes)
    return DataCheck(
        summary=dataset.summary(),
        unreadable=tuple(reasons),
        split_problem=_split_problem(dataset, val),
        similar_names=similar_names(dataset.labels),
        contradictions=tuple(found for rule in parsed for found in _broken(dataset, rule)),
        near_duplicates=duplicates,
        copies=_copies(dataset) if open_photos else (),
    )


def _copies(dataset: MultiLabelDataset) -> tuple[Copies, ...]:
    """Return photos with the same bytes; by size first, so that few files are read as a whole."""
    by_size: dict[int, list[int]] = {}
    for i, photo in enumerate(dataset.photos):
        with contextlib.suppress(OSError):  # which is said of photos that cannot be opened
            by_size.setdefault(photo.stat().st_size, []).append(i)
    by_content: dict[str, list[int]] = {}
    for i in (i for alike in by_size.values() if len(alike) > 1 for i in alike):
        with contextlib.suppress(ArtifactError):
            by_content.setdefault(sha256_of(dataset.photos[i]), []).append(i)
    found = []
    for rows in (rows for rows in by_content.values() if len(rows) > 1):
        states = dataset.states[rows]
        both = (states == POSITIVE).any(axis=0) & (states == NEGATIVE).any(axis=0)
        names = tuple(dataset.labels[i] for i in np.flatnonzero(both))
        found.append(Copies(tuple(dataset.photos[i] for i in rows), names))
    return tuple(sorted(found, key=lambda item: not item.disagree))


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


def photo_hash(photo: Image.Image) -> UInt8[np.ndarray, "8"] | None:
    """Return 64 bits that stay nearly the same when a photo is resized or saved again.

    A difference hash: whether each of 8 × 8 grey cells is darker than its right neighbour. None for a
    picture without contrast, whose bits would say nothing.
    """
    grey = np.asarray(photo.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    # Noise of the compression would decide the bits of a plain wall, and make all walls alike.
    if grey.max() - grey.min() < 8:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1])


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
    return f"{shared} photos are for training and for validation." if shared else None


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


def _opened(
    photos: Sequence[Path], progress: bool
) -> tuple[list[str], list[UInt8[np.ndarray, "8"] | None]]:
    def look(path: Path) -> tuple[str | None, UInt8[np.ndarray, "8"] | None]:
        try:
            return None, photo_hash(load_photo(path, HASHED_SIDE))
        except ImageError as error:
            return str(error), None

    # Threads and not processes: Pillow lets go of Python's lock while it decodes.
    with ThreadPoolExecutor() as pool:
        looked = pool.map(look, photos)
        found = list(followed(looked, "photos opened", len(photos), show=progress))
    return [reason for reason, _ in found if reason is not None], [bits for _, bits in found]


def _near(
    photos: Sequence[Path],
    hashes: list[UInt8[np.ndarray, "8"] | None],
    val_photos: Sequence[Path],
    val_hashes: list[UInt8[np.ndarray, "8"] | None],
) -> tuple[NearDuplicate, ...]:
    rows = [i for i, bits in enumerate(hashes) if bits is not None]
    if not rows:
        return ()
    known = np.stack([bits for bits in hashes if bits is not None])
    pairs = []
    for photo, bits in zip(val_photos, val_hashes, strict=True):
        if bits is None:
            continue
        # One row of the table of all pairs at a time: as a whole it would not fit in memory.
        apart = _BITS[known ^ bits].sum(axis=1)
        pairs += [
            NearDuplicate(photos[rows[i]], photo)
            for i in np.flatnonzero(apart <= MOST_BITS_APART)
            if photos[rows[i]] != photo  # which is another problem, and named as such
        ]
    return tuple(pairs)
