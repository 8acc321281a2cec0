"""One data set for all readers: photos, labels, and what is known of each of both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64

from trmml.config.base import is_name
from trmml.errors import DataError, nearest, refuse_text
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN, hide_labels, keep_single_positive, known_mask
from trmml.reports.columns import first_column
from trmml.reports.pages import render_page

NUM_OPEN, MOST_ROWS = 25, 1000
"""Labels of a summary that a notebook shows at once, and on request."""


# Not compared by value: two arrays have no single answer to ==.
@dataclass(frozen=True, eq=False, repr=False)
class MultiLabelDataset:
    """Photos with partly known labels.

    Attributes:
        photos: Paths of the photos.
        states: Positive, negative or unknown, of each photo and label; see `trmml.labels`.
        labels: Names of what may be in a photo; the columns of `states`.
        source: Where this was read from, for messages.
        interpretation: How blanks and absent labels were read, in one sentence.
        hidden_states: The states before some were hidden for an experiment; never trained on.
        rest: What is known, by photo, of labels that are not among `labels`: negative where somebody
            said that whatever a list of positives leaves out is. By default nothing.
    """

    photos: tuple[Path, ...]
    states: Int8[np.ndarray, "image label"]
    labels: tuple[str, ...]
    source: str = "data set"
    interpretation: str = ""
    hidden_states: Int8[np.ndarray, "image label"] | None = None
    rest: Int8[np.ndarray, " image"] | None = None

    def __post_init__(self) -> None:
        """Check that photos, states and labels belong together."""
        shape = (len(self.photos), len(self.labels))
        if self.states.shape != shape:
            raise DataError(
                f"{self.source}: states have the shape {self.states.shape}, but there are "
                f"{shape[0]} photos and {shape[1]} labels."
            )
        if not np.isin(self.states, (POSITIVE, NEGATIVE, UNKNOWN)).all():
            raise DataError(
                f"{self.source}: states must be {POSITIVE} (positive), {NEGATIVE} (negative) or "
                f"{UNKNOWN} (unknown)."
            )
        for name in self.labels:
            if not is_name(name):
                raise DataError(
                    f"{self.source}: {name!r} cannot be a label; it must not be "
                    "blank, nor hold line ends and other control characters."
                )
        if len(set(self.labels)) != shape[1]:
            raise DataError(f"{self.source}: labels must all be different.")

    def __repr__(self) -> str:
        """Return one line: where it is from, how large it is and how much is known of it."""
        cells = max(self.states.size, 1)
        known = 100 * np.count_nonzero(known_mask(self.states)) / cells
        names = ", ".join(self.labels[:3]) + (", …" if len(self.labels) > 3 else "")
        return (
            f"{type(self).__name__}({str(self.source)!r}, {len(self)} photos, {len(self.labels)} labels "
            f"({names}), {known:.1f} % of the cells known)"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table of `summary`."""
        return self.summary()._repr_html_()

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.photos)

    def subset(self, positions: Int64[np.ndarray, " chosen"]) -> "MultiLabelDataset":
        """Return the photos at some positions, in that order."""
        hidden = self.hidden_states
        return replace(
            self,
            photos=tuple(self.photos[i] for i in positions),
            states=self.states[positions],
            hidden_states=None if hidden is None else hidden[positions],
            rest=None if self.rest is None else self.rest[positions],
        )

    def with_labels(self, names: Sequence[str]) -> "MultiLabelDataset":
        """Return the same photos with chosen labels, in that order.

        Raises:
            DataError: If a name is not among the labels.
        """
        refuse_text(names, "names")
        for name in names:
            if name not in self.labels:
                raise DataError(
                    f"{self.source} has no label {name!r}. {nearest(name, self.labels)}"
                )
        columns = [self.labels.index(name) for name in names]
        hidden = self.hidden_states
        return replace(
            self,
            states=self.states[:, columns],
            labels=tuple(names),
            hidden_states=None if hidden is None else hidden[:, columns],
            rest=None,  # the labels that there are have been chosen
        )

    def aligned_to(self, names: Sequence[str]) -> "MultiLabelDataset":
        """Return the same photos with exactly these labels, in this order.

        Labels that this data set does not have are unknown in all of its photos, unless `rest` says
        more.
        """
        refuse_text(names, "names")
        missing = [name for name in names if name not in self.labels]
        blank = np.full((len(self), len(missing)), UNKNOWN, dtype=np.int8)
        if self.rest is not None:
            blank[:] = self.rest[:, None]
        hidden = self.hidden_states
        wider = replace(
            self,
            states=np.hstack([self.states, blank]),
            labels=(*self.labels, *missing),
            hidden_states=None if hidden is None else np.hstack([hidden, blank]),
        )
        return wider.with_labels(names)

    def naming(self, names: Sequence[str]) -> "MultiLabelDataset":
        """Return the same photos with these labels as well, as far as something is known of them.

        A table of positives names only labels that it has; whoever says that it leaves out what is not
        there has said so of all that a model knows.
        """
        missing = [name for name in names if name not in self.labels]
        if self.rest is None or not missing:
            return self
        note = f"{len(missing)} labels that it never names are negative."
        wider = self.aligned_to([*self.labels, *missing])
        return replace(wider, interpretation=f"{self.interpretation} {note}".strip())

    def hide_labels(self, fraction: float, seed: int = 0) -> "MultiLabelDataset":
        """Keep each known state with probability `fraction`, for experiments on missing labels.

        Args:
            fraction: Share to keep, in [0, 1].
            seed: Of the mask; the same seed hides less and less as `fraction` grows.

        Raises:
            ConfigError: If `fraction` is outside [0, 1].
        """
        kept = hide_labels(self.states, fraction, seed)
        note = f"{100 * fraction:g} % of the labels kept for an experiment (seed {seed})."
        return self._with_hidden(kept, note)

    def keep_single_positive(self, seed: int = 0) -> "MultiLabelDataset":
        """Keep one positive per photo, drawn by the seed, and make all else unknown.

        For experiments in the setting of Cole et al. (CVPR 2021).
        """
        kept = keep_single_positive(self.states, seed)
        return self._with_hidden(
            kept, f"One positive kept per photo for an experiment (seed {seed})."
        )

    def _with_hidden(self, kept: Int8[np.ndarray, "image label"], note: str) -> "MultiLabelDataset":
        interpretation = f"{self.interpretation} {note}".strip()
        # Of labels hidden twice, those that were known first are the truth to measure against.
        before = self.states if self.hidden_states is None else self.hidden_states
        return replace(
            self, states=kept, hidden_states=before, interpretation=interpretation, rest=None
        )

    def summary(self) -> "Summary":
        """Count positives, negatives and unknown states per label, and describe three photos."""
        examples = tuple(self._example(i) for i in range(min(3, len(self))))
        return Summary(
            source=self.source,
            num_images=len(self),
            labels=self.labels,
            positives=tuple((self.states == POSITIVE).sum(axis=0).tolist()),
            negatives=tuple((self.states == NEGATIVE).sum(axis=0).tolist()),
            unknown=tuple((self.states == UNKNOWN).sum(axis=0).tolist()),
            interpretation=self.interpretation,
            examples=examples,
        )

    def _example(self, position: int) -> str:
        row = self.states[position]

        def named(state: int) -> str:
            names = [n for n, found in zip(self.labels, row, strict=True) if found == state]
            return ", ".join(names[:4]) + (f" … ({len(names)})" if len(names) > 4 else "") or "none"

        return (
            f"{self.photos[position].name}: positive {named(POSITIVE)}; "
            f"negative {named(NEGATIVE)}; unknown {named(UNKNOWN)}"
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How much is known in a data set.

    Attributes:
        source: Where it was read from.
        num_images: Photos.
        labels: Names, in the order of the counts.
        positives: Photos per label in which it is known to be.
        negatives: Photos per label in which it is known not to be.
        unknown: The other photos, per label.
        interpretation: How blanks and absent labels were read.
        examples: What is known of the first photos, in words.
    """

    source: str
    num_images: int
    labels: tuple[str, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    unknown: tuple[int, ...]
    interpretation: str
    examples: tuple[str, ...]

    @property
    def known_share(self) -> float:
        """Share of the cells in which something is stated, in [0, 1]."""
        cells = self.num_images * len(self.labels)
        return (sum(self.positives) + sum(self.negatives)) / max(cells, 1)

    @property
    def problems(self) -> tuple[str, ...]:
        """What would keep a label from being learned or measured."""
        found = []
        for name, positives, negatives in zip(
            self.labels, self.positives, self.negatives, strict=True
        ):
            if positives == 0:
                found.append(f"{name!r} has no known positive: it cannot be learned.")
            elif negatives == 0:
                found.append(f"{name!r} has no known negative: unknown labels stand in for them.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        counts = zip(self.labels, self.positives, self.negatives, self.unknown, strict=True)
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
        head, *names = first_column("label", self.labels)
        lines = [
            f"{self.source}: {self.num_images} photos, {len(self.labels)} labels, "
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

    def _repr_html_(self) -> str:
        """Return the table of `str`, as a notebook shows it."""
        counts = zip(self.labels, self.positives, self.negatives, self.unknown, strict=True)
        return render_page(
            Path(__file__).with_name("summary.html.jinja"),
            summary=self,
            rows=[{"name": n, "positive": p, "negative": m, "unknown": u} for n, p, m, u in counts],
            most=max(self.num_images, 1),
            num_open=NUM_OPEN,
            most_rows=MOST_ROWS,
            problems=self.problems,
        )
