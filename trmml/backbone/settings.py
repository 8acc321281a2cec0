"""What the configuration of a CLIP may say, checked before anything is built from it.

The file may come from a stranger. open_clip and timm would follow a name in it to the Hub or to any
folder of this machine, and allocate whatever size it states.
"""

import math
import types
import typing
from typing import Any

import timm
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from trmml.backbone.tokenizers import check_options
from trmml.config.base import Interval
from trmml.errors import ArtifactError, UnsupportedBackboneError, nearest

MAX_PATCHES = 2**15
"""Of a photo at the CLIP's own size; every patch attends to every other."""
_SIZES = {
    "embed_dim": Interval(1, 2**20),
    "vision_cfg.image_size": Interval(16, 2048),
    "vision_cfg.layers": Interval(1, 2**20),
    "vision_cfg.width": Interval(1, 2**20),
    "vision_cfg.head_width": Interval(1, 2**20),
    "vision_cfg.patch_size": Interval(1, 2048),
    "vision_cfg.attn_pooler_queries": Interval(1, 2**20),
    "vision_cfg.attn_pooler_heads": Interval(1, 2**20),
    # The tower holds a mask of this size squared.
    "text_cfg.context_length": Interval(4, 4096),
    "text_cfg.vocab_size": Interval(1, 2**24),
    "text_cfg.width": Interval(1, 2**20),
    "text_cfg.heads": Interval(1, 2**20),
    "text_cfg.layers": Interval(1, 2**20),
}


_OTHERS = {
    "quick_gelu": bool,
    "custom_text": bool,
    "init_logit_scale": float,
    "init_logit_bias": float | None,
    "nonscalar_logit_scale": bool,
}
NEAREST = {
    "coca_ViT-B-32": "ViT-B-32/laion2b_s34b_b79k",
    "coca_ViT-L-14": "ViT-L-14/laion2b_s32b_b82k",
    "nllb-clip-base": "ViT-B-32-SigLIP2-256/webli",
    "nllb-clip-base-siglip": "ViT-B-16-SigLIP2-384/webli",
    "nllb-clip-large": "ViT-L-16-SigLIP2-256/webli",
    "nllb-clip-large-siglip": "ViT-SO400M-14-SigLIP2-378/webli",
    "roberta-ViT-B-32": "ViT-B-32/laion2b_s34b_b79k",
    "xlm-roberta-base-ViT-B-32": "ViT-B-32-SigLIP2-256/webli",
    "xlm-roberta-large-ViT-H-14": "ViT-SO400M-16-SigLIP2-256/webli",
}
"""For an architecture that is refused: the nearest that works, of as many languages."""


def check_is_supported(settings: dict[str, Any], source: str) -> None:
    """Refuse what has other towers than open_clip's own, or an unknown way to cut texts.

    Raises:
        UnsupportedBackboneError: If it is.
    """
    text = settings.get("text_cfg", {})
    options = text.get("tokenizer_kwargs")
    reasons = {
        "is a captioning model": "multimodal_cfg" in settings,
        "has a Hugging Face text tower": text.get("hf_model_name"),
        "has a tokenizer in a mode of its own": text.get("tokenizer_mode"),
        "has open_clip's own tokenizer with options": options and not text.get("hf_tokenizer_name"),
    }
    near = NEAREST.get(source.partition("/")[0])
    for reason, holds in reasons.items():
        if holds:
            hint = f" The nearest that works is {near}." if near else ""
            raise UnsupportedBackboneError(
                f"{source} {reason}; supported are CLIP models whose text tower is open_clip's own "
                f"(ViT-B-16, ViT-B-16-SigLIP2, …).{hint}"
            )
    check_options(options, source)


def check_settings(settings: dict[str, Any], source: str) -> None:
    """Check types, ranges and names of an architecture; unknown settings are open_clip's to refuse.

    Args:
        settings: `embed_dim`, `vision_cfg`, `text_cfg` and `quick_gelu`, as in open_clip's files.
        source: Name of the CLIP, for errors.

    Raises:
        ArtifactError: If a value has a wrong type or size, or names what is not on timm's own list.
    """
    vision, text = settings.get("vision_cfg"), settings.get("text_cfg")
    values: dict[str, Any] = {
        "embed_dim": settings.get("embed_dim"),
        "vision_cfg": vision,
        "text_cfg": text,
    }
    hints: dict[str, Any] = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    for name, kind in _OTHERS.items():
        if name in settings:
            values[name], hints[name] = settings[name], kind
    for group, part, kind in (
        ("vision_cfg", vision, CLIPVisionCfg),
        ("text_cfg", text, CLIPTextCfg),
    ):
        known = typing.get_type_hints(kind)
        for name, value in part.items() if isinstance(part, dict) else ():
            if (
                name in known and value is not None
            ):  # open_clip's files say null for what is not used
                values[f"{group}.{name}"], hints[f"{group}.{name}"] = value, known[name]
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            raise _impossible(source, f"{name} has a value of the wrong type, {value!r:.60}")
        numbers = value if isinstance(value, list | tuple) else (value,)
        if name in _SIZES and not all(number in _SIZES[name] for number in numbers):
            raise _impossible(source, f"{name} must be {_SIZES[name]}, got {value!r:.60}")
    assert isinstance(vision, dict)  # its type has been checked
    _check_patches(vision, source)
    _check_timm_name(vision.get("timm_model_name"), source)


def num_layers(settings: dict[str, Any], *, text: bool) -> int:
    """Return how many layers an architecture states, one named by timm left aside."""
    vision = settings["vision_cfg"].get("layers") or 1
    layers = sum(vision) if isinstance(vision, list | tuple) else vision
    return layers + (settings["text_cfg"].get("layers") or 1 if text else 0)


def _is_of(value: Any, hint: Any) -> bool:
    """Say whether a JSON value has the type of a setting; numbers must be finite."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, kind) for kind in inner)
    if origin is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(inner)
            and all(map(_is_of, value, inner))
        )
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < 1e9 and math.isfinite(value)
    # To Python True is a whole number.
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _check_patches(vision: dict[str, Any], source: str) -> None:
    size, side = vision.get("image_size"), vision.get("patch_size")
    if size is None or side is None:  # open_clip's own, or a tower without patches
        return
    height, width = size if isinstance(size, list | tuple) else (size, size)
    patches = (height // side) * (width // side)
    if patches > MAX_PATCHES:
        raise _impossible(
            source, f"it cuts a photo into {patches} patches, the most is {MAX_PATCHES}"
        )


def _check_timm_name(name: str | None, source: str) -> None:
    """Refuse what timm would fetch from the Hub (`hf-hub:`) or read from a folder (`local-dir:`)."""
    # An empty name means none to open_clip, as None does.
    if name and name not in timm.list_models() and name not in timm.list_pretrained():
        known = nearest(name, timm.list_models())
        raise _impossible(source, f"timm has no architecture {name[:80]!r}. {known}".rstrip("."))


def _impossible(source: str, reason: str) -> ArtifactError:
    return ArtifactError(f"The architecture of {source} cannot be built: {reason}.")
