"""Put the measured figures into README.md and the manual, and the tables beside their JSON.

    python examples/benchmarks/readme.py

What stands between `<!-- figures: NAME -->` and `<!-- end -->` in README.md and `docs/*.md`, and every
`measured/*.md`, is made: figures from the JSON in `measured` and beside the models, the table of
settings from the settings.
"""

import json
import re
from pathlib import Path
from typing import Any

import guarantees
import label_tables_report
import missing_labels_report
import questions_report
import settings_table
import small_tables_report
import speed_report

from trmml.backbone.listing import list_backbones

ROOT = Path(__file__).parents[2]
MEASURED = Path(__file__).with_name("measured")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = {
    "missing_labels": missing_labels_report,
    "label_tables": label_tables_report,
    "speed": speed_report,
    "questions": questions_report,
}


def measured(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote."""
    return json.loads((MEASURED / f"{name}.json").read_text("utf-8"))


def small_tables() -> dict[str, Any]:
    """Return what was measured on small tables of both data sets."""
    others = measured("tiny_imagenet").items()
    return measured("other_tables") | {f"Tiny-ImageNet {name}": facts for name, facts in others}


def bundled() -> str:
    """Return how good the models of the package are, as far as measured."""
    judged = json.loads((ROOT / "examples/everyday/measured.json").read_text("utf-8"))
    weights = ROOT / "trmml" / "weights"
    metrics = json.loads((weights / "coco18-tiny/metrics.json").read_text("utf-8"))["validation"]
    alone = json.loads((ROOT / "examples/small_clip/logs/val.json").read_text("utf-8"))
    probe = alone["linear_probe_100_percent"]["mAP"]
    return (
        f"`everyday-tiny`: {100 * judged['precision']:.1f} % of its tags are right, "
        f"{judged['right_tags_per_photo']:.1f} right ones a photo, on {judged['photos']} validation "
        f"photos, judged by eye.\n`coco18-tiny`: {100 * metrics['mAP']:.1f} mAP on "
        f"{metrics['images']:,} validation photos; on the same CLIP zero-shot has "
        f"{100 * alone['zero_shot']['mAP']:.1f}, a logistic regression {100 * probe:.1f}.\n"
    )


def guarantee_cost() -> str:
    """Return what recall a guarantee of 95 % precision costs."""
    rows = measured("guarantees")["rows"]

    def recall(way: str, known: float) -> float:
        found = [
            row["recall"]
            for row in rows
            if (row["precision"], row["known"], row["way"]) == (0.95, known, way)
        ]
        return 100 * sum(found) / len(found)

    plain, sure = ([recall(way, k) for k in (1.0, 0.1)] for way in ("calibrate", "guarantee"))
    return (
        "**It costs recall.** For 95 % precision on the 18 labels of the COCO-18 validation photos, "
        f"`--guarantee` finds {sure[0]:.1f} % of what is there and `--goal precision` "
        f"{plain[0]:.1f} %; with a tenth of the labels known {sure[1]:.1f} % and {plain[1]:.1f} %.\n"
    )


def backbones() -> str:
    """Return how many of open_clip's CLIPs can be loaded by name."""
    loaded, refused = list_backbones()
    renamed = sum(other.is_renamed for other in refused)
    pickles = sum("safetensors" in backbone.needs for backbone in loaded)
    return (
        f"Of the {len(loaded) + len(refused)} names that open_clip lists, {len(loaded)} load. "
        f"{renamed} more are refused with another name of the same weights, "
        f"{len(refused) - renamed} (CoCa, and text towers of Hugging Face) with the nearest CLIP that "
        f"works. {pickles} may be published as pickles only, which are not read; convert them to "
        "safetensors first.\n"
    )


def hostile_cases() -> str:
    """Return what broken files, and kills of a run, came to."""
    tried = measured("hostile")
    kinds = ", ".join(f"{sum(c.values())} {kind}s" for kind, c in tried["counts"].items())
    faults = sum(c["fault"] for c in tried["counts"].values())
    kills = tried["kills"]
    return (
        f"Of {tried['cases']:,} broken files and folders ({kinds}) {faults} led to anything but "
        f"a result or one clear line.\nOf {kills['kills']} runs that were killed and resumed, "
        f"{kills['differing']} ended in other bytes than a run in one go.\n"
    )


def figures() -> dict[str, str]:
    """Return what README and the manual show, by name."""
    missing, tables = measured("missing_labels"), measured("label_tables")
    runs, report = list(missing["runs"].values()), missing_labels_report
    shown = (report.summary(missing), report.grid_table(runs), report.gain_table(missing["gains"]))
    return {
        "missing_labels": "\n".join(shown),
        "parts": report.parts_table(runs),
        "short": small_tables_report.short_table(small_tables()),
        "other_tables": small_tables_report.table_of(measured("other_tables")),
        "tiny_imagenet": small_tables_report.table_of(measured("tiny_imagenet")),
        "guarantees": guarantees.table(measured("guarantees")),
        "speed": speed_report.summary_table(measured("speed")),
        "thresholds": label_tables_report.thresholds_table(tables),
        "complete": label_tables_report.complete_table(tables),
        "mistakes": label_tables_report.mistakes_table(tables),
        "bundled": bundled(),
        "guarantee_cost": guarantee_cost(),
        "backbones": backbones(),
        "hostile": hostile_cases(),
        "settings": settings_table.table(),
    }


def with_figures(text: str) -> str:
    """Return a text with its figures made anew."""
    found = figures()
    return re.sub(
        r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{found[match[2]]}{match[3]}",
        text,
        flags=re.DOTALL,
    )


def documents() -> dict[Path, str]:
    """Return every file that shows figures, as it should be."""
    tables = {
        MEASURED / f"{name}.md": report.tables(measured(name)) for name, report in REPORTS.items()
    }
    return {path: with_figures(path.read_text("utf-8")) for path in DOCUMENTS} | tables


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
