"""Put a trained model, or a small CLIP, into the package, with card and checksums.

python weights_cards/bundle.py runs/coco18-tiny coco18-tiny
python weights_cards/bundle.py runs/clip/clip small-clip
"""

import platform
import shutil
import sys
import time
from pathlib import Path

import torch
from skimage import data

import trmml
from trmml.files import BUNDLED, read_json, sha256_of, write_json
from trmml.zoo.publishing import stage

CARDS = Path(__file__).parent
PHOTOS = 50


def bundle_model(source: Path, name: str) -> None:
    """Copy a model with what is written about it, measure its speed and render its card."""
    folder = BUNDLED / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CARDS / f"{name}.json", folder / "about.json")
    stage(source, folder, name)
    torch.set_num_threads(1)
    model = trmml.load_model(name, device="cpu")
    photo = data.astronaut()
    list(model.predict_many([photo] * 3, batch_size=1))
    started = time.perf_counter()
    list(model.predict_many([photo] * PHOTOS, batch_size=1))
    milliseconds = 1000 * (time.perf_counter() - started) / PHOTOS
    files = [*folder.iterdir(), *(BUNDLED / "small-clip").iterdir()]
    write_json(
        folder / "speed.json",
        {
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "milliseconds_per_photo": round(milliseconds, 1),
            "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        },
    )
    stage(folder, folder, name)
    shutil.copyfile(folder / "README.md", CARDS / f"{name}.md")


def main(source: str, name: str) -> None:
    """Copy and write the checksums of all that is bundled; pinned models stay as they are."""
    if (Path(source) / "config.json").is_file():
        bundle_model(Path(source), name)
    else:
        shutil.copytree(source, BUNDLED / name, dirs_exist_ok=True)
    path = BUNDLED / "registry.json"
    registry = read_json(path) if path.is_file() else {}
    for folder in sorted(place for place in BUNDLED.iterdir() if place.is_dir()):
        files = sorted(file for file in folder.iterdir() if file.is_file())
        registry[folder.name] = {"sha256": {file.name: sha256_of(file) for file in files}}
    write_json(path, registry)


if __name__ == "__main__":
    main(*sys.argv[1:3])
