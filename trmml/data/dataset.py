"""One data set for all readers: photos, categories and labels in three states."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64

from trmml import labels as states
from trmml.config.base import is_name
from trmml.errors import DataError, nearest, refuse_text
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.reports.columns import first_column


@dataclass(frozen=True, eq=False)
class MultiLabelDataset:
    """Photos with partly known labels.

    Attributes:
        photos: Paths of the photos.
        labels: Labels in three states.
        category_names: What the columns of `labels` are.
        source: Where this was read from, for messages.
        interpretation: How blanks and absent labels were read, in one sentence.
        hidden_labels: The labels before some were hidden for an experiment; never trained on.
    """

    photos: tuple[Path, ...]
    labels: Int8[np.ndarray, "image category"]
    category_names: tuple[str, ...]
    source: str = "data set"
    interpretation: str = ""
    hidden_labels: Int8[np.ndarray, "image category"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check that photos, labels and names belong together."""
        shape = (len(self.photos), len(self.category_names))
        if self.labels.shape != shape:
            raise DataError(
                f"{self.source}: labels have the shape {self.labels.shape}, but there are "
                f"{shape[0]} photos and {shape[1]} categories."
            )
        if not np.isin(self.labels, (POSITIVE, NEGATIVE, UNKNOWN)).all():
            raise DataError(
                f"{self.source}: labels must be {POSITIVE} (positive), {NEGATIVE} (negative) or "
                f"{UNKNOWN} (unknown)."
            )
        for name in self.category_names:
            if not is_name(name):
                raise DataError(
                    f"{self.source}: {name!r} cannot be the name of a category; it must not be "
                    "blank, nor hold line ends and other control characters."
                )
        if len(set(self.category_names)) != shape[1]:
            raise DataError(f"{self.source}: category names must all be different.")

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.photos)

    def subset(self, positions: Int64[np.ndarray, " chosen"]) -> "MultiLabelDataset":
        """Return the photos at some positions, in that order."""
        hidden = self.hidden_labels
        return replace(
            self,
            photos=tuple(self.photos[i] for i in positions),
            labels=self.labels[positions],
            hidden_labels=None if hidden is None else hidden[positions],
        )

    def with_categories(self, names: Sequence[str]) -> "MultiLabelDataset":
        """Return the same photos with chosen categories, in that order.

        Raises:
            DataError: If a name is not among the categories.
        """
        refuse_text(names, "names")
        for name in names:
            if name not in self.category_names:
                raise DataError(
                    f"{self.source} has no category {name!r}. {nearest(name, self.category_names)}"
                )
        columns = [self.category_names.index(name) for name in names]
        hidden = self.hidden_labels
        return replace(
            self,
            labels=self.labels[:, columns],
            category_names=tuple(names),
            hidden_labels=None if hidden is None else hidden[:, columns],
        )

    def aligned_to(self, names: Sequence[str]) -> "MultiLabelDataset":
        """Return the same photos with exactly these categories; those not stated here are unknown."""
        refuse_text(names, "names")
        missing = [name for name in names if name not in self.category_names]
        blank = np.full((len(self), len(missing)), UNKNOWN, dtype=np.int8)
        hidden = self.hidden_labels
        wider = replace(
            self,
            labels=np.hstack([self.labels, blank]),
            category_names=(*self.category_names, *missing),
            hidden_labels=None if hidden is None else np.hstack([hidden, blank]),
        )
        return wider.with_categories(names)

    def hide_labels(self, fraction: float, seed: int = 0) -> "MultiLabelDataset":
        """Keep each label with probability `fraction`, for experiments; see `labels.hide_labels`."""
        kept = states.hide_labels(self.labels, fraction, seed)
        note = f"{100 * fraction:g} % of the labels kept for an experiment (seed {seed})."
        return self._with_hidden(kept, note)

    def keep_single_positive(self, seed: int = 0) -> "MultiLabelDataset":
        """Keep one positive label per photo, for experiments; see `labels.keep_single_positive`."""
        kept = states.keep_single_positive(self.labels, seed)
        return self._with_hidden(
            kept, f"One positive kept per photo for an experiment (seed {seed})."
        )

    def _with_hidden(
        self, kept: Int8[np.ndarray, "image category"], note: str
    ) -> "MultiLabelDataset":
        interpretation = f"{self.interpretation} {note}".strip()
        before = self.labels if self.hidden_labels is None else self.hidden_labels
        return replace(self, labels=kept, hidden_labels=before, interpretation=interpretation)

    def summary(self) -> "Summary":
        """Count what is known."""
        examples = tuple(self._example(i) for i in range(min(3, len(self))))
        return Summary(
            source=self.source,
            num_images=len(self),
            category_names=self.category_names,
            positives=tuple((self.labels == POSITIVE).sum(axis=0).tolist()),
            negatives=tuple((self.labels == NEGATIVE).sum(axis=0).tolist()),
            unknown=tuple((self.labels == UNKNOWN).sum(axis=0).tolist()),
            interpretation=self.interpretation,
            examples=examples,
        )

    def _example(self, position: int) -> str:
        row = self.labels[position]

        def named(state: int) -> str:
            names = [n for n, label in zip(self.category_names, row, strict=True) if label == state]
            return ", ".join(names[:4]) + (f" … ({len(names)})" if len(names) > 4 else "") or "none"

        return (
            f"{self.photos[position].name}: positive {named(POSITIVE)}; "
            f"negative {named(NEGATIVE)}; unknown {named(UNKNOWN)}"
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a data set knows, per category and in all."""

    source: str
    num_images: int
    category_names: tuple[str, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    unknown: tuple[int, ...]
    interpretation: str
    examples: tuple[str, ...]

    @property
    def known_share(self) -> float:
        """Share of the cells in which something is stated, in [0, 1]."""
        cells = self.num_images * len(self.category_names)
        return (sum(self.positives) + sum(self.negatives)) / max(cells, 1)

    @property
    def problems(self) -> tuple[str, ...]:
        """What would keep a category from being learned or measured."""
        found = []
        for name, positives, negatives in zip(
            self.category_names, self.positives, self.negatives, strict=True
        ):
            if positives == 0:
                found.append(f"{name!r} has no known positive: it cannot be learned.")
            elif negatives == 0:
                found.append(f"{name!r} has no known negative: unknown labels stand in for them.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        counts = zip(self.category_names, self.positives, self.negatives, self.unknown, strict=True)
        return {
            "source": self.source,
            "images": self.num_images,
            "known_share": round(self.known_share, 6),
            "labels": {
                name: {"positive": p, "negative": n, "unknown": u} for name, p, n, u in counts
            },
            "interpretation": self.interpretation,
            "examples": list(self.examples),
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        """Return a table for people."""
        head, *names = first_column("label", self.category_names)
        lines = [
            f"{self.source}: {self.num_images} photos, {len(self.category_names)} labels, "
            f"{100 * self.known_share:.1f} % of the cells known.",
            self.interpretation,
            *(f"  {example}" for example in self.examples),
            "",
            f"{head}  {'positive':>8}  {'negative':>8}  {'unknown':>8}",
        ]
        counts = zip(names, self.positives, self.negatives, self.unknown, strict=True)
        lines += [f"{name}  {p:>8}  {n:>8}  {u:>8}" for name, p, n, u in counts]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines)
