"""One table of the paper: a benchmark at several known shares, or with single positives.

    python examples/benchmarks/paper_tables.py voc2007 ~/data/voc -c examples/recipes/rn101-448.toml \
        --backbone RN101-quickgelu/openai --output runs/voc2007

Trains one model per known share (mask seed 0, as the field does), measures it on the test photos and
writes `results.json` and `results.md` after each. Started again, it goes on where it stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from official import BENCHMARKS, read_benchmark, read_single_positives
from provenance import provenance

import trmml
from trmml.files import write_json, write_text

SHARES = tuple(round(0.1 * i, 1) for i in range(1, 10))


def table_of(results: dict[str, Any]) -> str:
    """Return a Markdown table: both definitions of mAP, since the field uses both."""
    lines = ["| known labels | mAP | mAP, interpolated | OF1 | CF1 |", "|:--|--:|--:|--:|--:|"]
    for name, run in results["runs"].items():
        half = run["test"]["at_0.5"]
        values = (run["test"]["mAP"], run["test"]["mAP_interpolated"])
        values += (half["overall_f1"], half["label_f1"])
        lines.append(f"| {name} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    parser.add_argument("root", type=Path)
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--backbone", default="RN101-quickgelu/openai")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--single-positives", type=Path, help="list of path and label")
    args = parser.parse_args()
    settings = trmml.FinetuneConfig.from_toml(args.config) if args.config else None
    settings = settings or trmml.FinetuneConfig()
    changes = dict(change.split("=", 1) for change in args.set)
    settings = settings.changed({name: json.loads(value) for name, value in changes.items()})

    train, test = read_benchmark(args.benchmark, args.root)
    wanted = {f"{100 * share:g} %": train.hide_labels(share, seed=0) for share in args.shares}
    if args.single_positives is not None:
        wanted["single positive"] = read_single_positives(args.single_positives, train)
    path = args.output / "results.json"
    facts = {"benchmark": args.benchmark, "backbone": args.backbone, "seed": 0}
    facts |= {"settings": settings.to_dict(), **provenance()}
    results = json.loads(path.read_text("utf-8")) if path.is_file() else facts | {"runs": {}}
    for name, data in wanted.items():
        if name in results["runs"]:
            continue
        folder = args.output / name.replace(" %", "").replace(" ", "-")
        model = trmml.finetune(
            data, backbone=args.backbone, config=settings, output=folder, resume=True
        )
        results["runs"][name] = {"test": trmml.evaluate(model, test, progress=True).to_dict()}
        write_json(path, results)
        write_text(args.output / "results.md", table_of(results))
        print(table_of(results))


if __name__ == "__main__":
    main()
