"""What the exact shortcuts save: ratios of two things measured in one run.

    python examples/benchmarks/speed.py text --output speed.json

The other parts are layout, predict, epoch, start, labels and photos; `all` measures every part. Each
writes its figures into the same JSON. Times are the medians of some repetitions that take
turns, so that a busy machine slows both sides alike.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from growth import growth_with_categories, growth_with_photos
from measuring import WORDS, alternately, clip_folder, peak_gb_of, write_photos
from PIL import Image
from provenance import provenance
from torch import Tensor

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import load_clip
from trmml.backbone.text_towers import text_tower
from trmml.files import write_json
from trmml.matcher.prompts import PromptLearner, random_context

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
CONTEXT = 16
TOWERS = {"small-clip": 256, "RN50": 64, "ViT-B-16": 64}
"""Image towers, and the photos that each is measured on."""
CHUNK = 80
"""Prompts at once on the plain path: 1,000 of 77 tokens do not fit into 24 GB with their gradient."""


def source_of(name: str, place: Path) -> str:
    """Return the bundled CLIP, or another architecture with random weights, as a source."""
    return name if name == "small-clip" else clip_folder(name, place)


def text_side(repeats: int) -> list[dict[str, Any]]:
    """Forward and backward of the text side: all 77 tokens, against what is needed."""
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(512, vision, TEXT).eval().requires_grad_(False)
    tower, generator = text_tower(clip), torch.Generator().manual_seed(0)
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
                tokens = prompts + tower.positional_embedding
                tokens = tower.transformer(tokens, attn_mask=tower.attention_mask)
                ends = tokens[torch.arange(len(tokens)), counts[here] + CONTEXT - 1]
                text = tower.ln_final(ends) @ tower.text_projection
                F.normalize(text, dim=-1).sum().backward()

        def with_prefix(names: Tensor = names, counts: Tensor = counts,
                        learner: PromptLearner = shared) -> None:  # fmt: skip
            tower.encode_behind(learner.context, names, counts).sum().backward()

        def short(names: Tensor = names, counts: Tensor = counts,
                  learner: PromptLearner = own) -> None:  # fmt: skip
            tower(learner(names), counts + CONTEXT).sum().backward()

        few = repeats if count < 500 else max(1, repeats // 3)
        sides = {"77 tokens": plain, "shared context": with_prefix, "own contexts": short}
        seconds = alternately(sides, few)
        row: dict[str, Any] = {"labels": count, "tokens_in_name": int(counts.max()) - 2}
        row["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
        for name in ("shared context", "own contexts"):
            row[f"{name}, times faster"] = round(seconds["77 tokens"] / seconds[name], 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def layouts(repeats: int) -> list[dict[str, Any]]:
    """open_clip's image tower on 16 photos, against ours, in bfloat16 and compiled too."""
    rows = []
    for name in TOWERS:
        with tempfile.TemporaryDirectory() as place:
            source = source_of(name, Path(place))
            plain: Any = load_clip(source, text=False).clip.visual.eval()
            clip = FrozenCLIP.load(source, text=False)
            last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
            photos = torch.randn(16, 3, clip.photo.image_size, clip.photo.image_size)
            ordered = photos.contiguous(memory_format=torch.channels_last)

            half = FrozenCLIP.load(source, text=False)
            half.use_bfloat16()

            def run(tower: Any, photos: Tensor) -> None:
                with torch.inference_mode():
                    tower(photos)

            compiled = torch.compile(clip.image_tower)
            started = time.perf_counter()
            run(compiled, ordered)
            to_compile = time.perf_counter() - started
            sides: dict[str, Callable[[], object]] = {
                "open_clip": partial(run, plain, photos),
                "channels last": partial(run, last, ordered),
                "channels last, norms folded, with patches (trmml)": partial(run, clip, photos),
                "trmml in bfloat16": partial(run, half, photos),
                "trmml compiled": partial(run, compiled, ordered),
            }
            seconds = alternately(sides, repeats)
            base = seconds["open_clip"]
            row: dict[str, Any] = {"tower": name, "image_size": clip.photo.image_size}
            row["times_faster"] = {k: round(base / v, 2) for k, v in seconds.items()}
            row["seconds_to_compile"] = round(to_compile, 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def predicting(repeats: int) -> list[dict[str, Any]]:
    """`predict_many` from files, against the bare image tower on tensors that are ready."""
    rows = []
    for name, count in TOWERS.items():
        with tempfile.TemporaryDirectory() as place:
            source = source_of(name, Path(place))
            photos = write_photos(Path(place), count)
            model = trmml.load_model("zero-shot", labels=list(WORDS), backbone=source, device="cpu")
            size, batch = model.config.photo.image_size, 16
            ready = torch.randn(batch, 3, size, size)

            tower = load_clip(source, text=False).clip.visual.eval()

            def bare(tower: Any = tower, ready: Tensor = ready, count: int = count) -> None:
                with torch.inference_mode():
                    for _ in range(count // len(ready)):
                        tower(ready)

            def whole(model: Any = model, photos: list[Path] = photos, batch: int = batch) -> None:
                for _ in model.predict_many(photos, batch_size=batch):
                    pass

            seconds = alternately({"bare tower": bare, "predict_many": whole}, repeats)
            row: dict[str, Any] = {"tower": name, "image_size": size}
            row["photos_per_second"] = {k: round(count / v, 1) for k, v in seconds.items()}
            row["share_of_bare_tower"] = round(seconds["bare tower"] / seconds["predict_many"], 3)
            row["times_the_memory"] = round(peak_gb_of(whole) / peak_gb_of(bare), 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def epochs(repeats: int) -> list[dict[str, Any]]:
    """An epoch of fine-tuning with cached features, against the same with photos encoded anew."""
    rows = []
    for name, count in (("small-clip", 1024), ("ViT-B-16", 256)):
        with tempfile.TemporaryDirectory() as place:
            source = source_of(name, Path(place))
            photos = write_photos(Path(place), count + 16)
            os.environ["TRMML_CACHE"] = place
            generator = np.random.default_rng(0)
            labels = generator.integers(-1, 2, (len(photos), 18)).astype(np.int8)
            names = tuple(f"{WORDS[i % len(WORDS)]} {i}" for i in range(18))
            data = trmml.MultiLabelDataset(tuple(photos), labels, names, source="speed")
            train, val = data.subset(np.arange(count)), data.subset(np.arange(count, count + 16))
            backbone = FrozenCLIP.load(source)

            def seconds_of(features: str, train: Any = train, val: Any = val,
                           backbone: Any = backbone) -> list[float]:  # fmt: skip
                settings = {"training.epochs": repeats, "training.features": features}
                with tempfile.TemporaryDirectory() as out:
                    trmml.finetune(train, val=val, backbone=backbone, config=settings,
                                   output=f"{out}/model")  # fmt: skip
                    history = Path(out, "model", "log.jsonl").read_text().splitlines()
                return [json.loads(line)["seconds"] for line in history]

            seconds = {f: statistics.median(seconds_of(f)) for f in ("cached", "augmented")}
            row = {"tower": name, "photos": count, "seconds": seconds}
            row["times_faster"] = round(seconds["augmented"] / seconds["cached"], 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


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


PARTS = {
    "text": text_side,
    "layout": layouts,
    "predict": predicting,
    "epoch": epochs,
    "start": starting,
    "labels": growth_with_categories,
    "photos": growth_with_photos,
}


def main() -> None:
    """Measure one part and add it to the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = json.loads(args.output.read_text("utf-8")) if args.output.is_file() else {}
    for part in PARTS if args.part == "all" else [args.part]:
        results[part] = {"facts": provenance(), "rows": PARTS[part](args.repeats)}
        write_json(args.output, results)


if __name__ == "__main__":
    main()
