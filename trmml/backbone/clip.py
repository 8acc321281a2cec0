"""The frozen CLIP: the only place that imports open_clip.

`FrozenCLIP` turns photos into patch features in the joint space and CLIP's own image feature, and
prompts into text features. It never trains, batch-norm statistics included.
"""

import logging
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.errors import ArtifactError, ConfigError, DependencyError

try:
    import torchvision  # noqa: F401 (open_clip needs it, and it must fit torch)
except RuntimeError as error:
    raise DependencyError(
        f"torch and torchvision do not go together ({error}); install both from the same index: "
        "pip install --force-reinstall torch torchvision."
    ) from error

from trmml.backbone.folding import fold_batch_norms
from trmml.backbone.loading import FORMS, SMALL_CLIP, LoadedCLIP, load_clip
from trmml.backbone.text import TextTower
from trmml.backbone.text_towers import text_tower
from trmml.backbone.towers import image_tower
from trmml.backbone.weights import is_finite
from trmml.config.groups import BackboneConfig, PhotoConfig
from trmml.hub.repository import Access

logger = logging.getLogger(__name__)
__all__ = ["FORMS", "SMALL_CLIP", "FrozenCLIP", "ImageFeatures", "TextTower"]


class ImageFeatures(NamedTuple):
    """What a frozen image tower says about photos, in the joint space, not normalized."""

    patch_features: Float[Tensor, "batch patch dim"]
    image_features: Float[Tensor, "batch dim"]


class FrozenCLIP(nn.Module):
    """A CLIP whose towers neither learn nor change.

    Attributes:
        config: Where the weights come from, and their checksum.
        photo: How photos are to be prepared, at the size asked for.
        dim: Width of the joint space.
        text_tower: Absent if the model was loaded for images alone.
        grey_features: What it says of a photo from black to white, to try what is built on it.
    """

    def __init__(
        self, loaded: LoadedCLIP, *, image_size: int | None = None, text: bool = True
    ) -> None:
        """Wrap an open_clip model.

        Args:
            loaded: The model and its origin.
            image_size: Side of the square photos; the model's own by default.
            text: Whether to keep the text tower.

        Raises:
            UnsupportedBackboneError: If a tower is of a kind that cannot be taken apart exactly.
            ConfigError: If the image tower cannot take this size.
            ArtifactError: If it answers with what is no finite number.
        """
        super().__init__()
        self.config: BackboneConfig = loaded.config
        size = image_size or loaded.photo.image_size
        self.photo: PhotoConfig = replace(loaded.photo, image_size=size)
        self.image_tower = image_tower(loaded.clip, size)
        self.text_tower = text_tower(loaded.clip, loaded.tokenizer) if text else None
        if self.text_tower is not None:
            self.text_tower.require_whole_vocabulary()
        # Without the text tower the temperature is not read either, and nobody may take it for one.
        self.logit_scale = loaded.clip.logit_scale.exp().item() if text else float("nan")
        self.eval().requires_grad_(False)
        # A size that the tower cannot take shows here, and not in the middle of somebody's photos.
        try:
            with torch.no_grad():
                patches, pooled = self.image_tower(self._grey_photo())
        except (RuntimeError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The image tower of {loaded.config.source} cannot take photos of image_size {size}: "
                f"{error}"
            ) from error
        self.grey_features = ImageFeatures(patches, pooled)
        self._check_answers()
        fold_batch_norms(self.image_tower, size)
        # Convolutions are faster with the channels of a pixel side by side (`speed.py layout`).
        self.image_tower: nn.Module = self.image_tower.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.num_patches, self.dim = patches.shape[1], pooled.shape[1]

    @classmethod
    def load(
        cls,
        source: str,
        *,
        image_size: int | None = None,
        text: bool = True,
        expected: BackboneConfig | None = None,
        access: Access | None = None,
    ) -> "FrozenCLIP":
        """Load by name; see `trmml.backbone.loading.load_clip` for sources and errors."""
        loaded = load_clip(source, text=text, expected=expected, access=access)
        return cls(loaded, image_size=image_size, text=text)

    def _grey_photo(self) -> Float[Tensor, "1 3 height width"]:
        """Return a normalized photo that goes from black to white, and so over all there can be."""
        size = self.photo.image_size
        grey = torch.linspace(0, 1, size).expand(1, 3, size, size)
        mean, std = torch.tensor(self.photo.mean), torch.tensor(self.photo.std)
        return (grey - mean[:, None, None]) / std[:, None, None]

    @torch.no_grad()
    def _check_answers(self) -> None:
        """Refuse a CLIP that answers with NaN: each of its weights may be finite all the same."""
        answers = [("photo", features) for features in self.grey_features]
        if self.text_tower is not None:
            answers.append(("text", self.text_tower(*self.text_tower.embed_names(("",), 0))))
        for what, answer in answers:
            if not is_finite(answer):
                raise ArtifactError(
                    f"{self.config.source} answers a plain {what} with what is no finite number: its "
                    "weights, or mean and std of its photos, are not those of a trained CLIP."
                )

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stay in evaluation mode: batch norm must not move either."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> ImageFeatures:
        """Encode normalized photos of the configured size, without gradient."""
        images = images.to(self.precision).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            patches, pooled = self.image_tower(images)
        if self.precision != torch.float32:
            patches, pooled = patches.float(), pooled.float()
        return ImageFeatures(patches, pooled)

    def use_bfloat16(self) -> None:
        """Run the image tower in bfloat16 from now on: its weights are rounded, features are float32.

        Three significant digits are left of a feature. Processors with instructions for it are faster
        in it, others are many times slower, so the time of a product is looked at first.
        """
        if self.device.type == "cpu" and not _is_quick_in_bfloat16():
            logger.warning(
                "This processor has no instructions for bfloat16, and is slower in it than in float32."
            )
        self.image_tower = self.image_tower.to(torch.bfloat16)

    @property
    def precision(self) -> torch.dtype:
        """Of the image tower."""
        return next(self.image_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the towers run."""
        return next(self.image_tower.parameters()).device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = round(self.num_patches**0.5)
        return side, side


def _is_quick_in_bfloat16() -> bool:
    """Whether a product of matrices takes no longer in bfloat16 than in float32."""
    factor = torch.randn(512, 512)

    def seconds(factor: Tensor) -> float:
        taken = []
        for _ in range(4):
            started = time.perf_counter()
            torch.mm(factor, factor)
            taken.append(time.perf_counter() - started)
        return min(taken)

    return seconds(factor.bfloat16()) <= seconds(factor)
