"""What a model says about one photo."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64
from PIL import Image

from trmml.errors import ConfigError, DependencyError, nearest
from trmml.files import with_home, write_atomically, writing_to
from trmml.matcher.notebook import prediction_html
from trmml.reports import drawing

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_OVERLAYS = 12
"""In a notebook, which keeps the pictures of every cell."""
MAX_NAME_BYTES = 100
"""Of a photo's or a label's part of a file name; file systems take 255 for the whole."""


class Tag(NamedTuple):
    """A label that was found, with its score in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Mapping[str, float]):
    """Scores of all labels for one photo: a mapping from label to score, in the order of the labels.

    Attributes:
        labels: Label names.
        scores: Their scores, in [0, 1]; independent of each other, they do not sum to 1.
        thresholds: The score from which each label counts as present.
        source: What the photo came from, if it came from a path.
        error: Why the photo could not be read, if so; the scores are then NaN.
        max_positive: Largest number of labels that `positive` returns, if limited.
    """

    labels: tuple[str, ...]
    scores: Float32[np.ndarray, " label"]
    thresholds: Float32[np.ndarray, " label"]
    source: str | None = None
    error: str | None = None
    max_positive: int | None = None
    _evidence: Float[np.ndarray, "label row column"] | None = field(default=None, repr=False)
    _photo: Image.Image | None = field(default=None, repr=False)

    @classmethod
    def unread(
        cls, labels: tuple[str, ...], thresholds: Sequence[float], max_positive: int | None
    ) -> "Prediction":
        """Return the prediction of a photo before it is read: every score is NaN."""
        scores = np.full(len(labels), np.nan, dtype=np.float32)
        return cls(
            labels, scores, np.array(thresholds, dtype=np.float32), max_positive=max_positive
        )

    @property
    def positive(self) -> list[Tag]:
        """Labels whose score reaches their threshold, best first."""
        order = np.argsort(-self.scores, kind="stable")
        reached = order[(self.scores >= self.thresholds)[order]]  # NaN reaches nothing
        return self._tags(reached[: self.max_positive])

    def top(self, k: int) -> list[Tag]:
        """Return the k labels with the highest scores, whatever their thresholds."""
        return self._tags(np.argsort(-self.scores, kind="stable")[:k])

    def __getitem__(self, label: str) -> float:
        """Return the score of a label.

        Raises:
            KeyError: If the model has no such label; labels go by name and not by number.
        """
        return float(self.scores[self._index(label)])

    def __iter__(self) -> Iterator[str]:
        """Return the labels, in the order of the model."""
        return iter(self.labels)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        """Say whether the model has a label, whatever its score."""
        return label in self.labels

    def __eq__(self, other: object) -> bool:
        """Say whether it is the very same one: equal scores do not make two photos one."""
        return self is other

    def __hash__(self) -> int:
        """Return a hash for `==`."""
        return id(self)

    def __bool__(self) -> bool:
        """Return True, as for any prediction, whatever was found; `positive` says what was."""
        return True

    def __repr__(self) -> str:
        """Return what `str` says, in short, and how many labels there are."""
        said = f"error={self.error!r}" if self.error is not None else self._brief()
        source = f"{self.source!r}, " if self.source else ""
        return f"{type(self).__name__}({source}{said}, {len(self.labels)} labels)"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: photo, tags and nearest labels, and heatmaps if it holds them.

        The photo is the one that it holds, or else what lies at `source`.
        """
        tags, small = [tag.label for tag in self.positive], self.shrunk()
        has_heatmaps = self._evidence is not None and self._photo is not None
        explained = (tags or [tag.label for tag in self.top(1)]) if has_heatmaps else []
        return prediction_html(
            self,
            dict(zip(self.labels, self.thresholds.tolist(), strict=True)),
            tags,
            photo=small._photo,
            overlays={label: small.overlay(label) for label in explained[:MOST_OVERLAYS]},
            source=self.source,
            error=self.error,
        )

    def heatmap(self, label: str) -> Float[np.ndarray, "height width"]:
        """Return what in the photo speaks for a label: evidence at its size, scaled to [0, 1].

        See `TextRegionMatcher.evidence`. The grid of patches is coarse: this is no segmentation.

        Raises:
            KeyError: If the model has no such label.
            ConfigError: If the prediction was made without `heatmaps=True`, or by text-image
                matching, which has no regions.
        """
        index = self._index(label)
        if self._evidence is None or self._photo is None:
            raise ConfigError(
                "This prediction holds no evidence; predict with heatmaps=True, and with a "
                "model that matches text with regions or patches."
            )
        return drawing.heatmap(self._evidence[index], *self._photo.size)

    def overlay(self, label: str) -> Image.Image:
        """Return the photo with the label's heatmap over it, at its size; errors as `heatmap`."""
        heat = self.heatmap(label)
        assert self._photo is not None  # heatmap has checked it
        return drawing.overlay(self._photo, heat)

    def contact_sheet(self) -> Image.Image:
        """Return one picture of the photo and the overlays of its positive labels.

        Without a positive label it shows the nearest one. Errors as `heatmap`.
        """
        small, tags = self.shrunk(), self.positive or self.top(1)
        panels = [
            drawing.Panel(small.overlay(tag.label), tag.label, f"{tag.score:.2f}") for tag in tags
        ]
        assert small._photo is not None  # overlay has checked it
        count = f"{len(self.positive)} of {len(self.labels)} labels"
        return drawing.contact_sheet([drawing.Panel(small._photo, count, has_scale=False), *panels])

    def save_heatmaps(
        self, folder: str | Path, name: str | None = None, taken: set[str] | None = None
    ) -> list[Path]:
        """Write an overlay per positive label, with its score, and the contact sheet, as PNG.

        Args:
            folder: Made if it is missing.
            name: Files are called `<name>.png` and `<name>-<label>.png`; the photo's name by
                default.
            taken: Names of files that get a number instead of being replaced. Those written now are
                added; pass one set along with all photos of a folder.

        Returns:
            The files, the contact sheet first.

        Raises:
            OutputError: If they cannot be written; other errors as `heatmap`.
        """
        folder = with_home(folder)
        taken = set() if taken is None else taken
        stem = _file_name(name or (Path(self.source).stem if self.source else "photo"))
        sheet = _free_name(stem, taken)
        small = self.shrunk()
        pictures = {sheet: small.contact_sheet()}
        for tag in self.positive:
            overlay = small.overlay(tag.label)
            overlay = drawing.captioned(overlay, tag.label, f"{tag.score:.2f}")
            file = f"{sheet.removesuffix('.png')}-{_file_name(tag.label)}"
            pictures[_free_name(file, taken)] = overlay
        with writing_to(folder):
            for file, picture in pictures.items():
                write_atomically(folder / file, lambda path, p=picture: p.save(path, "PNG"))
        return [folder / file for file in pictures]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: all scores, thresholds, and the positive labels."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        return {
            "source": self.source,
            "positive": [tag.label for tag in self.positive],
            "scores": {
                n: round(float(s), 6) for n, s in zip(self.labels, self.scores, strict=True)
            },
            "thresholds": {
                n: round(float(t), 6) for n, t in zip(self.labels, self.thresholds, strict=True)
            },
        }

    def __str__(self) -> str:
        """Return one line: the positive labels with their scores."""
        if self.error is not None:
            return self.error
        tags = self._brief(len(self.labels))
        return f"{self.source}: {tags}" if self.source else tags

    def _brief(self, most: int = 5) -> str:
        """Return the positive labels with their scores, at most so many, or the nearest label."""
        tags, best = self.positive, self.top(1)
        if not tags:
            if not best:
                return "no label over its threshold"
            label, score = best[0]
            limit = self.thresholds[self.labels.index(label)]
            return f"no label over its threshold (nearest: {label} {score:.2f} of {limit:.2f})"
        more = f", … ({len(tags)} in all)" if len(tags) > most else ""
        return ", ".join(f"{tag.label} {tag.score:.2f}" for tag in tags[:most]) + more

    def shrunk(self) -> "Prediction":
        """Return the same for a photo no larger than a panel of a sheet, whose pictures cost little."""
        photo = self._photo
        return self if photo is None else replace(self, _photo=drawing.shrunk(photo))

    def _index(self, label: str) -> int:
        if not isinstance(label, str):
            known = nearest("", self.labels)
            raise KeyError(f"Labels go by name, got {label!r} ({type(label).__name__}). {known}")
        if label not in self.labels:
            raise KeyError(f"No label {label!r}. {nearest(label, self.labels)}")
        return self.labels.index(label)

    def _tags(self, positions: Int64[np.ndarray, " tag"]) -> list[Tag]:
        return [Tag(self.labels[i], float(self.scores[i])) for i in positions]


def to_pandas(predictions: "Prediction | Iterable[Prediction]") -> "DataFrame":
    """Return scores as a data frame: a row per photo, named by its source, and a column per label.

    Args:
        predictions: One or many, also as they come from `predict_many`. A photo that cannot be read has
            NaN in every column.

    Raises:
        DependencyError: If pandas is not installed.

    Example:
        >>> trmml.to_pandas(trmml.predict("holiday/")).to_csv("scores.csv")
    """
    try:
        import pandas
    except ImportError as error:
        raise DependencyError("to_pandas needs its package: pip install pandas.") from error
    rows = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    index = pandas.Index([row.source for row in rows], name="image", dtype=object)
    return pandas.DataFrame(rows, index=index)


def _file_name(text: str) -> str:
    """Return a text as part of a file name: what a file system could object to becomes `_`."""
    safe = re.sub(r"[^\w. -]", "_", text).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return safe.strip(" .") or "_"


def _free_name(stem: str, taken: set[str]) -> str:
    """Return the name of a PNG that is not taken yet, with a number if need be, and take it."""
    name, number = f"{stem}.png", 2
    while name.casefold() in taken:  # some disks do not tell A from a
        name, number = f"{stem} {number}.png", number + 1
    taken.add(name.casefold())
    return name
