"""From a backbone's name to an open_clip model with the right weights and activation, or an error.

Weights come from safetensors files only. open_clip's own loading path would fall back to pickle
files, go on with random weights or only warn of a wrong activation, so each step is done here.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip import CLIP, CustomTextCLIP
from open_clip.pretrained import list_pretrained_tags_by_model

from trmml.backbone.building import build, check_activation
from trmml.backbone.settings import check_is_supported, check_settings, num_layers
from trmml.backbone.tokenizers import (
    SETTINGS_NAME,
    TOKENIZER_NAME,
    ClipTokenizer,
    FileTokenizer,
    Tokenizer,
    require_library,
)
from trmml.backbone.weights import load_weights
from trmml.config.groups import BackboneConfig, PhotoConfig
from trmml.errors import (
    ArtifactError,
    ConfigError,
    ModelNotFoundError,
    UnsupportedBackboneError,
    nearest,
)
from trmml.files import BUNDLED, MAX_JSON_BYTES, is_folder, read_json, sha256_of, with_home
from trmml.hub.repository import Access, RepositoryFile, fetch_files, split_name

CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"
MAX_WEIGHTS_BYTES = 32 * 2**30
SMALL_CLIP = "small-clip"
"""The CLIP that comes with the package, in `trmml/weights`."""
FORMS = (
    "`<open_clip name>/<pretrained tag>`, `<open_clip name>/file:<path>`, `local-dir:<folder>`, "
    f"`hf-hub:<org/name>` or `{SMALL_CLIP}`"
)
MAX_TOKENIZER_BYTES = 256 * 2**20


def names_a_clip(source: str) -> bool:
    """Say whether a name has one of the forms of a CLIP, and so is none of a trained model."""
    if source.startswith(("local-dir:", "hf-hub:")) or source == SMALL_CLIP:
        return True
    name, slash, _ = source.partition("/")
    return bool(slash) and name in open_clip.list_models()


class LoadedCLIP(NamedTuple):
    """An open_clip model and what is known about it."""

    clip: CLIP | CustomTextCLIP
    config: BackboneConfig
    photo: PhotoConfig
    tokenizer: Tokenizer | None = None


class _Found(NamedTuple):
    """An architecture and its weights on disk; `origin` if they came from the Hub.

    The tokenizer lies beside the weights, or in a repository of its own.
    """

    settings: dict[str, Any]
    photo: PhotoConfig
    weights: Path
    origin: RepositoryFile | None = None
    tokenizer_from: tuple[str, str | None] | None = None


def load_clip(
    source: str,
    *,
    text: bool = True,
    expected: BackboneConfig | None = None,
    access: Access | None = None,
) -> LoadedCLIP:
    """Build a CLIP model and load its weights.

    Args:
        source: An open_clip name with a pretrained tag or a file, a `local-dir:` folder, a
            repository in the same form as `hf-hub:<org/name@revision>`, or `small-clip`, which comes
            with the package.
        text: Whether to load the text tower; without it only images can be encoded.
        expected: Checksum and activation that the weights must have, and the commit to fetch.
        access: How to reach the Hugging Face Hub.

    Raises:
        ConfigError: If `source` has another form or names an unknown architecture or tag.
        ModelNotFoundError: If a file or folder is missing.
        OfflineError: If weights must be fetched and cannot be.
        ArtifactError: If the weights are damaged, of another model or of another checksum.
        UnsupportedBackboneError: If one of its towers is none of open_clip's own.
        DependencyError: If its text tower needs a tokenizer whose library is not installed.
    """
    pinned = expected if expected is not None and expected.source == source else None
    found = _found(source, pinned, access or Access())
    checksum = sha256_of(found.weights)
    quick_gelu = bool(found.settings.get("quick_gelu", False))
    if expected is not None:
        _check_is_expected(found.weights, checksum, quick_gelu, source, expected)
    check_settings(found.settings, source)
    tokenizer, tokenizer_sha256 = None, expected.tokenizer_sha256 if expected else None
    if text:
        tokenizer, tokenizer_sha256 = _tokenizer(found, source, expected, access or Access())
    clip = load_weights(
        partial(build, found.settings, text, source),
        found.weights,
        text=text,
        num_layers=num_layers(found.settings, text=text),
    )
    check_activation(clip, quick_gelu, source)
    origin = found.origin
    config = BackboneConfig(
        source=source,
        quick_gelu=quick_gelu,
        sha256=checksum,
        repository=origin.repository if origin else None,
        revision=origin.revision if origin else None,
        file=origin.name if origin else None,
        license=origin.license if origin else None,
        tokenizer_sha256=tokenizer_sha256,
    )
    return LoadedCLIP(clip, config, found.photo, tokenizer)


def _found(source: str, pinned: BackboneConfig | None, access: Access) -> _Found:
    """Find architecture and weights by the form of the source, fetching them if need be."""
    if source == SMALL_CLIP:
        return _local_folder(BUNDLED / SMALL_CLIP)
    if source.startswith("local-dir:"):
        return _local_folder(with_home(source.removeprefix("local-dir:")))
    if source.startswith("hf-hub:"):
        return _hub_folder(source.removeprefix("hf-hub:"), pinned, access)
    return _built_in(source, pinned, access)


def _check_is_expected(
    weights: Path, checksum: str, quick_gelu: bool, source: str, expected: BackboneConfig
) -> None:
    """Compare with the CLIP that a model was trained on: on another one its tensors mean nothing."""
    if checksum != expected.sha256:
        raise ArtifactError(
            f"The backbone weights {weights} have sha256 {checksum[:12]}…, but the model was trained "
            f"on {expected.sha256[:12]}…; point `backbone=` to the original weights."
        )
    if quick_gelu != expected.quick_gelu:
        raise ArtifactError(
            f"The model was trained with quick_gelu={expected.quick_gelu}, {source} has "
            f"quick_gelu={quick_gelu}; point `backbone=` to the original architecture."
        )


def _hub_folder(name: str, pinned: BackboneConfig | None, access: Access) -> _Found:
    repository, revision = split_name(name)
    # A model is used with the very commit that it was trained on, whatever `main` means by now.
    if pinned is not None and pinned.revision is not None:
        revision = pinned.revision
    limits = {CONFIG_NAME: MAX_JSON_BYTES, WEIGHTS_NAME: MAX_WEIGHTS_BYTES}
    files = fetch_files(repository, revision, access, required=limits)
    weights = next(file for file in files if file.name == WEIGHTS_NAME)
    found = _local_folder(weights.path.parent)
    # A tokenizer of the same repository, whatever other one its configuration names.
    return found._replace(origin=weights, tokenizer_from=(repository, weights.revision))


def _local_folder(folder: Path) -> _Found:
    config_path, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    if not config_path.is_file():
        raise ModelNotFoundError(
            f"There is no {CONFIG_NAME} in {folder}; `local-dir:` takes a folder "
            "in open_clip's form. A moved backbone is named with `backbone=` (--backbone)."
        )
    settings, photo = _read_settings(config_path)
    if not weights.is_file():
        raise ModelNotFoundError(f"There is no {WEIGHTS_NAME} in {folder}.")
    return _Found(settings, photo, weights)


def _read_settings(path: Path) -> tuple[dict[str, Any], PhotoConfig]:
    """Read an architecture and how its photos are prepared, from a file that may hold anything."""
    values = read_json(path)
    try:
        settings, prepared = dict(values["model_cfg"]), values.get("preprocess_cfg", {})
        size = prepared.get("size", settings["vision_cfg"]["image_size"])
        photo = _photo_config(size, prepared)
        check_is_supported(settings, str(path.parent))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{path} is not an open_clip configuration, an object with the objects model_cfg "
            f"(embed_dim, vision_cfg, text_cfg) and preprocess_cfg: {error!r}."
        ) from error
    return settings, photo


def _built_in(source: str, pinned: BackboneConfig | None, access: Access) -> _Found:
    name, slash, tag = source.partition("/")
    known = open_clip.list_models()
    if name not in known or not tag:
        _refuse_folder(source)
    if not slash or not tag:
        raise ConfigError(f"The backbone {source!r} must have the form {FORMS}.")
    settings = open_clip.get_model_config(name) if name in known else None
    if settings is None:  # other names could be a repository or a folder to open_clip
        raise ConfigError(
            f"open_clip has no architecture {name!r}. {nearest(name, known)} A repository is named "
            "hf-hub:<org/name>, a folder local-dir:<folder>."
        )
    settings = dict(settings)
    check_is_supported(settings, source)  # before any download
    size = settings["vision_cfg"]["image_size"]
    if tag.startswith("file:"):
        weights = _weight_file(with_home(tag.removeprefix("file:")))
        return _Found(settings, _photo_config(size, {}), weights)
    published = published_tag(name, tag, settings)
    fetched = _published_weights(published.get("hf_hub", ""), source, pinned, access)
    # open_clip's own list says where the tokenizer is.
    name = settings["text_cfg"].get("hf_tokenizer_name")
    place = (name, None) if name else None
    return _Found(settings, _photo_config(size, published), fetched.path, fetched, place)


def _refuse_folder(source: str) -> None:
    """Say what to do with a trained model, or with the folder of a CLIP, that is named as a backbone."""
    for folder in (with_home(source), BUNDLED / source):
        if is_folder(folder) and (folder / "config.json").is_file():
            raise ConfigError(
                f"{source!r} is a trained model, which knows its CLIP; name it as the model, without a "
                "backbone."
            )
    if source and is_folder(source):
        raise ConfigError(f"{source!r} is a folder; as a backbone it is named local-dir:{source}.")


def _weight_file(path: Path) -> Path:
    # Anything else could be a pickle, and would be run by reading it.
    if path.suffix != ".safetensors":
        raise ArtifactError(f"{path} is not a .safetensors file; others are not read.")
    if not path.is_file():
        raise ModelNotFoundError(f"There is no weight file {path}.")
    return path


def published_tag(name: str, tag: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what open_clip knows of a pretrained tag, if its weights have the same activation.

    Raises:
        ConfigError: If there is no such tag, or its weights have the other activation.
    """
    published = open_clip.get_pretrained_cfg(name, tag)
    if not published:
        tags = list_pretrained_tags_by_model(name)
        raise ConfigError(f"{name} has no pretrained tag {tag!r}. {nearest(tag, tags)}")
    if bool(published.get("quick_gelu", False)) != bool(settings.get("quick_gelu", False)):
        plain = name.removesuffix("-quickgelu")
        other = plain if plain != name else f"{name}-quickgelu"
        raise ConfigError(
            f"The weights {tag!r} were trained with another activation than {name} has; "
            f"use {other}/{tag}."
        )
    return published


