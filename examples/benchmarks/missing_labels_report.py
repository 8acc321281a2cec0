"""Tables and plot of `missing_labels.py`, from its JSON alone.

python examples/benchmarks/missing_labels_report.py runs/missing_labels/results.json missing_labels
"""

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

SETTINGS = ("10 %", "30 %", "50 %", "70 %", "90 %", "100 %", "single positive")
TRIED = "tried: "
"""Begins the note of runs of an earlier state, some with code that was not kept."""
NAMES = {
    "zero-shot": "zero-shot",
    "linear-probe": "linear probe",
    "patch-probe": "linear probe of image and patches",
    "mlp": "MLP of image and patches",
    "learned-queries": "learned queries (Query2Labels style)",
    "text-image": "text–image (CoOp style)",
    "text-pixel": "text–pixel (DualCoOp style)",
    "text-region-alone": "text–region alone (TRM-ML as published)",
    "text-region": "text–region (trmml)",
}
OURS = ("text-region-alone", "text-region")
LEARN_FROM_LABELS = [method for method in NAMES if method not in ("zero-shot", *OURS)]
"""What text–region is compared with, zero-shot left out."""


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


def by_setting(
    runs: list[dict[str, Any]],
    head: str,
    rows: dict[str, dict[str, str]],
    key: str,
    columns: tuple[str, ...] = SETTINGS,
) -> str:
    """Return a figure in per cent, a column per setting and a row per kind of run."""
    settings = [s for s in columns if any(values(runs, key, setting=s, **w) for w in rows.values())]
    lines = [f"| {head} | " + " | ".join(settings) + " |", "|:--|" + "--:|" * len(settings)]
    for name, wanted in rows.items():
        cells = [mean_and_spread(values(runs, key, setting=s, **wanted)) for s in settings]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def grid_table(runs: list[dict[str, Any]], key: str = "mAP") -> str:
    """Return a figure by method and setting, in per cent."""
    rows = {
        name: {"method": method, "note": "grid"}
        for method, name in NAMES.items()
        if values(runs, key, method=method, note="grid")
    }
    return by_setting(runs, "method", rows, key)


def parts_table(runs: list[dict[str, Any]]) -> str:
    """Return what trmml reaches without what is learned by steps, and without what is not."""
    alone = [
        run | {"method": "probe", "mAP": run["probe_alone"]["mAP"]}
        for run in runs
        if (run["method"], run["note"]) == ("text-region", "grid") and "probe_alone" in run
    ]
    rows = {
        "zero-shot": {"method": "zero-shot"},
        "text–region alone": {"method": "text-region-alone"},
        "probe alone: zero-shot corrected by linear map and MLP": {"method": "probe"},
        "both (trmml)": {"method": "text-region"},
    }
    grid = [run for run in runs if run["note"] == "grid"]
    return by_setting([*grid, *alone], "parts of trmml", rows, "mAP")


def tried_table(runs: list[dict[str, Any]]) -> str:
    """Return what was tried on the way, on validation photos."""
    notes = dict.fromkeys(run["note"] for run in runs if run["note"].startswith(TRIED))
    rows = {"as it is": "grid", **{note.removeprefix(TRIED): note for note in notes}}
    kinds = {name: {"method": "text-region", "note": note} for name, note in rows.items()}
    first = [run for run in runs if run["seed"] == 0]
    return by_setting(first, "text–region", kinds, "val_mAP", ("10 %", "50 %"))


def cost_table(runs: list[dict[str, Any]]) -> str:
    """Return seconds and memory of a run with all labels, as far as there was no GPU."""
    lines = ["| method | processor seconds | peak memory, GB |", "|:--|--:|--:|"]
    on_cpu = [r for r in runs if "NVIDIA" not in r["machine"] and r["setting"] == "100 %"]
    for method, name in NAMES.items():
        chosen = [r for r in on_cpu if (r["method"], r["note"]) == (method, "grid")]
        if chosen:
            seconds, memory = (np.mean([r[k] for r in chosen]) for k in ("cpu_seconds", "peak_gb"))
            lines.append(f"| {name} | {seconds:.0f} | {memory:.1f} |")
    return "\n".join(lines) + "\n"


