"""Loading: a trained model by name, zero-shot matching for any labels, and other labels for a model."""

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import SMALL_CLIP
from trmml.config.groups import MatchingConfig, ModelConfig, prompt_name
from trmml.errors import ArtifactError, ConfigError, nearest, refuse_text
from trmml.files import with_home
from trmml.hub.repository import Access
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prompts import HAND_WRITTEN, TEMPLATES
from trmml.zoo.catalog import ZERO_SHOT, model_folder_of
from trmml.zoo.folder import load_folder, read_facts

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "everyday-tiny"
Precision = Literal["float32", "bfloat16"]
MAX_REPORT_BYTES = 8 * 2**20
"""Of a file that says how a model was made: more would be for something else than to be looked at."""


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    labels: Sequence[str] | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    templates: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> TextRegionMatcher:
    """Load a model for prediction, in evaluation mode and frozen.

    Args:
        source: A folder, a name from `list_models()`, `"org/name"` or `"org/name@revision"` on the
            Hugging Face Hub, or `"zero-shot"` with `labels`.
        revision: Branch, tag or commit of a model on the Hub. A commit never changes.
        labels: Labels to score. With a trained model, what was learned about those it knows is
            kept, and the others start from text, which needs the text tower.
        backbone: For zero-shot: the CLIP, by default the small one that comes with the package.
            For a folder: where its backbone is now, if it moved.
        image_size: For zero-shot: side of the square photos; the CLIP's own by default.
        templates: For zero-shot: texts with `{}` where the label goes, as "an aerial view of a {}";
            several are averaged. By default seven that suit any photo.
        device: Where to run; a GPU if there is one, else the CPU.
        precision: Of the image tower. `bfloat16` is about twice as fast on processors and GPUs with
            instructions for it, and moves scores by up to some hundredths.
        cache_dir: Hugging Face cache folder, for models and backbones.
        local_files_only: Whether to use the cache alone.
        token: Hugging Face token.

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelAccessError: If it may not be read.
        OfflineError: If it must be fetched and cannot be.
        ArtifactError: If a file is damaged.
        ConfigError: If the arguments do not go together.

    Example:
        >>> model = trmml.load_model("runs/shop")
        >>> zero_shot = trmml.load_model("zero-shot", labels=["dog", "bench"])
    """
    refuse_text(labels, "labels")
    for label in labels or ():
        if not isinstance(label, str):
            raise ConfigError(f"labels must be names, got {label!r} ({type(label).__name__}).")
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {' or '.join(get_args(Precision))}, got {precision!r}.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cache = None if cache_dir is None else with_home(cache_dir)
    access = Access(cache, local_files_only, token)
    if str(source) == ZERO_SHOT:
        if not labels:
            raise ConfigError("Zero-shot needs labels: labels=['dog', 'cat'], or --labels dog,cat.")
        frozen = FrozenCLIP.load(backbone or SMALL_CLIP, image_size=image_size, access=access)
        return _placed(zero_shot_model(frozen, labels, templates or TEMPLATES), place, precision)
    if image_size is not None:
        raise ConfigError("image_size is for zero-shot; a trained model has its own.")
    if templates is not None:
        raise ConfigError("templates are for zero-shot; a trained model has learned its prompts.")
    folder, name = model_folder_of(source, revision, access)
    # The folder holds the text features of its labels, so only other labels need the text tower.
    model = load_folder(folder, backbone=backbone, text=labels is not None, access=access)
    model.source, model.report = name, _report_of(folder)
    return _placed(model if labels is None else _for_labels(model, labels), place, precision)


def _placed(
    model: TextRegionMatcher, place: torch.device, precision: Precision
) -> TextRegionMatcher:
    model = model.to(place)
    if precision == "bfloat16":
        model.backbone.use_bfloat16()
    return model