def _photo_config(size: Any, values: dict[str, Any]) -> PhotoConfig:
    return PhotoConfig.from_dict(
        {
            "image_size": size[0] if isinstance(size, list | tuple) else size,
            "mean": values.get("mean") or open_clip.OPENAI_DATASET_MEAN,
            "std": values.get("std") or open_clip.OPENAI_DATASET_STD,
            "interpolation": values.get("interpolation") or "bicubic",
        }
    )


def _published_weights(
    place: str, source: str, pinned: BackboneConfig | None, access: Access
) -> RepositoryFile:
    """Fetch the safetensors file of a pretrained tag, at the commit that a model was trained with."""
    repository, _, listed = place.rpartition("/")
    # Beside a file of pickles there may be one of the same name that is none.
    name = f"{listed.rpartition('.')[0]}.safetensors" if listed else WEIGHTS_NAME
    revision = None
    if pinned is not None and pinned.repository is not None and pinned.file is not None:
        repository, name, revision = pinned.repository, pinned.file, pinned.revision
    refusal = UnsupportedBackboneError(
        f"The weights of {source} are not published as safetensors{_in_place(place)}; convert them once "
        f"and use {source.partition('/')[0]}/file:<path>."
    )
    if not repository:
        raise refusal
    try:
        return fetch_files(repository, revision, access, required={name: MAX_WEIGHTS_BYTES})[0]
    except ModelNotFoundError as error:
        if is_pickle(place) and "has no file" in str(error):
            raise refusal from error
        raise


