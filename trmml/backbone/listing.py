"""Every CLIP that can be loaded by name, from what is known without a network."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.pretrained import list_pretrained_tags_by_model

from trmml.backbone.loading import is_pickle, published_tag
from trmml.backbone.settings import check_is_supported
from trmml.errors import ConfigError, UnsupportedBackboneError, nearest
from trmml.files import read_json

ARCHITECTURES = Path(__file__).with_name("architectures.json")
"""Sizes and costs of architectures, made by `examples/benchmarks/architectures.py`."""
SEE_PAGE = "see its page"
_LICENSES = {
    "openai": "MIT",
    "laion2b": "MIT",
    "datacomp_": "MIT",
    "webli": "Apache-2.0",
    "metaclip": "CC-BY-NC-4.0",
    "dfndr2b": "research only",
}
"""By the beginning of a pretrained tag."""


class ListedBackbone(NamedTuple):
    """A CLIP that can be loaded by name.

    Attributes:
        name: `<open_clip name>/<pretrained tag>`.
        image_size: Side of the photos that it was trained on, in pixels.
        parameters: Of both towers, in millions; None where this release does not know.
        gflops: To encode one photo of that size, in 10⁹ operations, two to a multiplication with
            its addition.
        license: Of the weights, where it is known.
        needs: What has to be done before: an extra to install, weights to convert.
    """

    name: str
    image_size: int
    parameters: float | None
    gflops: float | None
    license: str
    needs: str


class RefusedBackbone(NamedTuple):
    """A CLIP that open_clip lists and that is not loaded, and the whole of the reason."""

    name: str
    reason: str
    is_renamed: bool
    """Whether the same weights can be loaded by the name that the reason gives."""


@lru_cache(maxsize=1)
def list_backbones() -> tuple[list[ListedBackbone], list[RefusedBackbone]]:
    """Return what can be loaded of all that open_clip lists, and what cannot."""
    sizes = read_json(ARCHITECTURES)
    loaded, refused = [], []
    for name in open_clip.list_models():
        settings: Any = open_clip.get_model_config(name)
        for tag in list_pretrained_tags_by_model(name):
            source = f"{name}/{tag}"
            try:
                check_is_supported(settings, source)
                published = published_tag(name, tag, settings)
            except (UnsupportedBackboneError, ConfigError) as error:
                refused.append(RefusedBackbone(source, str(error), isinstance(error, ConfigError)))
                continue
            known = sizes.get(name, {})
            size = settings["vision_cfg"]["image_size"]
            loaded.append(
                ListedBackbone(
                    source,
                    size[0] if isinstance(size, list | tuple) else size,
                    known.get("parameters"),
                    known.get("gflops"),
                    _license(tag),
                    _needs(settings, published),
                )
            )
    return loaded, refused


def find_backbones(part: str = "") -> list[ListedBackbone]:
    """Return the CLIPs that can be loaded by name and have `part` in it, in capitals or not.

    Raises:
        ConfigError: If there is none; gives the reason where one is refused.
    """
    loaded, refused = list_backbones()
    found = [backbone for backbone in loaded if part.lower() in backbone.name.lower()]
    if not found:
        reasons = [other.reason for other in refused if part.lower() in other.name.lower()]
        known = nearest(part, [backbone.name for backbone in loaded])
        raise ConfigError(reasons[0] if reasons else f"No CLIP has {part!r} in its name. {known}")
    return found


def _license(tag: str) -> str:
    known = (text for start, text in _LICENSES.items() if tag.startswith(start))
    return next(known, SEE_PAGE)


def _needs(settings: dict[str, Any], published: dict[str, Any]) -> str:
    if is_pickle(published.get("hf_hub", "")) or not published.get("hf_hub"):
        return "weights converted to safetensors"
    return "trmml[tokenizers]" if settings["text_cfg"].get("hf_tokenizer_name") else ""
