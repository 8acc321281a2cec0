"""Model cards: facts in, Markdown out. No network, no model, nothing that was not written down.

The facts are the JSON files of a model folder. What only a person knows (a summary, the license, the
intended use) comes from `about.json`; see `ABOUT_FIELDS`.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from trmml.config.base import flat_settings
from trmml.errors import ArtifactError

ABOUT_FIELDS = (
    "title",
    "summary",
    "license",
    "license_note",
    "data",
    "backbone",
    "intended_use",
    "limits",
    "dataset_name",
)
"""What `about.json` may hold: plain text in `title`, `license` and `dataset_name`, else Markdown."""

MAX_LABELS_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The JSON files of a model folder, as plain values; files that are missing are empty."""

    config: Mapping[str, Any]
    calibration: Mapping[str, Any]
    metrics: Mapping[str, Any]
    finetune: Mapping[str, Any]
    speed: Mapping[str, Any]
    about: Mapping[str, Any]


def model_card(facts: CardFacts, name: str) -> str:
    """Render the card of a model.

    Args:
        facts: What is known about it.
        name: What `load_model` takes: a Hub id, a bundled name or a folder.

    Returns:
        Markdown with YAML front matter; its `model-index` holds the measured mAP.

    Raises:
        ArtifactError: If the facts do not have the form that `trmml` writes.
    """
    # A folder may come from anybody; what its files lack shows as one of these errors.
    try:
        return _render(facts, name)
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        raise ArtifactError(f"The JSON files of {name} do not make a card: {error!r}.") from error


def _render(facts: CardFacts, name: str) -> str:
    """Fill in the template: a row for each label, and every setting of the training."""
    unknown = sorted(set(facts.about) - set(ABOUT_FIELDS))
    if unknown:
        raise ValueError(f"about.json has {unknown}, known are {list(ABOUT_FIELDS)}")
    labels = list(facts.config["labels"])
    trained = facts.finetune.get("data", {}).get("labels", {})
    # Photos that chose the epoch flatter the model, so test photos go first.
    measured = facts.metrics.get("test") or facts.metrics.get("validation") or {}
    rows = []
    for label in labels[:MAX_LABELS_SHOWN]:
        counts = trained.get(label)
        found = measured.get("per_label", {}).get(label, {})
        rows.append(
            {
                "label": label,
                "threshold": facts.calibration["thresholds"][label],
                "known": None if counts is None else _known_share(counts),
                "positives": None if counts is None else counts["positive"],
                "ap": found.get("AP"),
                "tested": found.get("known_positives"),
            }
        )
    template = _environment().get_template("card.md.jinja")
    return template.render(
        front_matter=_front_matter(facts, name),
        title=facts.about.get("title") or _last_part(name),
        name=name,
        about=dict.fromkeys(ABOUT_FIELDS) | dict(facts.about),
        config=facts.config,
        calibration=facts.calibration,
        metrics=facts.metrics,
        finetune=facts.finetune,
        speed=facts.speed,
        rows=rows,
        num_labels=len(labels),
        measured_on="test" if facts.metrics.get("test") else "validation",
        settings=flat_settings(facts.finetune.get("settings", {})),
    )


def _front_matter(facts: CardFacts, name: str) -> str:
    """Return the YAML that the Hub reads: license, tags and one result for each split measured."""
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image recognition",
            dataset_type="image-labels",
            dataset_name=facts.about.get("dataset_name") or "the publisher's photos",
            dataset_split=split,
            metric_type="mAP",
            metric_name="mean average precision",
            metric_value=round(values["mAP"], 6),
        )
        for split, values in facts.metrics.items()
        if values.get("mAP") is not None
    ]
    card = ModelCardData(
        license=facts.about.get("license"),
        library_name="trmml",
        pipeline_tag="image-classification",
        tags=["trmml", "multi-label", "missing-labels", "clip", "prompt-tuning"],
        model_name=facts.about.get("title") or _last_part(name),
        eval_results=results or None,
    )
    return card.to_yaml().strip()


def _known_share(counts: Mapping[str, int]) -> float:
    """Return the share of a label's training photos on which it is known, in [0, 1]."""
    known = counts["positive"] + counts["negative"]
    return known / max(known + counts["unknown"], 1)


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # A gap where a fact is missing would read like a fact.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    environment.filters["per_cent"] = lambda share: "–" if share is None else f"{100 * share:.1f}"
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment


def plain(text: object) -> str:
    """Return text that Markdown, HTML and a table cell show as it is: one line, nothing active."""
    one_line = " ".join(str(text).split())
    # Tags of HTML work in Markdown as well, so both are made harmless.
    escaped = html.escape(one_line, quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", escaped)
