"""What can be loaded by name: bundled models, folders, pinned models and others on the Hub.

`weights/registry.json` holds the checksums of what comes with the package, and may pin models on the
Hub by commit and checksum under a short name.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trmml.backbone.loading import SMALL_CLIP, names_a_clip
from trmml.errors import (
    ArtifactError,
    ConfigError,
    ModelAccessError,
    ModelNotFoundError,
    OfflineError,
    nearest,
)
from trmml.files import BUNDLED, is_folder, read_json, sha256_of, with_home
from trmml.hub.repository import Access, RepositoryFile, fetch_files, has_its_checksum, split_name
from trmml.zoo.folder import CONFIG, LOG, OPTIONAL_FILES, REQUIRED_FILES, read_config, read_facts

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model folder says about itself, read without loading the model.

    Attributes:
        name: What `load_model` takes; for a model on the Hub with its commit.
        summary: One sentence.
        folder: Where it lies; None for a pinned model that has not been fetched yet, of which nothing
            below is known either.
        labels: Its labels.
        backbone: Source of its CLIP.
        image_size: Side of the square photos.
        matching: How text meets the image.
        license: Of the weights.
        validation_map: mAP on the photos that chose the epoch, in [0, 1], if measured.
        test_map: mAP on test photos, if measured.
        megabytes: Size of the folder, without the backbone.
    """

    name: str
    summary: str
    folder: Path | None = None
    labels: tuple[str, ...] = ()
    backbone: str = ""
    image_size: int = 0
    matching: str = ""
    license: str | None = None
    validation_map: float | None = None
    test_map: float | None = None
    megabytes: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        folder = None if self.folder is None else str(self.folder)
        return {**dataclasses.asdict(self), "folder": folder}


def list_models() -> list[ModelInfo]:
    """Return the models that have a short name: those of the package, and those pinned on the Hub."""
    return [_listed(name) for name in sorted({*_bundled(), *_pinned_names()})]


def _listed(name: str) -> ModelInfo:
    try:
        # A list must not wait for a network.
        return model_info(name, access=Access(local_files_only=True))
    except OfflineError:
        return ModelInfo(name=name, summary="On the Hub, not fetched yet.")


def model_info(
    source: str | Path, *, revision: str | None = None, access: Access | None = None
) -> ModelInfo:
    """Read what a model says about itself; arguments and errors as `model_folder_of`."""
    folder, name = model_folder_of(source, revision, access)
    config = read_config(folder)
    about, metrics = read_facts(folder, "about"), read_facts(folder, "metrics")
    return ModelInfo(
        name=name,
        folder=folder,
        summary=str(about.get("summary", "")),
        labels=config.labels,
        backbone=config.backbone.source,
        image_size=config.photo.image_size,
        matching=config.matching.way,
        license=about.get("license"),
        validation_map=_map_of(metrics, "validation", folder),
        test_map=_map_of(metrics, "test", folder),
        megabytes=sum(path.stat().st_size for path in folder.glob("*.*") if path.is_file()) / 1e6,
    )


def _map_of(metrics: dict[str, Any], part: str, folder: Path) -> float | None:
    measured = metrics.get(part, {})
    if isinstance(measured, dict) and isinstance(value := measured.get("mAP"), int | float | None):
        return value
    raise ArtifactError(
        f"{folder / 'metrics.json'}: {part!r} must hold an object with a number as mAP, "
        f"got {measured!r:.60}."
    )


class FileCheck(NamedTuple):
    """Whether a file has the bytes that were published."""

    name: str
    is_intact: bool


def verify_model(source: str | Path, *, access: Access | None = None) -> list[FileCheck]:
    """Compute the checksums of a model's files anew and compare them with the published ones.

    Args:
        source: A bundled name, or `org/name@revision` on the Hub.
        access: How to reach the Hub.

    Raises:
        ConfigError: If it is a folder, for which nothing was published.
        ModelNotFoundError: If there is no such model.
    """
    if str(source) in _bundled():
        # A bundled model says nothing without the CLIP that it was trained on.
        names, registry = (str(source), SMALL_CLIP), _registry()
        return [
            FileCheck(f"{name}/{file}", _has_sha256(BUNDLED / name / file, digest))
            for name in names
            for file, digest in registry.get(name, {}).get("sha256", {}).items()
        ]
    if is_folder(source):
        raise ConfigError(
            f"{source} is a folder; checksums are published for bundled models and on the Hub."
        )
    folder, _ = model_folder_of(source, None, access)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [FileCheck(path.name, has_its_checksum(path)) for path in files]


def _has_sha256(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _bundled() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in BUNDLED.glob(f"*/{CONFIG}")}


