"""Put the measured figures into README.md.

    python examples/benchmarks/readme.py

What stands between `<!-- figures: NAME -->` and `<!-- end -->` is made from the JSON in `measured`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from speed_report import summary_table, table

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"


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


def figures() -> dict[str, str]:
    """Return what README shows, by name."""
    speed = json.loads((HERE / "measured/speed.json").read_text("utf-8"))
    tables = json.loads((HERE / "measured/label_tables.json").read_text("utf-8"))
    return {
        "speed": summary_table(speed),
        "mistakes": mistakes_table(tables),
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


if __name__ == "__main__":
    README.write_text(with_figures(README.read_text("utf-8")), encoding="utf-8")
