"""Tables and the plot of growth of `speed.py`, from its JSON alone.

python examples/benchmarks/speed_report.py examples/benchmarks/measured/speed.json measured/speed
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|:--|" + "--:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def text_table(rows: list[dict[str, Any]]) -> str:
    """A training step of the text side."""
    sides = ("shared context", "own contexts")
    return table(
        ["labels", *(f"{side}, times faster" for side in sides)],
        [[row["labels"], *(row[f"{side}, times faster"] for side in sides)] for row in rows],
    )


def layout_table(rows: list[dict[str, Any]]) -> str:
    """The image tower."""
    names = list(rows[0]["times_faster"])
    return table(
        ["tower", *names, "s to compile"],
        [
            [
                f"{r['tower']}, {r['image_size']} px",
                *r["times_faster"].values(),
                r["seconds_to_compile"],
            ]
            for r in rows
        ],
    )


def predict_table(rows: list[dict[str, Any]]) -> str:
    """Prediction from files against the tower alone."""
    return table(
        ["tower", "share of the bare tower's speed", "times its memory"],
        [
            [f"{r['tower']}, {r['image_size']} px", r["share_of_bare_tower"], r["times_the_memory"]]
            for r in rows
        ],
    )


def epoch_table(rows: list[dict[str, Any]]) -> str:
    """An epoch of fine-tuning."""
    return table(
        ["tower", "photos", "cached features, times faster"],
        [[row["tower"], row["photos"], row["times_faster"]] for row in rows],
    )


def start_table(found: dict[str, Any]) -> str:
    """A new process."""
    return table(["process", "s"], [[name, s] for name, s in found["seconds"].items()])


def growth_table(rows: list[dict[str, Any]]) -> str:
    """Seconds and memory by number of labels or photos."""
    kind = next(iter(rows[0]))
    names = list(rows[0]["seconds"])
    return table(
        [kind, *(f"{name}, s / GB" for name in names)],
        [
            [row[kind]]
            + [
                f"{row['seconds'][name]:g} / {row['peak_gb'][name]:g}"
                if name in row["seconds"]
                else "–"
                for name in names
            ]
            for row in rows
        ],
    )


def summary_table(results: dict[str, Any]) -> str:
    """Return the ratios that matter to a user, one a line."""

    def joined(values: list[float]) -> str:
        return " / ".join(f"{value:g}" for value in values)

    rows: list[list[Any]] = []
    if "text" in results:
        found = results["text"]["rows"]
        labels = " / ".join(f"{row['labels']:,}" for row in found)
        for side, name in (("shared context", "one context"), ("own contexts", "a context each")):
            times = joined([row[f"{side}, times faster"] for row in found])
            rows.append([f"training step of the text side, {labels} labels, {name}",
                         "77 tokens a label", times])  # fmt: skip
    if "epoch" in results:
        found = results["epoch"]["rows"]
        rows.append([f"epoch of fine-tuning on cached features, {' / '.join(r['tower'] for r in found)}",
                     "photos encoded anew", joined([r["times_faster"] for r in found])])  # fmt: skip
    if "predict" in results:
        found = results["predict"]["rows"]
        rows.append([f"`predict_many` from JPEG files, {' / '.join(r['tower'] for r in found)}",
                     "open_clip's bare tower on ready tensors",
                     joined([r["share_of_bare_tower"] for r in found])])  # fmt: skip
    if "start" in results:
        times = round(1 / results["start"]["rows"]["times_the_import"], 2)
        rows.append(["one photo in a new process", "`import torch, open_clip` alone", f"{times:g}"])
    return table(["what", "against", "times as fast"], rows).replace(":--|--:|--:|", ":--|:--|--:|")


TABLES = {
    "text": ("One training step of the text side, against 77 tokens a label", text_table),
    "layout": ("The image tower, against open_clip's", layout_table),
    "predict": (
        "`predict_many` from files, against the bare tower on ready tensors",
        predict_table,
    ),
    "epoch": ("An epoch of fine-tuning, against photos encoded anew", epoch_table),
    "start": ("A new process", start_table),
    "labels": ("Growth with the labels", growth_table),
    "photos": ("Growth with the photos", growth_table),
}


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory against labels and photos, on logarithmic axes."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained", sharex="col")
    for column, kind in enumerate(("labels", "photos")):
        rows = results[kind]["rows"]
        for name in rows[0]["seconds"]:
            here = [row for row in rows if name in row["seconds"]]
            counts = [row[kind] for row in here]
            for row, key in enumerate(("seconds", "peak_gb")):
                values = [found[key][name] for found in here]
                axes[row, column].plot(counts, values, marker="o", markersize=4, label=name)
        axes[0, column].set(xscale="log", yscale="log", ylabel="seconds")
        axes[1, column].set(xlabel=kind, ylabel="peak memory, GB", ylim=(0, None))
        axes[0, column].legend()
        for part in axes[:, column]:
            part.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def tables(results: dict[str, Any]) -> str:
    """Return a table of every part that was measured."""
    return "\n".join(
        f"**{title}**\n\n{make(results[name]['rows'])}"
        for name, (title, make) in TABLES.items()
        if name in results
    )


def main(source: str, stem: str) -> None:
    """Write `<stem>.md` and, if growth was measured, `<stem>.png`."""
    results = json.loads(Path(source).read_text("utf-8"))
    Path(f"{stem}.md").write_text(tables(results), encoding="utf-8")
    if {"labels", "photos"} <= results.keys():
        plot(results, Path(f"{stem}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
