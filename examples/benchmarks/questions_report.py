"""Table and plot of `questions.py`, from its JSON alone.

python examples/benchmarks/questions_report.py runs/questions.json questions
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from missing_labels_report import mean_and_spread
from questions import DEFAULT, LEARNERS, RANDOM, WITH_THE_PAGE

TITLES = {
    "page": "Learning as the page does",
    "probe": "A logistic regression beside zero-shot, in its place",
}


def runs_of(results: dict[str, Any], learner: str) -> dict[str, list[dict[str, Any]]]:
    """Return the runs with a learner, by order; those of all seeds alone can be compared."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"].values():
        if run["learner"] == learner:
            found.setdefault(run["order"], []).append(run)
    most = max((len(runs) for runs in found.values()), default=0)
    return {order: runs for order, runs in found.items() if len(runs) == most}


def area(run: dict[str, Any]) -> float:
    """Return the mean mAP over the answers, in per cent: the area under the curve by its width."""
    answers, found = np.array(run["answers"]), 100 * np.array(run["val_mAP"])
    return float(np.trapezoid(found, answers) / answers[-1])


def answers_for(runs: list[dict[str, Any]], goal: float) -> float:
    """Return after how many answers the mean of some runs reaches a mAP; infinite if it never does."""
    answers = runs[0]["answers"]
    means = np.mean([run["val_mAP"] for run in runs], axis=0)
    for i, value in enumerate(means):
        if value >= goal:
            if not i:
                return 0.0
            share = (goal - means[i - 1]) / (value - means[i - 1])
            return float(answers[i - 1] + share * (answers[i] - answers[i - 1]))
    return float("inf")


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return mAP by answers, the area, and the answers that reach what random questions reach."""
    answers = next(iter(runs.values()))[0]["answers"]
    random = runs[RANDOM]
    goal = float(np.mean([run["val_mAP"][-1] for run in random]))
    header = [*(f"{count:,}" for count in answers[1:]), "mean", "more than at random"]
    header += [f"answers for {100 * goal:.1f}"]
    lines = ["| answers | " + " | ".join(header) + " |", "|:--|" + "--:|" * len(header)]
    for order, found in sorted(runs.items(), key=lambda item: -np.mean(list(map(area, item[1])))):
        columns = zip(*(run["val_mAP"] for run in found), strict=True)
        cells = [mean_and_spread([100 * value for value in column]) for column in columns][1:]
        gained = [area(run) - area(other) for run, other in zip(found, random, strict=True)]
        cells += [mean_and_spread(list(map(area, found))), mean_and_spread(gained)]
        needed = answers_for(found, goal)
        cells += [f"{needed:,.0f}" if np.isfinite(needed) else f"> {answers[-1]:,}"]
        lines.append(f"| {order} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def reached_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return after how many answers an order reaches what random questions reach after so many."""
    answers = runs[RANDOM][0]["answers"]
    goals = np.mean([run["val_mAP"] for run in runs[RANDOM]], axis=0)
    lines = ["| at random | " + " | ".join(f"{count:,}" for count in answers[1:]) + " |"]
    lines += ["|:--|" + "--:|" * (len(answers) - 1)]
    for order in (order for order in WITH_THE_PAGE if order in runs and order != RANDOM):
        needed = [answers_for(runs[order], goal) for goal in goals[1:]]
        cells = [f"{x:,.0f}" if np.isfinite(x) else f"> {answers[-1]:,}" for x in needed]
        lines.append(f"| {order} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tables(results: dict[str, Any]) -> str:
    """Return a table for each learner."""
    parts = []
    for learner in LEARNERS:
        runs = runs_of(results, learner)
        if RANDOM in runs:
            start = 100 * runs[RANDOM][0]["val_mAP"][0]
            parts.append(
                f"**{TITLES[learner]}**: mAP on the validation photos, {start:.1f} before any answer\n\n"
                + table(runs)
                + "\nAnswers after which an order reaches what questions at random reach:\n\n"
                + reached_table(runs)
            )
    return "\n".join(parts)


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw mAP by the number of answers, a picture for each learner."""
    learners = [learner for learner in LEARNERS if RANDOM in runs_of(results, learner)]
    figure, axes = plt.subplots(
        1, len(learners), figsize=(5.5 * len(learners), 4.2), squeeze=False, layout="constrained"
    )
    for axis, learner in zip(axes[0], learners, strict=True):
        runs = runs_of(results, learner)
        for order in (order for order in WITH_THE_PAGE if order in runs):
            found = 100 * np.array([run["val_mAP"] for run in runs[order]])
            spread = found.std(axis=0, ddof=1) if len(found) > 1 else 0 * found[0]
            answers = runs[order][0]["answers"]
            width = 2.5 if order == DEFAULT else 1.4
            axis.errorbar(
                answers, found.mean(axis=0), spread, label=order, marker="o", markersize=4,
                capsize=3, linewidth=width,
            )  # fmt: skip
        axis.set_xscale("symlog", base=2, linthresh=100)
        ticks = runs[RANDOM][0]["answers"]
        axis.set_xticks(ticks, [f"{count:,}" for count in ticks])
        axis.set(
            title=TITLES[learner], xlabel="answers", ylabel="mAP on validation photos, per cent"
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main(source: str, stem: str) -> None:
    """Write `<stem>.md` and `<stem>.png`."""
    results = json.loads(Path(source).read_text("utf-8"))
    Path(f"{stem}.md").write_text(tables(results), encoding="utf-8")
    plot(results, Path(f"{stem}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
