"""Compute size and cost of every architecture that can be loaded by name, without weights.

    python examples/benchmarks/architectures.py        # writes trmml/backbone/architectures.json

Each is built without memory for its numbers, and its image tower taken apart as for use.
"""

import json
import time
from typing import Any

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from trmml.backbone.building import build
from trmml.backbone.listing import ARCHITECTURES, list_backbones
from trmml.backbone.text_towers import text_tower
from trmml.backbone.towers import image_tower


def measured(name: str) -> dict[str, float]:
    """Return parameters in millions, and 10⁹ operations for a photo."""
    settings: Any = open_clip.get_model_config(name)
    size = settings["vision_cfg"]["image_size"]
    with torch.device("meta"), torch.no_grad():
        clip: Any = build(settings, True, name)
        clip.eval().requires_grad_(False)
        photo = torch.zeros(1, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            clip.visual(photo)
        image_tower(clip, size)(photo)
    if not settings["text_cfg"].get("hf_tokenizer_name"):
        text_tower(clip)
    parameters = sum(parameter.numel() for parameter in clip.parameters())
    return {
        "parameters": round(parameters / 1e6, 1),
        "gflops": round(counter.get_total_flops() / 1e9, 1),
    }


def main() -> None:
    """Write the table."""
    if not ARCHITECTURES.exists():
        ARCHITECTURES.write_text("{}")
    table = {}
    for name in sorted({backbone.name.partition("/")[0] for backbone in list_backbones()[0]}):
        start = time.process_time()
        table[name] = measured(name)
        print(f"{name}: {table[name]} ({time.process_time() - start:.1f} s)", flush=True)
    ARCHITECTURES.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
