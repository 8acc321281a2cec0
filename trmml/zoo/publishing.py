"""Sharing: a model folder becomes a repository on the Hugging Face Hub."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trmml.errors import ConfigError
from trmml.files import with_home, write_json, writing_to
from trmml.hub.repository import Published, split_name, upload_files
from trmml.matcher.model import TextRegionMatcher
from trmml.zoo.folder import (
    CONFIG,
    OPTIONAL_FILES,
    REQUIRED_FILES,
    load_folder,
    read_facts,
    write_card,
)

LOCAL_MARKS = ("local-dir:", "/file:")
"""What is in the name of a backbone that lies on this machine."""


def push_to_hub(
    model: str | Path | TextRegionMatcher,
    name: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str = "Upload a trmml model",
    backbone: str | None = None,
    token: str | None = None,
) -> Published:
    """Upload a model folder to the Hub in one commit, with its card.

    Only the files of a model go: no checkpoint, log, photo or cache. Paths of this machine and names
    of photos are left out of what is uploaded. The folder itself stays as it is.

    Args:
        model: A model folder, or a model that was loaded from one.
        name: `org/name`; the repository is made if there is none.
        private: Whether a new repository is private.
        create_pr: Whether to open a pull request instead of changing the branch.
        revision: Branch; `main` by default.
        message: Of the commit.
        backbone: Where its CLIP is now, if it moved.
        token: Hugging Face token; by default the one that you are logged in with.

    Returns:
        Where it is, and the commit to load it by: `load_model("org/name@commit")`.

    Raises:
        ConfigError: If the name is none of the Hub or the model is not in a folder.
        ArtifactError: If the folder does not load.
        OutputError: If the folder of temporary files cannot be written to.
        ModelAccessError: If the token may not write there.
        OfflineError: If the Hub cannot be reached.

    Example:
        >>> trmml.push_to_hub("runs/shop", "acme/shop-tags", private=True)
    """
    repository, inside = split_name(name)
    if inside is not None:
        raise ConfigError(f"Push to {repository!r}; the Hub makes the commit.")
    folder = _folder_of(model)
    load_folder(folder, backbone=backbone)  # what does not load is not shared
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place)
        with writing_to(staged):
            stage(folder, staged, repository)
        return upload_files(
            repository,
            {path.name: path for path in sorted(staged.iterdir())},
            replaced=tuple(OPTIONAL_FILES),
            message=message,
            private=private,
            create_pr=create_pr,
            revision=revision,
            token=token,
        )


def stage(folder: Path, place: Path, name: str) -> None:
    """Copy what others may see of a model folder, with a card that says how to load it by name.

    Args:
        folder: The model folder.
        place: An existing folder; files of the same names are replaced.
        name: What `load_model` will take.
    """
    for file in (*REQUIRED_FILES, *OPTIONAL_FILES):
        if folder != place and (folder / file).is_file():
            shutil.copyfile(folder / file, place / file)
    write_json(place / CONFIG, _public_config(read_facts(place, "config")))
    if (place / "finetune.json").is_file():
        write_json(place / "finetune.json", _public_run(read_facts(place, "finetune")))
    write_card(place, name)


def has_local_backbone(folder: Path) -> bool:
    """Say whether a model needs a CLIP that others do not have under its name."""
    source = read_facts(folder, "config")["backbone"]["source"]
    return any(mark in source for mark in LOCAL_MARKS)


def _folder_of(model: str | Path | TextRegionMatcher) -> Path:
    source = model.source if isinstance(model, TextRegionMatcher) else model
    folder = None if source is None else with_home(source)
    if folder is None:
        raise ConfigError("Only a model folder can be pushed; save the model and pass the folder.")
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {str(folder)!r} to push.")
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} holds no {CONFIG}, and is no model folder to push.")
    return folder


def _public_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce the path of a local backbone to its last part."""
    backbone = dict(values["backbone"])
    for mark in LOCAL_MARKS:
        # The last part says which CLIP it was; the rest says whose machine.
        kind, found, path = backbone["source"].partition(mark)
        if found:
            backbone["source"] = f"{kind}{mark}{Path(path).name}"
    return {**values, "backbone": backbone}


def _public_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where the photos lie and what they are called."""
    kept = dict(values)
    for part in ("data", "validation"):
        # Names of photos can be names of people.
        if part in kept:
            facts = {key: v for key, v in kept[part].items() if key not in ("examples", "problems")}
            kept[part] = facts | {"source": Path(str(facts.get("source", ""))).name}
    return kept