def gain_table(gains: dict[str, Any]) -> str:
    """Return how far trmml is above the best simple method of each setting, with intervals."""
    settings = [setting for setting in SETTINGS if setting in gains]
    rows = {
        "over the best simple one": [f"{100 * gains[s]['gain']:+.1f}" for s in settings],
        "interval of 95 %": [
            f"{100 * gains[s]['low']:+.1f} to {100 * gains[s]['high']:+.1f}" for s in settings
        ],
        "which is": [NAMES[gains[s]["best_simple"]].partition(" (")[0] for s in settings],
    }
    lines = ["| trmml | " + " | ".join(settings) + " |", "|:--|" + "--:|" * len(settings)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def summary(results: dict[str, Any]) -> str:
    """Return how far trmml is above the best simple method, and what it keeps of its mAP."""
    gains, runs = results["gains"], list(results["runs"].values())
    ours = _range(100 * gain["gain"] for gain in gains.values())
    text = f"trmml is {ours} above the best simple method of each of the {len(gains)} settings.\n"
    alone = {
        setting: _means(runs, setting)["text-region-alone"]
        - _means(runs, setting)[gain["best_simple"]]
        for setting, gain in gains.items()
        if "text-region-alone" in _means(runs, setting)
    }
    if alone:
        text += (
            "Text–region matching alone, without zero-shot and the maps beside it, is "
            f"{_range(alone.values())} above it.\n"
        )
    kept = shares(runs)
    if "text-region" in kept:
        others = (
            f"{NAMES[m].partition(' (')[0]} {mean_and_spread(kept[m])}"
            for m in kept
            if m in LEARN_FROM_LABELS
        )
        ours = mean_and_spread(kept["text-region"])
        text += f"With a tenth of the labels trmml keeps {ours} % of its mAP with all of them ("
        text += f"{', '.join(others)}).\n"
    return text


def shares(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return, by method and seed, mAP at 10 % known labels as a share of mAP at 100 %, in per cent."""
    found: dict[str, list[float]] = {}
    for method in NAMES:
        few, all_ = (
            {run["seed"]: run["mAP"] for run in runs if _is_grid(run, method, setting)}
            for setting in ("10 %", "100 %")
        )
        if seeds := sorted(few.keys() & all_.keys()):
            found[method] = [100 * few[seed] / all_[seed] for seed in seeds]
    return found


def _is_grid(run: dict[str, Any], method: str, setting: str) -> bool:
    return (run["method"], run["setting"], run["note"]) == (method, setting, "grid")


def _means(runs: list[dict[str, Any]], setting: str) -> dict[str, float]:
    """Return the mean mAP of each method over its seeds, in per cent."""
    found = {m: [100 * run["mAP"] for run in runs if _is_grid(run, m, setting)] for m in NAMES}
    return {method: float(np.mean(maps)) for method, maps in found.items() if maps}


def _range(gains: Iterable[float]) -> str:
    found = list(gains)
    return f"{min(found):.1f} to {max(found):.1f} mAP ({np.mean(found):.1f} on average)"


def share_table(runs: list[dict[str, Any]]) -> str:
    """Return what each method keeps at 10 % of what it has at 100 % known labels."""
    lines = ["| method | mAP at 10 % as a share of mAP at 100 % |", "|:--|--:|"]
    lines += [f"| {NAMES[m]} | {mean_and_spread(found)} % |" for m, found in shares(runs).items()]
    return "\n".join(lines) + "\n"


def pseudo_label_table(runs: list[dict[str, Any]]) -> str:
    """Return how many pseudo labels there were in each epoch, and how right they were."""
    marked = [
        run
        for run in runs
        if (run["method"], run["note"]) == ("text-region", "grid") and run["setting"] == "10 %"
    ]
    states = ("positive", "negative")
    head = [f"{state}s | precision, % | recall, %" for state in states]
    lines = ["| known | epoch | " + " | ".join(head) + " |", "|:--|" + "--:|" * 7]
    for setting in dict.fromkeys(run["setting"] for run in marked):
        here = [run["epochs"] for run in marked if run["setting"] == setting]
        for epoch, of_seeds in enumerate(zip(*here, strict=True), 1):
            found = [line["pseudo_labels"] for line in of_seeds]
            cells = []
            for state in states:
                cells.append(f"{np.mean([counts[state] for counts in found]):,.0f}")
                for kind in ("precision", "recall"):
                    rates = [counts[f"{state}_{kind}"] for counts in found]
                    known = [100 * rate for rate in rates if rate is not None]
                    cells.append(f"{np.mean(known):.1f}" if known else "–")
            lines.append(f"| {setting} | {epoch} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ablation_table(runs: list[dict[str, Any]], key: str = "mAP") -> str:
    """Return a figure of each ablation, and its difference from the grid's text–region, seed by seed."""
    notes = list(dict.fromkeys(r["note"] for r in runs if r["note"].startswith("ablation: ")))
    settings = list(dict.fromkeys(run["setting"] for run in runs if run["note"] in notes))
    rows = {
        "trmml, all defaults": ("text-region", "grid"),
        "text–pixel, as in the grid": ("text-pixel", "grid"),
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
                for found in values(runs, key, method=method, note=note, setting=setting, seed=seed)
                for base in values(
                    runs, key, method="text-region", note="grid", setting=setting, seed=seed
                )
            ]
            cells.append(mean_and_spread([a for a, _ in pairs]))
            cells.append(mean_and_spread([a - b for a, b in pairs]) if i else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw mAP against the known share, one line a method."""
    grid = [run for run in runs if run["note"] == "grid" and run["setting"].endswith("%")]
    figure, axes = plt.subplots(figsize=(7, 5.2), layout="constrained")
    for method, name in NAMES.items():
        measured = {run["setting"] for run in grid if run["method"] == method}
        settings = [setting for setting in SETTINGS if setting in measured]
        if not settings:
            continue
        shares = [float(setting.rstrip(" %")) for setting in settings]
        found = [values(grid, method=method, setting=setting) for setting in settings]
        means = [np.mean(part) for part in found]
        spread = [np.std(part, ddof=1) if len(part) > 1 else 0 for part in found]
        style = {"linewidth": 2.5, "color": "black"} if method == "text-region" else {}
        axes.errorbar(
            shares, means, spread, label=name, marker="o", markersize=4, capsize=3, **style
        )
    axes.set(xlabel="known labels, per cent", ylabel="mAP on test photos, per cent")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "mAP on the test photos, by share of known labels": grid_table,
    "mAP without `person`": partial(grid_table, key="mAP_without_person"),
    "mAP on photos with two or more labels": partial(grid_table, key="mAP_two_or_more"),
    "CF1 at a threshold of 0.5": partial(grid_table, key="CF1"),
    "OF1 at a threshold of 0.5": partial(grid_table, key="OF1"),
    "Cost": cost_table,
    "What is left when 90 % of the labels are missing": share_table,
}
ABLATION_TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "One thing changed at a time: mAP on the test photos, and the difference seed by seed": (
        ablation_table
    ),
    "The same on the validation photos, which choose the defaults": partial(
        ablation_table, key="val_mAP"
    ),
    "Pseudo labels by epoch, against the hidden labels": pseudo_label_table,
}


def tables(results: dict[str, Any]) -> str:
    """Return all tables that the runs allow."""
    runs = list(results["runs"].values())
    notes = {run["note"] for run in runs}
    chosen = dict(TABLES)
    if any("probe_alone" in run for run in runs):
        chosen["Where it comes from: mAP of the parts of trmml"] = parts_table
    if any(note.startswith("ablation: ") for note in notes):
        chosen |= ABLATION_TABLES
    if any(note.startswith(TRIED) for note in notes):
        chosen[
            "What was tried before the defaults changed: mAP on the validation photos, first seed. Each "
            "row changes one thing of the second"
        ] = tried_table
    parts = [f"**{title}**\n\n{make(runs)}" for title, make in chosen.items()]
    title = "Over the best simple method, with intervals over draws of photos and of seeds"
    parts.insert(1, f"**{title}**\n\n{gain_table(results['gains'])}")
    return "\n".join(parts)


def main(source: str, stem: str) -> None:
    """Write `<stem>.md` and `<stem>.png`."""
    results = json.loads(Path(source).read_text("utf-8"))
    Path(f"{stem}.md").write_text(tables(results), encoding="utf-8")
    plot(list(results["runs"].values()), Path(f"{stem}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