def is_pickle(place: str) -> bool:
    """Say whether a place of published weights names a file of pickles, which is never read."""
    return bool(place) and not place.endswith(("/", ".safetensors"))


def _in_place(place: str) -> str:
    return f" (but as {place.rpartition('/')[2]} in {place.rpartition('/')[0]})" if place else ""


def _tokenizer(
    found: _Found, source: str, expected: BackboneConfig | None, access: Access
) -> tuple[Tokenizer, str | None]:
    """Return the tokenizer of the text tower, and the checksum of its file if it has one."""
    text = found.settings["text_cfg"]
    if not text.get("hf_tokenizer_name"):
        return ClipTokenizer(), None
    require_library()
    path = found.weights.with_name(TOKENIZER_NAME)
    if found.tokenizer_from is not None:
        files = fetch_files(
            *found.tokenizer_from,
            access,
            required={TOKENIZER_NAME: MAX_TOKENIZER_BYTES},
            optional={SETTINGS_NAME: MAX_JSON_BYTES},
        )
        path = files[0].path
    elif not path.is_file():
        raise ModelNotFoundError(
            f"The text tower of {source} has a tokenizer of its own, and there is no {TOKENIZER_NAME} "
            f"in {path.parent}; copy it there from where the weights are published."
        )
    checksum = sha256_of(path)
    wanted = expected.tokenizer_sha256 if expected is not None else None
    if wanted is not None and checksum != wanted:
        raise ArtifactError(
            f"The tokenizer {path} has sha256 {checksum[:12]}…, but the model was trained with "
            f"{wanted[:12]}…; point `backbone=` to the original one."
        )
    return FileTokenizer(path, text.get("tokenizer_kwargs") or {}), checksum
