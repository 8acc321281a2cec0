"""What the speed measurements share: taking turns, peak memory, towers and photos made up."""

import json
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

WORDS = ("dog", "traffic light", "parking meter", "fire hydrant", "person", "bus", "potted plant")


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


def peak_gb_of(run: Callable[[], object]) -> float:
    """Return the largest memory of this process, in GB, while something runs."""
    pages, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            pages.append(int(Path("/proc/self/statm").read_text().split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(pages) * resource.getpagesize() / 1e9


def clip_folder(name: str, place: Path, changes: dict[str, Any] | None = None) -> str:
    """Write an open_clip architecture with random weights, and return it as a source."""
    config: Any = open_clip.get_model_config(name if changes is None else "ViT-B-16")
    config |= changes or {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(**config)
    folder = place / name
    folder.mkdir()
    state = {key: tensor.contiguous() for key, tensor in clip.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    photo = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    description = {"model_cfg": config, "preprocess_cfg": photo}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return f"local-dir:{folder}"


def write_photos(place: Path, count: int) -> list[Path]:
    """Write JPEGs of 640 × 480 with soft shapes, as large as photos are."""
    generator, photos = np.random.default_rng(0), []
    for i in range(count):
        coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        photos.append(place / f"{i}.jpg")
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(photos[-1])
    return photos
