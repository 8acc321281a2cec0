"""The matcher: frozen CLIP, learned prompts, regions and prototypes put together.

Paper: TRM-ML (text-region matching). Text-pixel matching (as DualCoOp), text-image matching (as CoOp)
and zero-shot matching are the same model with another way from a photo to its labels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.backbone.text import TextTower
from trmml.config.groups import ModelConfig
from trmml.errors import ConfigError
from trmml.matcher.decoding import PreparedPhoto, prepared_batches
from trmml.matcher.matching import (
    MatcherOutput,
    TextFeatures,
    patch_similarity,
    zero_shot_similarity,
)
from trmml.matcher.prediction import Prediction
from trmml.matcher.prompts import HAND_WRITTEN, TEMPLATES, PromptLearner, random_context
from trmml.matcher.prototypes import Prototypes
from trmml.matcher.regions import RegionModule
from trmml.matcher.thresholds import Calibration


class TextRegionMatcher(nn.Module):
    """Scores every label of a photo by matching its text with its own region.

    Attributes:
        config: Everything needed to rebuild the model around its learned tensors.
        backbone: The frozen CLIP.
        calibration: The thresholds of its labels.
        source: Where it was loaded from; None for a model made in this process.
    """

    text_features: Float[Tensor, "label dim"]
    negative_text_features: Float[Tensor, "label dim"] | None
    image_center: Float[Tensor, " dim"]
    patch_center: Float[Tensor, " dim"]

    def __init__(self, config: ModelConfig, backbone: FrozenCLIP) -> None:
        """Build with empty tensors, to be filled by `start_from_text` or from a file.

        Raises:
            ConfigError: If the backbone does not fit the configuration.
        """
        super().__init__()
        if config.dim != backbone.dim:
            raise ConfigError(
                f"dim is {config.dim}, but the backbone's joint space has {backbone.dim}."
            )
        matcher, num_labels = config.matcher, len(config.labels)
        self.config = config
        self.backbone = backbone
        self.calibration = Calibration.uncalibrated(num_labels)
        self.source: str | None = None
        self.report: dict[str, dict[str, Any]] | None = None
        blank = torch.zeros(num_labels, config.dim)
        context = torch.zeros(matcher.num_context_tokens, config.text_width)
        if matcher.label_specific_context:
            context = context.expand(num_labels, -1, -1)
        self.prompts = PromptLearner(context)
        self.prototypes = Prototypes(blank)
        self.register_buffer("text_features", blank.clone())
        self.negative_prompts = self.negative_prototypes = None
        negative = None
        if matcher.negative_prompt:
            self.negative_prompts = PromptLearner(context)
            self.negative_prototypes = Prototypes(blank)
            negative = blank.clone()
        self.register_buffer("negative_text_features", negative)
        self.register_buffer("image_center", torch.zeros(config.dim))
        self.register_buffer("patch_center", torch.zeros(config.dim))
        self.regions = self.log_spatial_scale = None
        if matcher.matching == "text-region":
            self.regions = RegionModule(
                blank,
                num_heads=matcher.num_heads,
                dropout=matcher.attention_dropout,
                mlp=matcher.region_mlp,
            )
        elif matcher.matching == "text-pixel":
            self.log_spatial_scale = nn.Parameter(torch.tensor(math.log(matcher.spatial_scale)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(matcher.logit_scale)))
        self.logit_bias = nn.Parameter(torch.zeros(num_labels))
        self.eval()

    @torch.no_grad()
    def start_from_text(self, seed: int = 0) -> None:
        """Fill the tensors before training: contexts, queries and prototypes.

        Queries are the text features of hand-written prompts. Contexts are noise, or the words of
        `context_init`; the context of absence is always noise, so that it can differ.

        Raises:
            ConfigError: If a label name does not fit the text tower.
        """
        matcher = self.config.matcher
        generator = torch.Generator().manual_seed(seed)
        num_labels = len(self.logit_bias) if matcher.label_specific_context else None
        shape = (matcher.num_context_tokens, self.config.text_width, num_labels)
        context = random_context(*shape, generator)
        if matcher.context_init:
            words = self._text_tower().embed(matcher.context_init).cpu()
            context = words.expand(context.shape)
        self.prompts.context.copy_(context)
        if self.negative_prompts is not None:
            self.negative_prompts.context.copy_(random_context(*shape, generator))
        if self.regions is not None:
            self.regions.start(self.hand_written_text(), generator)
        self.store_text()
        self.prototypes.start(self.text_features)
        if self.negative_prototypes is not None and self.negative_text_features is not None:
            self.negative_prototypes.start(self.negative_text_features)

    @torch.no_grad()
    def start_from_data(self, centers: ImageFeatures, log_odds: Float[Tensor, " label"]) -> None:
        """Set what the training photos say before any step.

        Image and text features of a CLIP lie in two narrow cones, so cosines hardly differ between
        photos; features are therefore taken relative to their mean (our choice). The bias starts at
        how common a label is.

        Args:
            centers: Mean patch feature and mean image feature of training photos, one row each.
            log_odds: Of a positive among the known labels.
        """
        self.patch_center.copy_(centers.patch_features.mean(dim=(0, 1)))
        self.image_center.copy_(centers.image_features.mean(dim=0))
        self.logit_bias.copy_(log_odds)

    def _text_tower(self) -> TextTower:
        tower = self.backbone.text_tower
        if tower is None:
            raise ConfigError("This model was loaded for prediction, without its text tower.")
        return tower

    def hand_written_text(self) -> Float[Tensor, "label dim"]:
        """Text features of "a photo of a <name>.", from the frozen tower alone."""
        tower = self._text_tower()
        words = tower.embed(HAND_WRITTEN)
        names, counts = tower.embed_names(self.config.prompt_names, len(words))
        with torch.no_grad():
            return tower.encode_with_prefix(
                PromptLearner(words).prefix(names), names[:, 1:], counts - 1
            )

    def zero_shot_text(self, templates: Sequence[str] = TEMPLATES) -> Float[Tensor, "label dim"]:
        """Mean text feature of each label over templates like "a {}", less that of all of them.

        Cosines of a CLIP lie close together and far from 0: only their differences say something.

        Raises:
            ConfigError: If a text does not fit the tower.
        """
        text = self._text_tower().encode_names(self.config.prompt_names, templates)
        return text - text.mean(dim=0)

    def encode_text(self) -> TextFeatures:
        """Encode the present prompts; gradients reach the contexts."""
        tower = self._text_tower()
        num_context_tokens = self.config.matcher.num_context_tokens
        names, counts = tower.embed_names(self.config.prompt_names, num_context_tokens)
        if self.prompts.is_shared:
            learners = [p for p in (self.prompts, self.negative_prompts) if p is not None]
            encoded = [
                tower.encode_with_prefix(learner.prefix(names), names[:, 1:], counts - 1)
                for learner in learners
            ]
            return TextFeatures(encoded[0], encoded[1] if len(encoded) > 1 else None)
        counts = counts + num_context_tokens
        if self.negative_prompts is None:
            return TextFeatures(tower(self.prompts(names), counts), None)
        both = torch.cat([self.prompts(names), self.negative_prompts(names)])
        positive, negative = tower(both, counts.repeat(2)).chunk(2)
        return TextFeatures(positive, negative)

    def stored_text(self) -> TextFeatures:
        """Return the text features kept with the model; they need no text tower."""
        return TextFeatures(self.text_features, self.negative_text_features)

    @torch.no_grad()
    def store_text(self) -> None:
        """Encode the prompts once and keep the result for prediction."""
        text = self.encode_text()
        self.text_features.copy_(text.positive)
        if self.negative_text_features is not None and text.negative is not None:
            self.negative_text_features.copy_(text.negative)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor on the cosine difference; at most 100, as in CLIP."""
        return self.log_scale.exp().clamp(max=100)

    def centered(self, image_features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return image features relative to their mean in training, of unit length."""
        return F.normalize(image_features - self.image_center, dim=-1)

    def match(self, features: ImageFeatures, text: TextFeatures) -> MatcherOutput:
        """Match image features with text, label by label.

        logit = scale · (cos(region, presence) − cos(region, absence)) + bias; without a negative
        prompt the second cosine is left out. Zero-shot: see `zero_shot_similarity`.
        """
        attention = None
        patches = features.patch_features - self.patch_center
        if self.regions is not None:
            regions, attention = self.regions(patches)
        elif self.log_spatial_scale is not None:
            patches = F.normalize(patches, dim=-1)
            similarity = torch.einsum("bpd,cd->bcp", patches, text.positive)
            attention = (self.log_spatial_scale.exp() * similarity).softmax(dim=-1)
            regions = torch.einsum("bcp,bpd->bcd", attention, patches)
        else:
            image = self.centered(features.image_features)
            regions = image[:, None].expand(-1, len(text.positive), -1)
        if self.config.matcher.matching == "zero-shot":
            cosine = zero_shot_similarity(regions[:, 0], patches, text.direction)
        else:
            cosine = torch.einsum("bcd,cd->bc", regions, text.direction)
        return MatcherOutput(self.logit_scale * cosine + self.logit_bias, regions, attention)

    def evidence(
        self, features: ImageFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"] | None:
        """Return how much each patch speaks for each label; None for text-image matching.

        A region is a sum over the patches, and so is its product with the direction of the text: what
        each patch adds to that, before MLP and scaling (our choice). Attention alone is no answer to
        where a label is: much of it lies on patches that say little.
        """
        patches = features.patch_features - self.patch_center
        if self.regions is not None:
            return self.regions.evidence(patches, text.direction)
        if self.config.matcher.matching == "zero-shot":
            return patch_similarity(patches, text.direction).transpose(1, 2)
        attention = self.match(features, text).region_attention
        if attention is None:
            return None
        patches = F.normalize(patches, dim=-1)
        return attention * torch.einsum("bpd,cd->bcp", patches, text.direction)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> MatcherOutput:
        """Match normalized photos with the stored text features."""
        return self.match(self.backbone(images), self.stored_text())

    def learned_state(self) -> dict[str, Tensor]:
        """Return every tensor of the model but the backbone's, by name."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("backbone.")
        }

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        matcher, backbone = self.config.matcher.matching, self.config.backbone.source
        return f"{type(self).__name__}({len(self.labels)} labels, {matcher}, {backbone})"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.config.labels

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.log_scale.device

    def predict_many(
        self,
        images: Iterable[Any],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        batch_size: int = 16,
        heatmaps: bool = False,
    ) -> Iterator[Prediction]:
        """Predict photos one batch after the other, in order and in constant memory.

        A photo that cannot be read gives a prediction with `error` set; the others go on.

        Args:
            images: Anything that `trmml.data.photos.load_photo` takes.
            threshold: One threshold for all labels instead of the calibrated ones, in [0, 1].
            top_k: At most so many positive labels per photo; without a threshold, the best ones
                whatever their scores.
            batch_size: Photos per pass through the model.
            heatmaps: Whether to keep the evidence of the patches and the photo in each prediction.

        Raises:
            ConfigError: If the threshold, `top_k` or the batch size is out of range.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be in [0, 1], got {threshold}.")
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        limits = self.calibration.thresholds
        if threshold is not None or top_k is not None:
            limits = (threshold or 0.0,) * len(self.labels)
        options = _Options(np.array(limits, dtype=np.float32), top_k, heatmaps)
        return self._predict_batches(images, options, batch_size)

    def _predict_batches(
        self, images: Iterable[Any], options: "_Options", batch_size: int
    ) -> Iterator[Prediction]:
        photo, keep = self.config.photo, options.heatmaps
        for batch in prepared_batches(images, photo, batch_size, keep_photos=keep):
            yield from self._predict_batch(batch, options)

    def _predict_batch(
        self, batch: list[PreparedPhoto], options: "_Options"
    ) -> Iterator[Prediction]:
        tensors = [item.tensor for item in batch if item.tensor is not None]
        scores, evidence = np.empty((0, len(self.labels)), dtype=np.float32), None
        if tensors:
            with torch.inference_mode():
                features = self.backbone(torch.stack(tensors).to(self.device))
                text = self.stored_text()
                scores = self.match(features, text).scores.cpu().numpy()
                found = self.evidence(features, text) if options.heatmaps else None
                if found is not None:
                    evidence = found.unflatten(-1, self.backbone.grid).float().cpu().numpy()
        nothing = np.full(len(self.labels), np.nan, dtype=np.float32)
        row = 0
        for item in batch:
            readable = item.error is None
            yield Prediction(
                self.labels,
                scores[row] if readable else nothing,
                options.thresholds,
                item.source,
                item.error,
                options.top_k,
                evidence[row] if readable and evidence is not None else None,
                item.photo,
            )
            row += readable


class _Options(NamedTuple):
    thresholds: Float32[np.ndarray, " label"]
    top_k: int | None
    heatmaps: bool


def require_loaded(model: object) -> None:
    """Check that a model is one, and not the name of one.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(model, TextRegionMatcher):
        raise ConfigError(f"Load the model first: trmml.load_model({str(model)!r}).")
