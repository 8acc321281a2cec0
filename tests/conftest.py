"""Real models of toy size and photos that the tests make themselves. No network, no shared data.

Whatever the tests ask of the Hugging Face Hub goes to a server in this process; see `hub_server.py`.
"""

import contextlib
import importlib
import json
import os
import sys

from hub_server import HUB, HubServer

# Read by huggingface_hub when it is imported, which happens below; subprocesses inherit them.
os.environ["HF_ENDPOINT"] = HUB.url
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
os.environ["HF_HUB_OFFLINE"] = "0"
# Toy networks are slower on several threads than on one; subprocesses inherit this.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from trmml.backbone.clip import FrozenCLIP
from trmml.cli import main
from trmml.config.groups import MatchingConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.thresholds import Calibration
from trmml.zoo.loading import make_config

pytest_plugins = ("page_fixtures",)

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
VISION = {
    "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
    "timm": {
        "timm_model_name": "resnet10t",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    },
}
DIM = 16

torch.set_num_threads(1)

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
CATEGORIES = tuple(COLOURS)


def write_clip(folder: Path, vision: dict[str, Any], **settings: Any) -> Path:
    """Write a CLIP with random weights in open_clip's `local-dir` form."""
    architecture = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": TEXT, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        clip = open_clip.CLIP(**architecture)
        for module in clip.modules():  # statistics that a trained network would have
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                # open_clip starts the last one of a block at zero: the block would do nothing.
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    folder.mkdir(parents=True)
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": architecture,
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def clip_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny CLIP on disk for each kind of image tower."""
    root = tmp_path_factory.mktemp("clips")
    return {kind: write_clip(root / kind, vision) for kind, vision in VISION.items()}


@pytest.fixture(scope="session")
def backbone_source(clip_folders: dict[str, Path]) -> str:
    """Name of the tiny ViT."""
    return f"local-dir:{clip_folders['vit']}"


@pytest.fixture
def backbone(backbone_source: str) -> FrozenCLIP:
    """The tiny ViT, frozen, with its text tower."""
    return FrozenCLIP.load(backbone_source)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """An empty loopback Hub, and an empty cache for what is fetched from it."""
    HUB.reset()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return HUB


def colour_squares(folder: Path, num_photos: int, seed: int = 0) -> MultiLabelDataset:
    """Draw photos with squares of known colours on grey."""
    generator = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    states = np.full((num_photos, len(CATEGORIES)), NEGATIVE, dtype=np.int8)
    photos = []
    for row in range(num_photos):
        pixels = np.full((48, 48, 3), 128, dtype=np.uint8)
        for column, colour in enumerate(COLOURS.values()):
            # Every label is in about half of the photos, and in the first ones for sure.
            if row % len(CATEGORIES) == column or generator.random() < 0.3:
                states[row, column] = POSITIVE
                top, left = generator.integers(0, 32, size=2)
                pixels[top : top + 16, left : left + 16] = colour
        photo = folder / f"{row:03}.png"
        Image.fromarray(pixels).save(photo)
        photos.append(photo)
    return MultiLabelDataset(tuple(photos), states, CATEGORIES, source="toy")


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., MultiLabelDataset]:
    """Return a maker of photos with squares of known colours."""

    def make(num_photos: int = 8, seed: int = 0) -> MultiLabelDataset:
        return colour_squares(tmp_path / f"photos-{seed}", num_photos, seed)

    return make


def untrained(
    backbone: FrozenCLIP, labels: tuple[str, ...] = ("a", "b", "c"), **settings: Any
) -> TextRegionMatcher:
    """Return a model as before training: of two heads, started from text."""
    matching = MatchingConfig(**{"num_heads": 2, **settings})
    model = TextRegionMatcher(make_config(backbone, labels, matching), backbone)
    model.start_from_text()
    return model


def trained_like(
    backbone: FrozenCLIP, labels: tuple[str, str, str] = CATEGORIES, **settings: Any
) -> TextRegionMatcher:
    """Return a model as after training: no tensor is even or zero, and it has thresholds."""
    matching = MatchingConfig(num_context_tokens=3, **settings)
    model = TextRegionMatcher(make_config(backbone, labels, matching), backbone)
    model.start_from_text(seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in model.learned_state().values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    model.store_text()
    model.calibration = Calibration(
        thresholds=(0.2, 0.4, 0.6), global_threshold=0.3, known_positives=(5, 6, 7), method="test"
    )
    return model.eval()


@contextlib.contextmanager
def small_disk(room: int = 1000) -> Iterator[None]:
    """Let no file grow beyond some bytes, as on a disk that is nearly full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with it, so that what writes gets an error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def load_example(path: str) -> ModuleType:
    """Import a script of `examples` by its path there; its siblings are found as when it runs."""
    file = Path(__file__).parents[1] / "examples" / path
    sys.path.insert(0, str(file.parent))
    try:
        return importlib.import_module(file.stem)
    finally:
        sys.path.remove(str(file.parent))


def run_command(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
