"""The check of a data set as one HTML page that opens without a network."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from trmml.data.checks import DataCheck
from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.errors import ImageError
from trmml.labels import POSITIVE

PHOTOS_PER_LABEL = 4
MOST_PHOTOS = 200
THUMBNAIL = (160, 120)


def check_page(check: DataCheck, dataset: MultiLabelDataset) -> str:
    """Render a check with bars, and sample photos of each label inside the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # label names are anybody's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary, left = check.summary, MOST_PHOTOS
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(summary.category_names):
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
    template = environment.get_template("check_page.html.jinja")
    problems = [*summary.problems, *check.unreadable]
    return template.render(check=check, rows=rows, problems=problems)


def _samples(dataset: MultiLabelDataset, category: int, most: int) -> list[dict[str, str]]:
    positions = np.flatnonzero(dataset.labels[:, category] == POSITIVE)
    if most == 0 or len(positions) == 0:
        return []
    chosen = positions[np.linspace(0, len(positions) - 1, min(most, len(positions))).astype(int)]
    samples = []
    for i in chosen:
        try:
            photo = load_photo(dataset.photos[i])
        except ImageError:
            continue
        photo.thumbnail(THUMBNAIL)
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=80)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        name = dataset.photos[i].name
        samples.append({"name": name, "data": f"data:image/jpeg;base64,{encoded}"})
    return samples
