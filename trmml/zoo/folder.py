"""A model on disk: a folder of JSON and safetensors, written whole and read strictly.

| file | content |
|:--|:--|
| `config.json` | format version and `ModelConfig` |
| `model.safetensors` | the learned tensors and the final text features; nothing of the backbone |
| `calibration.json` | thresholds |
| `metrics.json`, `finetune.json` | what was measured, and how it was trained |
| `speed.json` | optional: size and time per photo |
| `about.json` | optional, written by a person: summary, license, data, intended use |
| `README.md` | the model card, rendered from the files above |
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.weights import TensorFile, is_finite, open_tensors
from trmml.config.groups import ModelConfig
from trmml.errors import ArtifactError, ConfigError, ModelNotFoundError
from trmml.files import (
    MAX_JSON_BYTES,
    read_json,
    set_mode,
    with_home,
    write_atomically,
    write_json,
    write_text,
    writing_to,
)
from trmml.hub.repository import Access
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.thresholds import Calibration
from trmml.version import __version__
from trmml.zoo.card import CardFacts, model_card

FORMAT_VERSION = 2
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
CARD, LOG = "README.md", "log.jsonl"  # the log is of a training that ended here, and never shared
MAX_WEIGHTS_BYTES = 4 * 2**30
REQUIRED_FILES = {CONFIG: MAX_JSON_BYTES, CALIBRATION: MAX_JSON_BYTES, WEIGHTS: MAX_WEIGHTS_BYTES}
"""What makes a model, and the largest size that is read, in bytes."""
OPTIONAL_FILES: dict[str, int] = {
    name: MAX_JSON_BYTES
    for name in (CARD, "metrics.json", "finetune.json", "about.json", "speed.json")
}
"""What else is published with it."""


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder` and move it there in one step at the end.

    If anything fails, nothing is left behind.

    Raises:
        ConfigError: If `folder` exists.
        OutputError: If it cannot be made, or what it is given cannot be written.
    """
    require_new(folder)
    with writing_to(folder):
        name = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part")
        temporary = Path(name)
        try:
            yield temporary
            set_mode(temporary, 0o755)  # mkdtemp makes folders for the owner alone
            move_into_place(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def require_new(folder: Path) -> None:
    """Make sure that a folder can be made, and make its parents.

    Raises:
        ConfigError: If it exists already.
        OutputError: If its parent cannot be made or written to.
    """
    with writing_to(folder, "Choose another output."):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"{folder} exists already; choose another output, nothing is overwritten."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def move_into_place(temporary: Path, folder: Path) -> None:
    """Rename a finished folder; an empty one may stand in its place."""
    if folder.is_dir():
        # Fails if there is anything in it. Windows renames onto no folder, not even an empty one.
        folder.rmdir()
    temporary.rename(folder)


def save_model(
    model: TextRegionMatcher, folder: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a model into a new folder, whole or not at all.

    Args:
        model: The model.
        folder: Where; must not exist.
        facts: Further JSON files by name without suffix, as `{"metrics": {...}}`.

    Raises:
        ConfigError: If the folder exists.
        OutputError: If it cannot be written.
    """
    folder = with_home(folder)
    with new_folder(folder) as temporary:
        write_model_files(model, temporary, facts, card_name=str(folder))
    return folder


def copy_folder(source: Path, folder: Path) -> None:
    """Copy the files of a model into a new folder, all or none.

    Raises:
        ConfigError: If the folder exists.
        OutputError: If it cannot be written.
    """
    with new_folder(folder) as temporary:
        for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)


def write_model_files(
    model: TextRegionMatcher,
    folder: Path,
    facts: Mapping[str, Any] | None = None,
    *,
    card_name: str | None = None,
) -> None:
    """Write the files of a model into a folder that is not yet in its place, by its later name."""
    # Clones, since safetensors refuses tensors that share memory.
    tensors = {
        name: _finite(tensor.detach().cpu().clone(), f"The model's {name}")
        for name, tensor in model.learned_state().items()
    }
    content = save(tensors)  # `save_file` has an error of its own for a full disk
    write_atomically(folder / WEIGHTS, lambda path: path.write_bytes(content))
    settings = {"format_version": FORMAT_VERSION, "trmml_version": __version__}
    write_json(folder / CONFIG, settings | model.config.to_dict())
    write_json(folder / CALIBRATION, model.calibration.to_dict(model.labels))
    for name, values in (facts or {}).items():
        write_json(folder / f"{name}.json", values)
    # Last, since it is rendered from the files above.
    write_card(folder, name=card_name or folder.name)


def write_card(folder: Path, name: str) -> str:
    """Render `README.md` of a model folder from its JSON files and return it.

    Args:
        folder: The model folder.
        name: What `load_model` takes to load it.

    Raises:
        ArtifactError: If a file is damaged or does not have the form that `trmml` writes.
    """
    facts = CardFacts(
        **{part: read_facts(folder, part) for part in ("config", "calibration", "metrics")},
        **{part: read_facts(folder, part) for part in ("finetune", "speed", "about")},
    )
    card = model_card(facts, name)
    write_text(folder / CARD, card)
    return card


def read_config(folder: Path) -> ModelConfig:
    """Read and check `config.json`.

    Raises:
        ModelNotFoundError: If there is none.
        ArtifactError: If it is of a newer format or does not hold a valid configuration.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelNotFoundError(f"There is no {CONFIG} in {folder}; it is no model folder.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} must hold an object.")
    version = values.pop("format_version", None)
    values.pop("trmml_version", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has the format version {version!r}; expected {FORMAT_VERSION}."
        )
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this trmml reads {FORMAT_VERSION}; "
            "upgrade with `pip install -U trmml`."
        )
    try:
        config = ModelConfig.from_dict(values)
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}") from error
    # Each size is in its range, but their product need not fit into memory.
    contexts = len(config.labels) if config.matching.label_specific_context else 1
    if 4 * contexts * config.matching.num_context_tokens * config.text_width > MAX_WEIGHTS_BYTES:
        raise ArtifactError(
            f"{path} describes contexts of more than {MAX_WEIGHTS_BYTES >> 30} GiB; they are not made."
        )
    return config


