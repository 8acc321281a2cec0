"""What a training starts from: a trained model, or a new one on a CLIP."""

import copy
import logging
from pathlib import Path
from typing import NamedTuple

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.loading import SMALL_CLIP
from trmml.config.groups import FinetuneConfig, MatchingConfig
from trmml.errors import ConfigError
from trmml.matcher.model import TextRegionMatcher
from trmml.reports.numbers import first_of
from trmml.training import distributed
from trmml.training.fingerprint import digest_of
from trmml.zoo.loading import load_for_training, make_config

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """What training starts from: learned labels and digest of a trained model, or nothing."""

    labels: tuple[str, ...] | None
    digest: str


def starting_model(
    model: str | Path | TextRegionMatcher | None,
    backbone: str | FrozenCLIP | None,
    labels: tuple[str, ...],
    settings: FinetuneConfig,
) -> tuple[TextRegionMatcher, Start]:
    """Return the model to train, on its device, and what it was before.

    Args:
        model: A trained one, or None.
        backbone: The CLIP of a new model, or where that of `model` is now.
        labels: Of the table.
        settings: Of the training; those of the matching are for a new model.

    Raises:
        ConfigError: If the model is zero-shot, or a setting asks for what it is not.
    """
    if model is not None:
        matcher = load_for_training(model, backbone if isinstance(backbone, str) else None)
        _require_learning(matcher)
        _require_size(settings, matcher.config.photo.image_size, "the model to start from sees")
        _require_matching(settings.matching, matcher.config.matching)
        # Before the labels change: what that computes differs in its last bits between machines.
        learned = tuple(label for label in matcher.labels if label not in matcher.unlearned)
        start = Start(learned, digest_of(matcher))
        if matcher.labels != labels:
            _name_left(matcher.labels, labels)
            matcher = matcher.relabelled(labels)
    else:
        if isinstance(backbone, FrozenCLIP):
            _require_size(settings, backbone.photo.image_size, "the CLIP was loaded for")
        else:
            backbone = FrozenCLIP.load(backbone or SMALL_CLIP, image_size=settings.image_size)
        matcher = TextRegionMatcher(make_config(backbone, labels, settings.matching), backbone)
        _require_learning(matcher)
        matcher.to(backbone.device).start_from_text(settings.training.seed)
        start = Start(None, "")
    device = distributed.own_device()
    if matcher.backbone.device != device:
        # It may be the caller's, whose models must find it where it was.
        matcher.backbone = copy.deepcopy(matcher.backbone)
    return matcher.to(device), start


def _require_learning(matcher: TextRegionMatcher) -> None:
    if not matcher.matching.learns:
        raise ConfigError(
            "Zero-shot matching has nothing to learn. Name its CLIP (backbone=, --backbone) to "
            "start from, and leave matching.way as it is."
        )


def _name_left(before: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """Name the labels of the model to start from that the new model will not have."""
    left = [label for label in before if label not in labels]
    if left:
        logger.warning(
            "Labels of the model to start from that are not in the table, and so not in the new model: "
            "%s.", first_of(left)
        )  # fmt: skip


def _require_size(settings: FinetuneConfig, image_size: int, whose: str) -> None:
    if settings.image_size not in (None, image_size):
        raise ConfigError(
            f"image_size is {settings.image_size}, but {whose} photos of {image_size} px; leave it out."
        )


def _require_matching(wanted: MatchingConfig, there: MatchingConfig) -> None:
    """Refuse settings of the matching that are neither those of the trained model nor the defaults."""
    values, usual, before = (part.to_dict() for part in (wanted, MatchingConfig(), there))
    for name, value in values.items():
        if value not in (usual[name], before[name]):
            raise ConfigError(
                f"matching.{name} is {value!r}, but the model to start from was made with "
                f"{before[name]!r}; leave it out, or start from a CLIP (backbone)."
            )
