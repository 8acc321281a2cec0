"""What the exact shortcuts save: ratios of two things measured in one run.

    python examples/benchmarks/speed.py text --output speed.json
    python examples/benchmarks/speed.py predict --output speed.json
    python examples/benchmarks/speed.py start --output speed.json

Each part writes its figures into the same JSON. Times are the medians of some repetitions that take
turns, so that a busy machine slows both sides alike.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

import trmml
from trmml.backbone import TextTower
from trmml.files import write_json
from trmml.prompts import PromptLearner, random_context

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
CONTEXT = 16
WORDS = ("dog", "traffic light", "parking meter", "fire hydrant", "person", "bus", "potted plant")
CHUNK = 80
"""Prompts at once on the plain path: 1,000 of 77 tokens do not fit into 24 GB with their gradient."""


def alternately(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side, measured in turns after one warm-up."""
    for run in sides.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def text_side(repeats: int) -> list[dict[str, Any]]:
    """Forward and backward of the text side: all 77 tokens, against what is needed."""
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(512, vision, TEXT).eval().requires_grad_(False)
    tower, generator = TextTower(clip), torch.Generator().manual_seed(0)
    rows = []
    for count in (80, 1000):
        names, counts = tower.embed_names(
            tuple(f"{WORDS[i % len(WORDS)]}" for i in range(count)), CONTEXT
        )
        room = TEXT["context_length"] - CONTEXT - names.shape[1]
        padding = torch.zeros(count, room, TEXT["width"])
        shared = PromptLearner(random_context(CONTEXT, TEXT["width"], None, generator))
        own = PromptLearner(random_context(CONTEXT, TEXT["width"], count, generator))

        def plain(names: Tensor = names, counts: Tensor = counts, padding: Tensor = padding,
                  learner: PromptLearner = shared) -> None:  # fmt: skip
            for part in range(0, len(names), CHUNK):
                here = slice(part, part + CHUNK)
                prompts = torch.cat([learner(names[here]), padding[here]], dim=1)
                tower(prompts, counts[here] + CONTEXT).sum().backward()

        def with_prefix(names: Tensor = names, counts: Tensor = counts,
                        learner: PromptLearner = shared) -> None:  # fmt: skip
            prefix = learner.prefix(names)
            tower.encode_with_prefix(prefix, names[:, 1:], counts - 1).sum().backward()

        def short(names: Tensor = names, counts: Tensor = counts,
                  learner: PromptLearner = own) -> None:  # fmt: skip
            tower(learner(names), counts + CONTEXT).sum().backward()

        few = repeats if count < 500 else max(1, repeats // 3)
        sides = {"77 tokens": plain, "shared context": with_prefix, "own contexts": short}
        seconds = alternately(sides, few)
        row: dict[str, Any] = {"categories": count, "tokens_in_name": int(counts.max()) - 2}
        row["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
        for name in ("shared context", "own contexts"):
            row[f"{name}, times faster"] = round(seconds["77 tokens"] / seconds[name], 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def predicting(repeats: int) -> dict[str, Any]:
    """`predict_many` from files, against the bare image tower on tensors that are ready."""
    model = trmml.load_model("coco18-tiny", device="cpu")
    count, batch = 128, 16
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        photos = []
        for i in range(count):
            coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            photos.append(Path(place) / f"{i}.jpg")
            Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(photos[-1])
        size = model.config.photo.image_size
        ready = torch.randn(batch, 3, size, size)

        def bare() -> None:
            with torch.inference_mode():
                for _ in range(count // batch):
                    model.backbone.image_tower(ready)

        def whole() -> None:
            for _ in model.predict_many(photos, batch_size=batch):
                pass

        seconds = alternately({"bare tower": bare, "predict_many": whole}, repeats)
    row = {name: round(count / value, 1) for name, value in seconds.items()}
    share = seconds["bare tower"] / seconds["predict_many"]
    found = {"photos_per_second": row, "share_of_bare_tower": round(share, 3)}
    print(json.dumps(found), flush=True)
    return found


def starting(repeats: int) -> dict[str, Any]:
    """One photo in a new process, against importing torch and open_clip alone."""
    with tempfile.TemporaryDirectory() as place:
        photo = Path(place) / "photo.jpg"
        Image.new("RGB", (640, 480), "grey").save(photo)

        def process(*arguments: str) -> Callable[[], object]:
            return lambda: subprocess.run(
                [sys.executable, *arguments], check=True, capture_output=True
            )

        sides = {
            "import torch, open_clip": process("-c", "import torch, open_clip"),
            "trmml predict": process("-m", "trmml", "predict", str(photo)),
            "trmml --help": process("-m", "trmml", "--help"),
        }
        seconds = alternately(sides, repeats)
    found: dict[str, Any] = {"seconds": {name: round(value, 2) for name, value in seconds.items()}}
    base = seconds["import torch, open_clip"]
    found["times_the_import"] = round(seconds["trmml predict"] / base, 2)
    print(json.dumps(found), flush=True)
    return found


PARTS = {"text": text_side, "predict": predicting, "start": starting}


def main() -> None:
    """Measure one part and add it to the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = json.loads(args.output.read_text("utf-8")) if args.output.is_file() else {}
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    results["facts"] = {
        "commit": commit,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    results[args.part] = PARTS[args.part](args.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    results[f"{args.part}_peak_gb"] = round(peak, 2)
    write_json(args.output, results)


if __name__ == "__main__":
    main()