def load_folder(
    folder: Path,
    *,
    backbone: str | None = None,
    text: bool = False,
    access: Access | None = None,
) -> TextRegionMatcher:
    """Read a model folder, strictly: every tensor, no other, and the shapes of the configuration.

    Args:
        folder: The model folder.
        backbone: Where the backbone is, if it has moved; its checksum must be the same.
        text: Whether to load the text tower as well; prediction does not need it.
        access: How to reach the Hugging Face Hub, for the backbone.

    Raises:
        ModelNotFoundError: If a file is missing.
        ArtifactError: If a file is damaged or does not fit the others.
    """
    config = read_config(folder)
    source = backbone or config.backbone.source
    frozen = FrozenCLIP.load(
        source,
        image_size=config.photo.image_size,
        text=text,
        expected=config.backbone,
        access=access,
    )
    try:
        with torch.device("meta"):  # shapes, and no memory: the file may state any
            wanted = TextRegionMatcher(config, frozen).learned_state()
        with _fitting_tensors(folder / WEIGHTS, wanted) as file:
            model = TextRegionMatcher(config, frozen)
            with torch.no_grad():
                for name, tensor in model.learned_state().items():
                    tensor.copy_(_finite(file.read(name), f"{folder / WEIGHTS}: {name}"))
    except ConfigError as error:
        raise ArtifactError(f"{folder / CONFIG}: {error}") from error
    _check_scores(model, folder / WEIGHTS)
    path = folder / CALIBRATION
    if not path.is_file():
        raise ModelNotFoundError(f"There is no {CALIBRATION} in {folder}.")
    model.calibration = Calibration.from_dict(read_json(path), model.labels, str(path))
    model.source = str(folder)
    return model.eval().requires_grad_(False)


LARGEST = 1e6
"""No learned value comes near it; from there on scores could be NaN."""


@contextlib.contextmanager
def _fitting_tensors(path: Path, wanted: Mapping[str, Tensor]) -> Iterator[TensorFile]:
    """Open a file of learned tensors, if their names and shapes are exactly those that are wanted."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no {path.name} in {path.parent}.")
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise ArtifactError(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 30} GiB; it is not read.")
    with open_tensors(path) as file:
        found = set(file.shapes)
        if found != set(wanted):
            raise ArtifactError(
                f"{path} does not fit {CONFIG}: missing tensors {sorted(set(wanted) - found)}, "
                f"unexpected tensors {sorted(found - set(wanted))}."
            )
        for name, tensor in wanted.items():
            if file.shapes[name] != tuple(tensor.shape):
                raise ArtifactError(
                    f"{path}: {name} has the shape {file.shapes[name]}, {CONFIG} needs "
                    f"{tuple(tensor.shape)}."
                )
        yield file


@torch.no_grad()
def _check_scores(model: TextRegionMatcher, path: Path) -> None:
    """Refuse a model that scores a grey photo with NaN, as finite tensors may make it do as well."""
    scores = model.match(model.backbone.grey_features, model.stored_text()).scores
    if not is_finite(scores):
        raise ArtifactError(
            f"{path} gives scores that are no finite numbers; it holds no trained model."
        )


def _finite(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor that holds floating-point numbers below the largest that is accepted."""
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ArtifactError(f"{name} holds {tensor.dtype}, and not floating-point numbers.")
    if not bool((tensor.abs() < LARGEST).all()):  # false for NaN
        raise ArtifactError(f"{name} holds values that are no finite numbers, or far too large.")
    return tensor


def read_facts(folder: Path, name: str) -> dict[str, Any]:
    """Return `<name>.json` of a model folder, or an empty dict if it has none."""
    path = folder / f"{name}.json"
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} must hold an object.")
    return values


def add_metrics(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Keep a measurement in `metrics.json` under a name, and render the card anew.

    Raises:
        OutputError: If the folder cannot be written to.
    """
    metrics = read_facts(folder, "metrics") | {name: dict(values)}
    with writing_to(folder):
        write_json(folder / "metrics.json", metrics)
        write_card(folder, str(folder))


def replace_calibration(folder: Path, calibration: Calibration) -> None:
    """Write other thresholds into a model folder, forget F1 at those before, and render the card anew.

    Raises:
        OutputError: If the folder cannot be written to.
    """
    names, metrics = read_config(folder).labels, read_facts(folder, "metrics")
    for measured in metrics.values():
        if isinstance(measured, dict) and isinstance(measured.get("at_thresholds"), dict):
            measured["at_thresholds"] = dict.fromkeys(measured["at_thresholds"])
    with writing_to(folder):
        write_json(folder / CALIBRATION, calibration.to_dict(names))
        if metrics:
            write_json(folder / "metrics.json", metrics)
        write_card(folder, str(folder))
