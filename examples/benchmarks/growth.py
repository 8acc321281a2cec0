"""How time and memory grow with the number of labels and of photos; parts of speed.py."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import WORDS, clip_folder, peak_gb_of, write_photos
from PIL import Image

import trmml
from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import MatchingConfig
from trmml.matcher.model import TextRegionMatcher
from trmml.zoo.loading import make_config


def growth_with_categories(repeats: int) -> list[dict[str, Any]]:
    """A training step of prompts and regions, and matching alone, on batches of 8 photos.

    With a shared context every label adds the tokens of its name; with contexts of their own,
    the whole prompt. The latter stops at 1,000.
    """
    rows = []
    backbone = FrozenCLIP.load("small-clip")
    generator = torch.Generator().manual_seed(0)
    features = ImageFeatures(
        torch.randn(8, backbone.num_patches, backbone.dim, generator=generator),
        torch.randn(8, backbone.dim, generator=generator),
    )
    for count in (10, 100, 1000, 10_000):
        names = tuple(f"{WORDS[i % len(WORDS)]} {i}" for i in range(count))
        row: dict[str, Any] = {"labels": count, "seconds": {}, "peak_gb": {}}
        for own in (False, True) if count <= 1000 else (False,):
            matching = MatchingConfig(label_specific_context=own)
            model = TextRegionMatcher(make_config(backbone, names, matching), backbone)
            model.start_from_text()

            def step(model: TextRegionMatcher = model) -> None:
                model.match(features, model.encode_text()).logits.sum().backward()
                model.zero_grad()

            def match(model: TextRegionMatcher = model) -> None:
                with torch.inference_mode():
                    model.match(features, model.stored_text())

            parts = {"step, own contexts": step}
            if not own:
                parts = {"step, shared context": step, "match": match}
            for name, run in parts.items():
                seconds, peak = _time_and_peak(run, repeats if count <= 1000 else 1)
                row["seconds"][name], row["peak_gb"][name] = round(seconds, 4), round(peak, 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _time_and_peak(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median seconds and the largest memory in GB; with one repeat, no warm-up."""
    if repeats > 1:
        run()
    taken = []

    def timed() -> None:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)

    peak = max(peak_gb_of(timed) for _ in range(repeats))
    return statistics.median(taken), peak


ONE_EPOCH = {"training.epochs": 1, "matching.num_heads": 2, "training.train_prompts": False}
TINY = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}


def growth_with_photos(repeats: int) -> list[dict[str, Any]]:
    """Reading a table, an epoch over cached features and predicting, for ever more photos.

    A tower of one layer and prompts that stay, so that what is measured is everything around them.
    """
    rows = []
    for count in (1000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as place:
            os.environ["TRMML_CACHE"] = place
            (photo,) = write_photos(Path(place), 1)
            with Image.open(photo) as picture:
                picture.resize((96, 72)).save(photo)
            photos = [photo.with_name(f"{i}.jpg") for i in range(count)]
            for link in photos[1:]:
                link.symlink_to(photo)
            cells = np.random.default_rng(0).choice(np.array(["", "0", "1"]), (count, 20))
            table = Path(place) / "labels.csv"
            lines = [f"{p.name},{','.join(row)}" for p, row in zip(photos, cells, strict=True)]
            header = ",".join(["image", *(f"label {i}" for i in range(20))])
            table.write_text("\n".join([header, *lines]) + "\n")
            backbone = FrozenCLIP.load(clip_folder("tiny", Path(place), {"vision_cfg": TINY}))
            data: list[Any] = []
            taken, peaks = {}, {}
            parts: dict[str, Callable[[], object]] = {
                "read": lambda data=data, table=table: data.append(trmml.read_dataset(table)),
                "features and epoch": lambda data=data, backbone=backbone: data.append(
                    trmml.finetune(data[0], backbone=backbone, config=ONE_EPOCH)
                ),
                "predict": lambda data=data, photos=photos: [
                    None for _ in data[1].predict_many(photos, batch_size=64)
                ],
            }
            for name, run in parts.items():
                seconds, peak = _time_and_peak(run, 1)
                taken[name], peaks[name] = round(seconds, 2), round(peak, 2)
        row = {"photos": count, "seconds": taken, "peak_gb": peaks}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows
