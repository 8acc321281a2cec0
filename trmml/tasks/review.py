"""What `complete` hands to a person: a CSV of all estimates, and a page to review them."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.data.writing import relative_name
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.pages import render_page, thumbnail_url
from trmml.tasks.completion import Completion
from trmml.tasks.mistakes import Cell

MOST_CELLS = 40
THUMBNAIL = (240, 180)
_WORDS = {POSITIVE: "positive", NEGATIVE: "negative"}


def estimates_csv(completion: Completion, before: MultiLabelDataset, images: Path) -> str:
    """Return a row for every blank of the table: what is thought of it, and what was decided.

    Args:
        completion: What `complete` returned.
        before: The table that it was made from.
        images: Folder that photos are named from, as in the table.
    """
    names = [relative_name(photo, images) for photo in before.photos]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("image", "label", "probability", "decision", "model", "prototypes")
    writer.writerow(columns)
    states = completion.dataset.states
    for row, column in np.argwhere(before.states != states).tolist():
        writer.writerow(
            _line(completion, before, names, row, column, _WORDS[int(states[row, column])])
        )
    still_open = states == UNKNOWN
    for row, column in np.argwhere(still_open).tolist():
        writer.writerow(_line(completion, before, names, row, column, ""))
    return buffer.getvalue()


def _line(
    completion: Completion,
    before: MultiLabelDataset,
    names: list[str],
    row: int,
    column: int,
    decision: str,
) -> list[str]:
    """Return the cells of one row of the CSV, in the order of its columns."""
    estimates = completion.estimates
    parts = (estimates.model, estimates.prototypes)
    return [
        names[row],
        before.labels[column],
        f"{estimates.probability[row, column]:.4f}",
        decision,
        *(f"{part[row, column]:.4f}" for part in parts),
    ]


def review_page(
    completion: Completion, before: MultiLabelDataset, model: TextRegionMatcher, title: str
) -> str:
    """Render likely mistakes, questions and a sample of decisions, each with its heatmap.

    Args:
        completion: What `complete` returned.
        before: The table that it was made from.
        model: For the heatmaps.
        title: Of the page.
    """
    rows, columns = np.nonzero(completion.decided)
    # Always the same ones, so that the same table gives the same page.
    chosen = np.random.default_rng(0).permutation(len(rows))[:MOST_CELLS]
    sample = [
        Cell(int(rows[i]), int(columns[i]),
             float(completion.estimates.probability[rows[i], columns[i]]), 0.0)
        for i in sorted(chosen)
    ]  # fmt: skip
    sections = (
        (
            "Likely mistakes",
            f"Known labels that the estimates contradict, the worst first. {completion.doubts}",
            completion.mistakes,
        ),
        ("Questions", "Blanks whose answer would teach most.", completion.questions),
        ("Sample of decisions", "Some of the blanks that were filled.", sample),
    )
    shown = [
        {
            "title": name,
            "note": note,
            "count": len(cells),
            "cells": _cards(cells[:MOST_CELLS], completion, before, model),
        }
        for name, note, cells in sections
    ]
    return render_page(
        Path(__file__).with_name("review_page.html.jinja"),
        title=title,
        sections=shown,
        num_decided=len(rows),
        num_blank=int((before.states == UNKNOWN).sum()),
        precision=completion.precision,
        warnings=completion.warnings,
    )


def _cards(
    cells: list[Cell], completion: Completion, before: MultiLabelDataset, model: TextRegionMatcher
) -> list[dict[str, Any]]:
    """Return what the page shows of cells; pictures are heatmaps where the way of matching has any."""
    photos = [before.photos[cell.row] for cell in cells]
    if model.matching.has_evidence:
        predictions = model.predict_many(photos, heatmaps=True)
        names = [before.labels[cell.column] for cell in cells]
        pictures = (p.shrunk().overlay(name) for p, name in zip(predictions, names, strict=True))
    else:
        pictures = (load_photo(photo, max(THUMBNAIL)) for photo in photos)
    return [
        _card(cell, picture, completion, before)
        for cell, picture in zip(cells, pictures, strict=True)
    ]


def _card(
    cell: Cell, picture: Image.Image, completion: Completion, before: MultiLabelDataset
) -> dict[str, Any]:
    """Return the values that the template names, probabilities in per cent."""
    stated = int(before.states[cell.row, cell.column])
    decision = int(completion.dataset.states[cell.row, cell.column])
    estimates = completion.estimates
    return {
        "picture": thumbnail_url(picture, *THUMBNAIL),
        "photo": before.photos[cell.row].name,
        "label": before.labels[cell.column],
        "stated": _WORDS.get(stated, "blank"),
        "decision": _WORDS.get(decision, "open"),
        "probability": round(100 * cell.probability),
        "model": round(100 * float(estimates.model[cell.row, cell.column])),
        "prototypes": round(100 * float(estimates.prototypes[cell.row, cell.column])),
    }
