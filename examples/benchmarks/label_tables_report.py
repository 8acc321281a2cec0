"""Tables of `label_tables.py`, from its JSON alone.

python examples/benchmarks/label_tables_report.py measured/label_tables.json measured/label_tables
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from speed_report import table


def of_parts(results: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the runs of one part of `label_tables.py`, one a seed."""
    return [run for key, run in results.items() if key.startswith(f"{part} | ")]


def mean(values: list[float], digits: int = 1) -> str:
    """Return `mean ± standard deviation`."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def mistakes_table(results: dict[str, Any]) -> str:
    """How many of the first listed labels are flipped ones."""
    runs = of_parts(results, "mistakes")
    sides: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
        "`trmml complete`": lambda run: run["trmml"],
        "cleanlab, self-confidence": lambda run: run["cleanlab"]["self-confidence"],
        "cleanlab, adjusted": lambda run: run["cleanlab"]["adjusted"],
    }
    rows: list[list[Any]] = [
        [name, *(mean([100 * of(run)[k] for run in runs]) for k in ("100", "500"))]
        for name, of in sides.items()
    ]
    chance = f"{100 * np.mean([run['chance'] for run in runs]):.1f}"
    return table(["3 % of known labels flipped", "of the first 100, %", "of the first 500, %"],
                 [*rows, ["chance", chance, chance]])  # fmt: skip


def complete_table(results: dict[str, Any]) -> str:
    """How many blanks are filled and how right, and what a second training makes of it."""
    runs = of_parts(results, "complete")

    def of(state: str, number: Callable[[dict[str, Any]], float]) -> list[float]:
        return [100 * number(run["all"][state]) for run in runs]

    rows: list[list[Any]] = [
        [
            f"{state} cells",
            mean(of(state, lambda found: found["precision"][0])),
            mean(of(state, lambda found: found["filled"] * found["precision"][0] / found["there"])),
        ]
        for state in ("positive", "negative")
    ]
    filled = table(
        ["blanks filled at a wanted precision of 90 %", "right, %", "of those there, %"], rows
    )
    before, after = ([run["mAP"][key] for run in runs] for key in ("partial", "completed"))
    gain = [b - a for a, b in zip(before, after, strict=True)]
    return (
        f"{filled}\nTrained again on the filled table: {mean(after)} mAP on the test photos, before "
        f"{mean(before)} (difference {mean(gain)}).\n"
    )


def thresholds_table(results: dict[str, Any]) -> str:
    """What thresholds from a tenth of the validation labels, and from all of them, show on test."""
    runs = of_parts(results, "thresholds")
    sides = ("partial", "full")

    def of(side: str, wanted: str, number: Callable[[dict[str, Any]], float]) -> str:
        return mean([100 * number(run[side]["precision"][wanted]) for run in runs])

    def kept(found: dict[str, Any], wanted: str) -> float:
        """The share of labels whose interval does not lie below what was wanted."""
        highs = [high for _, _, high, _ in found["labels"].values()]
        return float(np.mean([high >= float(wanted) for high in highs]))

    rows = [
        [
            f"{100 * float(wanted):g}",
            *(of(side, wanted, lambda found: found["all"][0]) for side in sides),
            *(of(side, wanted, lambda found, w=wanted: kept(found, w)) for side in sides),
        ]
        for wanted in runs[0]["full"]["precision"]
    ]
    head = [
        "wanted precision, %",
        "reached, with 10 % of the labels",
        "with all",
        "labels that keep it, with 10 %",
        "with all",
    ]
    few, all_ = (mean([run[side]["CF1"] for run in runs]) for side in sides)
    return (
        f"{table(head, rows)}\nThresholds for best F1 reach a CF1 of {few} with those labels, of {all_} "
        "with all of them.\n"
    )


def filled_by_label_table(results: dict[str, Any]) -> str:
    """What was filled of each label, mean over the seeds."""
    runs = of_parts(results, "complete")

    def cells(name: str, state: str) -> list[str]:
        found = [run["labels"][name][state] for run in runs]
        filled = sum(one["filled"] for one in found)
        right = sum(one["filled"] * one["precision"][0] for one in found if one["filled"])
        precision = f"{100 * right / filled:.1f}" if filled else "–"
        return [f"{filled / len(runs):,.0f}", precision]

    head = ["label"]
    for state in ("positives", "negatives"):
        head += [f"{state} filled", "right, %"]
    rows = [
        [name, *cells(name, "positive"), *cells(name, "negative")] for name in runs[0]["labels"]
    ]
    return table(head, rows)


def kept_by_label_table(results: dict[str, Any], wanted: str = "0.9") -> str:
    """What each label's threshold from partial labels reaches on test, with 95 % intervals."""
    runs = of_parts(results, "thresholds")
    rows = []
    for name in dict.fromkeys(
        n for run in runs for n in run["full"]["precision"][wanted]["labels"]
    ):
        cells = []
        for run in runs:
            found = run["partial"]["precision"][wanted]["labels"].get(name)
            cells.append(
                "never given"
                if found is None
                else f"{100 * found[0]:.0f} ({100 * found[1]:.0f} – {100 * found[2]:.0f}), {found[3]}"
            )
        rows.append([name, *cells])
    return table(
        ["label", *(f"seed {i}: precision, %, and photos" for i in range(len(runs)))], rows
    )


TABLES = {
    "Blanks filled at a wanted precision of 90 %, 10 % of the labels known": complete_table,
    "The same by label": filled_by_label_table,
    "Mistakes put in on purpose, and found": mistakes_table,
    "Thresholds for a wanted precision, on test photos": thresholds_table,
    "Thresholds for a precision of 90 % from 10 % of the labels, by label": kept_by_label_table,
}


def tables(results: dict[str, Any]) -> str:
    """Return all tables."""
    return "\n".join(f"**{title}**\n\n{make(results)}" for title, make in TABLES.items())


def main(source: str, stem: str) -> None:
    """Write `<stem>.md`."""
    results = json.loads(Path(source).read_text("utf-8"))
    Path(f"{stem}.md").write_text(tables(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
