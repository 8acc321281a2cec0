"""Put the measured figures into README.md, and the tables beside their JSON.

    python examples/benchmarks/readme.py

What stands between `<!-- figures: NAME -->` and `<!-- end -->` in README.md, and every `measured/*.md`,
is made from the JSON in `measured`.
"""

import json
import re
from pathlib import Path
from typing import Any

import guarantees
import label_tables_report
import missing_labels_report
import questions_report
import speed_report

MEASURED = Path(__file__).with_name("measured")
README = Path(__file__).parents[2] / "README.md"
REPORTS = {
    "missing_labels": missing_labels_report,
    "label_tables": label_tables_report,
    "speed": speed_report,
    "questions": questions_report,
}


def measured(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote."""
    return json.loads((MEASURED / f"{name}.json").read_text("utf-8"))


def figures() -> dict[str, str]:
    """Return what README shows, by name."""
    runs, tables = list(measured("missing_labels")["runs"].values()), measured("label_tables")
    summary = missing_labels_report.summary(runs)
    return {
        "missing_labels": f"{summary}\n{missing_labels_report.grid_table(runs)}",
        "few": missing_labels_report.few_table(runs),
        "guarantees": guarantees.table(measured("guarantees")),
        "speed": speed_report.summary_table(measured("speed")),
        "thresholds": label_tables_report.thresholds_table(tables),
        "complete": label_tables_report.complete_table(tables),
        "mistakes": label_tables_report.mistakes_table(tables),
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
    return {README: with_figures(README.read_text("utf-8")), **tables}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
