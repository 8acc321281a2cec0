"""Time image towers: seconds of a training step of 256 photos, in bfloat16, the tower alone.

python examples/small_clip/towers.py towers.json cs3darknet_focus_s regnetx_004
"""

import json
import sys
import time
from pathlib import Path

import timm
import torch

BATCH, REPEATS = 256, 4


def seconds_of(tower: torch.nn.Module, size: int) -> float:
    """Return the fastest of some steps, forward and backward, at this side of the photos."""
    photos = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            features = tower(photos)
        features.float().square().mean().backward()
        taken.append(time.perf_counter() - started)
    return round(min(taken), 2)


def main(output: str, *names: str) -> None:
    """Write a row a tower."""
    rows = []
    for name in names:
        tower = timm.create_model(name, num_classes=384).to(memory_format=torch.channels_last)
        row = {"tower": name, "parameters": sum(p.numel() for p in tower.parameters())}
        rows.append(row | {f"{size} px": seconds_of(tower, size) for size in (64, 96)})
        print(json.dumps(rows[-1]), flush=True)
    facts = {"torch": torch.__version__, "timm": timm.__version__}
    facts["threads"] = str(torch.get_num_threads())
    Path(output).write_text(json.dumps({"facts": facts, "towers": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
