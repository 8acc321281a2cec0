"""What a prediction and a model show of themselves in a notebook."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trmml.config.groups import ModelConfig
from trmml.data.photos import load_photo
from trmml.errors import ImageError
from trmml.matcher.thresholds import NEVER, Calibration
from trmml.reports.pages import render_page, thumbnail_url

PHOTO_SIZE, HEATMAP_SIZE = (360, 280), (220, 220)
"""Largest width and height, in pixels."""
FEWEST_ROWS, MOST_TAGS, MOST_LABELS, MOST_MEASURED = 5, 30, 1000, 20


def prediction_html(
    scores: Mapping[str, float],
    thresholds: Mapping[str, float],
    tags: Sequence[str],
    *,
    photo: Image.Image | None,
    overlays: Mapping[str, Image.Image],
    source: str | None,
    error: str | None,
) -> str:
    """Show a photo, its tags and the nearest other labels with bars, and heatmaps.

    Args:
        scores: Of all labels.
        thresholds: Of the same.
        tags: Labels that were found, best first.
        photo: The photo; by default what lies at `source` now, if that can be read.
        overlays: Heatmaps over the photo, by label.
        source: What the photo came from, if it came from a path.
        error: Why it could not be read, if so.
    """
    if photo is None and source is not None and error is None:
        with contextlib.suppress(ImageError):
            photo = load_photo(source, max(PHOTO_SIZE))
    shown = tags[:MOST_TAGS]
    # NaN, of a photo that was not read, has no place on a bar.
    others = [name for name in scores if name not in set(tags) and math.isfinite(scores[name])]
    nearest = sorted(others, key=lambda name: -scores[name])[: max(FEWEST_ROWS - len(shown), 0)]
    return render_page(
        Path(__file__).with_name("prediction.html.jinja"),
        photo=None if photo is None else thumbnail_url(photo, *PHOTO_SIZE),
        source=source,
        error=error,
        rows=[
            {"label": name, "score": scores[name], "threshold": thresholds[name]}
            for name in (*shown, *nearest)
        ],
        num_labels=len(scores),
        num_tags=len(tags),
        num_shown=len(shown),
        heatmaps=[
            {
                "label": name,
                "score": scores[name],
                "picture": thumbnail_url(picture, *HEATMAP_SIZE),
            }
            for name, picture in overlays.items()
        ],
    )


def model_html(
    config: ModelConfig,
    calibration: Calibration,
    source: str | None,
    report: Mapping[str, Any] | None,
) -> str:
    """Show what a model is, what was measured of it, and its labels with their thresholds.

    Args:
        config: Of the model.
        calibration: Of the model.
        source: Where it was loaded from, if it was.
        report: `metrics` and `finetune` of its folder, which may be anybody's, if it has any.
    """
    metrics, trained = (report or {}).get("metrics"), (report or {}).get("finetune")
    measured = [name for name in metrics or () if _number(metrics, name, "mAP") is not None]
    # Photos that chose the epoch flatter the model, so test photos go first.
    best = "test" if "test" in measured else measured[0] if measured else None
    limits = list(zip(config.labels, calibration.thresholds, strict=True))
    return render_page(
        Path(__file__).with_name("model.html.jinja"),
        name=source or "Model in memory",
        config=config,
        method=calibration.method,
        figures=[
            {
                "photos": name,
                "number": _number(metrics, name, "images"),
                "map": _number(metrics, name, "mAP"),
                "label_f1": _number(metrics, name, "at_thresholds", "label_f1"),
                "overall_f1": _number(metrics, name, "at_thresholds", "overall_f1"),
            }
            for name in measured[:MOST_MEASURED]
        ],
        measured_on=best,
        rows=[
            {
                "label": name,
                "threshold": "never" if limit >= NEVER else f"{limit:.2f}",
                "positives": _number(trained, "data", "labels", name, "positive"),
                "ap": _number(metrics, best, "per_label", name, "AP"),
            }
            for name, limit in limits[:MOST_LABELS]
        ],
    )


def _number(values: Any, *path: str | None) -> float | None:
    """Return a number inside nested mappings; None where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    if not isinstance(values, int | float) or isinstance(values, bool):
        return None
    return float(values) if -1e9 < values < 1e9 else None  # neither NaN, nor too wide for a cell
