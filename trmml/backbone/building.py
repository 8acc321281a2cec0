"""From the settings of an architecture to a CLIP of open_clip, with random weights."""

from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import QuickGELU
from torch import nn

from trmml.errors import ArtifactError

_FIELDS = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
}


def build(settings: dict[str, Any], text: bool, source: str) -> CLIP | CustomTextCLIP:
    """Build a CLIP.

    Args:
        settings: Of the architecture, as in open_clip's files, once they are checked.
        text: Whether the text tower is wanted.
        source: Name of the CLIP, for errors.

    Raises:
        ArtifactError: If open_clip or timm cannot.
    """
    values: dict[str, Any] = {n: value for n, value in settings.items() if n in _FIELDS}
    if not text:
        # The smallest text tower there can be: it is neither loaded nor run.
        values["text_cfg"] = {"width": 1, "heads": 1, "layers": 1, "vocab_size": 1}
    values["vision_cfg"] = dict(values.get("vision_cfg", {})) | {"timm_model_pretrained": False}
    try:
        # The random start is overwritten; the caller's generator must not notice it.
        with torch.random.fork_rng(devices=[]):
            return (CustomTextCLIP if settings.get("custom_text") else CLIP)(**values)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        LookupError,
        AssertionError,
        ArithmeticError,
        AttributeError,
    ) as error:
        raise ArtifactError(f"The architecture of {source} cannot be built: {error}.") from error


def check_activation(clip: nn.Module, quick_gelu: bool, source: str) -> None:
    """Make sure that the built model has the activation that its configuration names.

    Raises:
        ArtifactError: If it has the other.
    """
    kinds = {type(m) for m in clip.modules() if isinstance(m, nn.GELU | QuickGELU)}
    wrong = nn.GELU if quick_gelu else QuickGELU
    timm_towers = getattr(getattr(clip, "visual", None), "trunk", None)
    if wrong in kinds and timm_towers is None:
        raise ArtifactError(
            f"{source} was built with {wrong.__name__}, its weights need the other."
        )