def _registry() -> dict[str, dict[str, Any]]:
    path = BUNDLED / "registry.json"
    return read_json(path) if path.is_file() else {}


def _pinned_names() -> list[str]:
    return [name for name, entry in _registry().items() if "repository" in entry]


def model_folder_of(
    source: str | Path, revision: str | None = None, access: Access | None = None
) -> tuple[Path, str]:
    """Return the folder of a model and its full name, fetching it from the Hub if need be.

    Args:
        source: A folder, a name from `list_models()`, or `org/name@revision`.
        revision: Branch, tag or commit of a model on the Hub.
        access: How to reach the Hub.

    Raises:
        ConfigError: If it is "zero-shot", or a revision is named for what is not on the Hub.
        ModelNotFoundError: If there is no such model.
        ModelAccessError: If it may not be read.
        OfflineError: If it must be fetched and cannot be.
        ArtifactError: If a file on the Hub is too large or damaged.
    """
    name, folder = str(source), with_home(source)
    if (here := _folder_here(name, folder)) is not None:
        if revision is not None:
            raise ConfigError(f"revision= is for models on the Hub, and {name!r} is a folder.")
        return here, str(folder) if here == folder else name
    pinned = _registry().get(name, {})
    if "repository" in pinned:
        return _pinned(name, pinned, access)
    if name == ZERO_SHOT:
        raise ConfigError(
            "'zero-shot' is no trained model: there is nothing to load, or to start from. Name its CLIP "
            "with backbone= or --backbone instead."
        )
    if names_a_clip(name):  # one of open_clip's would look like a name on the Hub
        raise ModelNotFoundError(
            f"{name} is a CLIP and knows no labels; name it as the backbone of zero-shot or of a "
            "training: backbone=, or --backbone."
        )
    if isinstance(source, str) and source.partition("@")[0].count("/") == 1:
        return _on_the_hub(source, revision, access)
    known = [*_bundled(), *_pinned_names(), ZERO_SHOT]
    raise ModelNotFoundError(
        f"No model {name!r}. {nearest(name, known)} "
        "A folder made by `trmml finetune` works too, and `org/name` on the Hugging Face Hub."
    )


def _folder_here(name: str, folder: Path) -> Path | None:
    """Return the folder of a model on this machine; one of the user goes before one of the package."""
    return folder if is_folder(folder) else _bundled().get(name)


def _pinned(name: str, entry: Mapping[str, Any], access: Access | None) -> tuple[Path, str]:
    """Fetch a model that the package knows by commit and checksums."""
    files = _fetched(entry["repository"], entry["revision"], access)
    for file in files:
        # The commit alone proves nothing: what a commit means is for the server to say.
        if sha256_of(file.path) != entry["sha256"].get(file.name):
            raise ArtifactError(
                f"{file.repository}/{file.name} at {file.revision} is not the file that this "
                f"version of trmml knows as {name!r}; do not use it, and please report it."
            )
    return _place_of(files)


def _on_the_hub(source: str, revision: str | None, access: Access | None) -> tuple[Path, str]:
    """Fetch `org/name`, which a mistyped `runs/name` looks like as well.

    Beside a model that was trained in the same folder nothing else is meant, and no name goes out.
    """
    folder = with_home(source)
    there = sorted(path.parent.name for path in folder.parent.glob(f"*/{CONFIG}"))
    missing = (
        f"There is no folder {folder.name!r} in {folder.parent}. {nearest(folder.name, there)}"
    )
    is_run = any((folder.parent / name / LOG).is_file() for name in there)
    if is_run and revision is None and "@" not in source:
        raise ModelNotFoundError(f"{missing} On the Hub it would be {source}@main.")
    try:
        return _place_of(_fetched(*split_name(source, revision), access))
    except (ModelNotFoundError, ModelAccessError, OfflineError) as error:
        if not is_folder(folder.parent):
            # Neither is known to be meant: the first is a slip of the hand, the second a fact.
            missing = f"There is no folder {source!r} here, and as"
        else:
            missing = f"{missing} As"
        raise type(error)(f"{missing} a name on the Hub: {error}") from None


def _place_of(files: Sequence[RepositoryFile]) -> tuple[Path, str]:
    first = files[0]  # all are of one commit, and so in one folder
    return first.path.parent, f"{first.repository}@{first.revision}"


def _fetched(repository: str, revision: str | None, access: Access | None) -> list[RepositoryFile]:
    return fetch_files(
        repository,
        revision,
        access or Access(),
        required=REQUIRED_FILES,
        optional=OPTIONAL_FILES,
    )