def _report_of(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Return what a folder says of how its model was made, which no prediction needs."""
    parts = ("metrics", "finetune")
    paths = [folder / f"{part}.json" for part in parts]
    if any(path.is_file() and path.stat().st_size > MAX_REPORT_BYTES for path in paths):
        return None
    with contextlib.suppress(ArtifactError):
        return {part: read_facts(folder, part) for part in parts}
    return None


def _for_labels(model: TextRegionMatcher, labels: Sequence[str]) -> TextRegionMatcher:
    """Return a trained model for other labels; a new one may be a slip, so each is pointed out."""
    for label in labels:
        if label not in model.labels:
            hint = nearest(label, model.labels)
            logger.warning("%r was not learned, and is scored by its name alone. %s", label, hint)
    return model.relabelled(labels)


def load_for_training(
    model: str | Path | TextRegionMatcher, backbone: str | None = None
) -> TextRegionMatcher:
    """Return a trained model with its text tower, from a name, a folder or the model itself.

    Args:
        model: What to load.
        backbone: Where its CLIP is now, if it moved; by default where a loaded model has it from.

    Raises:
        ConfigError: If a model without text tower does not say where it came from.
    """
    if isinstance(model, TextRegionMatcher):
        if model.backbone.precision != torch.float32:
            raise ConfigError("A model to train is loaded with precision='float32'.")
        if model.backbone.text_tower is not None:
            # The caller's model stays as it is; the frozen backbone can be shared.
            return copy.deepcopy(model, {id(model.backbone): model.backbone})
        if model.source is None:
            raise ConfigError("This model has no text tower; save it and pass the folder.")
        if model.backbone.config.source != model.config.backbone.source:
            backbone = backbone or model.backbone.config.source
        model = model.source
    folder, name = model_folder_of(model)
    loaded = load_folder(folder, backbone=backbone, text=True)
    if backbone is not None:
        loaded.config = dataclasses.replace(loaded.config, backbone=loaded.backbone.config)
    loaded.source = name
    return loaded


def make_config(
    backbone: FrozenCLIP, labels: Sequence[str], matching: MatchingConfig
) -> ModelConfig:
    """Describe a new model on a backbone.

    Raises:
        ConfigError: If the backbone has no text tower, or a label cannot be one.
    """
    tower = backbone.text_tower
    if tower is None:
        raise ConfigError("A new model needs a backbone with its text tower.")
    if matching.context_init:
        length = len(tower.tokenize(matching.context_init))
        matching = dataclasses.replace(matching, num_context_tokens=length)
    return ModelConfig(
        labels=tuple(labels),
        prompt_names=tuple(prompt_name(label) for label in labels),
        backbone=backbone.config,
        photo=backbone.photo,
        dim=backbone.dim,
        text_width=tower.width,
        matching=matching,
    )


def zero_shot_model(
    backbone: FrozenCLIP, labels: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> TextRegionMatcher:
    """Match hand-written prompts with image feature and best patches: any labels, no training.

    A label's text feature is the mean over templates, each a text with `{}` in place of its name.

    Scores are relative: each label is compared with the mean of all of them (of fewer than 16, and of
    common things), so that a threshold of 0.5 means "more like this than like those on the whole".

    Raises:
        ConfigError: If a label does not fit the text tower, or a template has no place for it.
    """
    if isinstance(templates, str):
        raise ConfigError(f"templates must be a list of texts, got the text {templates!r}.")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"A template has one {{}} where the label goes, as 'a {{}}'; got {template!r}."
            )
    matching = MatchingConfig(
        way="zero-shot",
        context_init=HAND_WRITTEN,
        negative_prompt=False,
        logit_scale=min(max(backbone.logit_scale, 1.0), 100.0),
    )
    model = TextRegionMatcher(make_config(backbone, labels, matching), backbone).to(backbone.device)
    model.start_from_text()
    model.present.text_features.copy_(model.zero_shot_text(templates))
    return model.eval().requires_grad_(False)
