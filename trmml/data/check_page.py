"""The check of a data set as one HTML page that opens without a network."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from trmml.data.checks import DataCheck
from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.errors import ImageError
from trmml.labels import POSITIVE
from trmml.reports.pages import render_page, thumbnail_url

PHOTOS_PER_LABEL = 4
MOST_PHOTOS = 200
THUMBNAIL = (160, 120)


def check_page(check: DataCheck, dataset: MultiLabelDataset) -> str:
    """Render a check with bars, and sample photos of each label inside the page."""
    summary, left = check.summary, MOST_PHOTOS
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(summary.labels):
        counts = (summary.positives[i], summary.negatives[i], summary.unknown[i])
        photos = _samples(dataset, i, min(PHOTOS_PER_LABEL, left))
        left -= len(photos)
        rows.append(
            dict(zip(("positive", "negative", "unknown"), counts, strict=True))
            | {
                "name": name,
                "positive_share": round(100 * counts[0] / max(sum(counts), 1), 3),
                "negative_share": round(100 * counts[1] / max(sum(counts), 1), 3),
                "photos": photos,
            }
        )
    problems = [*summary.problems, *check.problems]
    template = Path(__file__).with_name("check_page.html.jinja")
    return render_page(template, check=check, rows=rows, problems=problems)


def _samples(dataset: MultiLabelDataset, label: int, most: int) -> list[dict[str, str]]:
    positions = np.flatnonzero(dataset.states[:, label] == POSITIVE)
    if most == 0 or len(positions) == 0:
        return []
    # From the whole table: neighbours are often of one series and look alike.
    chosen = positions[np.linspace(0, len(positions) - 1, min(most, len(positions))).astype(int)]
    samples = []
    for i in chosen:
        photo = dataset.photos[i]
        with contextlib.suppress(ImageError):
            data = thumbnail_url(load_photo(photo, max(THUMBNAIL)), *THUMBNAIL)
            samples.append({"name": photo.name, "data": data})
    return samples
