"""Tables of `other_tables.py` and `tiny_imagenet.py`, from their JSON alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

SHORT = ("zero-shot", "probe", "MLP", "learned queries", "trmml")
"""Methods of the table in README."""


def table_of(found: dict[str, Any]) -> str:
    """Return the summary in Markdown, in per cent."""
    methods = list(dict.fromkeys(method for facts in found.values() for method in facts["mAP"]))
    rows = {
        table: [*(_cell(facts["mAP"].get(method)) for method in methods), _gain(facts)]
        for table, facts in found.items()
    }
    return _markdown([*methods, "trmml over the best simple one"], rows) + _seeds_of(found)


def short_table(found: dict[str, Any]) -> str:
    """Return means of the methods that README shows."""
    rows = {
        table: [_mean(facts["mAP"].get(method)) for method in SHORT]
        for table, facts in found.items()
    }
    return _markdown(SHORT, rows) + _seeds_of(found)


def _markdown(head: Sequence[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| table | {' | '.join(head)} |", "|:--|" + "--:|" * len(head)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def _seeds_of(found: dict[str, Any]) -> str:
    counts = sorted(len(facts["seeds"]) for facts in found.values())
    ends = dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:]))
    return f"\nMeans over {' to '.join(ends) or 'no'} seeds.\n"


def _mean(found: list[float] | None) -> str:
    return "–" if found is None else f"{100 * np.mean(found):.1f}"


def _cell(found: list[float] | None) -> str:
    is_several = found is not None and len(found) > 1
    return _mean(found) + (f" ± {100 * np.std(found, ddof=1):.1f}" if is_several else "")


def _gain(facts: dict[str, Any]) -> str:
    gain, low, high = (100 * facts[key] for key in ("gain", "low", "high"))
    return f"{gain:+.1f} ({low:+.1f} to {high:+.1f}; {facts['best_simple']})"
