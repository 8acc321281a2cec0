"""Table and plot of `missing_labels.py`, from its JSON alone.

python examples/benchmarks/report.py runs/missing_labels/results.json missing_labels
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

NAMES = {
    "zero-shot": "zero-shot",
    "linear-probe": "linear probe",
    "text-image": "text–image (CoOp style)",
    "text-pixel": "text–pixel (DualCoOp style)",
    "text-region": "text–region (TRM-ML)",
}


def values(runs: Iterable[dict[str, Any]], key: str = "mAP", **wanted: object) -> list[float]:
    """Return a figure of the runs that have these properties, in per cent."""
    return [
        100 * run[key] for run in runs if all(run[name] == value for name, value in wanted.items())
    ]


def mean_and_spread(found: list[float]) -> str:
    """Return `mean ± standard deviation`, or a dash."""
    if not found:
        return "–"
    spread = f" ± {np.std(found, ddof=1):.1f}" if len(found) > 1 else ""
    return f"{np.mean(found):.1f}{spread}"


def grid_table(runs: list[dict[str, Any]]) -> str:
    """Return mAP by method and setting."""
    grid = [run for run in runs if run["note"] == "grid"]
    settings = list(dict.fromkeys(run["setting"] for run in grid))
    lines = ["| method | " + " | ".join(settings) + " |", "|:--|" + "--:|" * len(settings)]
    for method, name in NAMES.items():
        cells = [mean_and_spread(values(grid, method=method, setting=s)) for s in settings]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ablation_table(runs: list[dict[str, Any]]) -> str:
    """Return mAP of each ablation, and its difference from the grid's text–region, seed by seed."""
    notes = list(dict.fromkeys(r["note"] for r in runs if r["note"].startswith("ablation: ")))
    settings = list(dict.fromkeys(run["setting"] for run in runs if run["note"] in notes))
    rows = {
        "text–region as chosen": ("text-region", "grid"),
        "without the region module (text–pixel)": ("text-pixel", "grid"),
        **{note.removeprefix("ablation: "): ("text-region", note) for note in notes},
    }
    seeds = sorted({run["seed"] for run in runs})
    lines = ["| | " + " | ".join(f"{s} | difference" for s in settings) + " |"]
    lines.append("|:--|" + "--:|--:|" * len(settings))
    for i, (name, (method, note)) in enumerate(rows.items()):
        cells = []
        for setting in settings:
            pairs = [
                (found, base)
                for seed in seeds
                for found in values(runs, method=method, note=note, setting=setting, seed=seed)
                for base in values(
                    runs, method="text-region", note="grid", setting=setting, seed=seed
                )
            ]
            cells.append(mean_and_spread([a for a, _ in pairs]))
            cells.append(mean_and_spread([a - b for a, b in pairs]) if i else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw mAP against the known share, one line a method."""
    grid = [run for run in runs if run["note"] == "grid" and run["setting"].endswith("%")]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for method, name in NAMES.items():
        settings = list(dict.fromkeys(r["setting"] for r in grid if r["method"] == method))
        shares = [float(setting.rstrip(" %")) for setting in settings]
        found = [values(grid, method=method, setting=setting) for setting in settings]
        means = [np.mean(part) for part in found]
        spread = [np.std(part, ddof=1) if len(part) > 1 else 0 for part in found]
        style = {"linewidth": 2.5} if method == "text-region" else {"linewidth": 1.4}
        axes.errorbar(
            shares, means, spread, label=name, marker="o", markersize=4, capsize=3, **style
        )
    axes.set(xlabel="known labels, per cent", ylabel="mAP on test photos, per cent")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main(results: str, stem: str) -> None:
    """Write `<stem>.md` and `<stem>.png`."""
    runs = list(json.loads(Path(results).read_text("utf-8"))["runs"].values())
    parts = [grid_table(runs)]
    if any(run["note"].startswith("ablation: ") for run in runs):
        parts.append(ablation_table(runs))
    Path(f"{stem}.md").write_text("\n".join(parts), encoding="utf-8")
    plot(runs, Path(f"{stem}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
