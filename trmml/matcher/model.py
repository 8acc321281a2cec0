"""The network: frozen CLIP, learned prompts, a way of matching and prototypes put together.

Paper: TRM-ML is this with text–region matching; see `trmml.matcher.matching` for the other ways.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.backbone.text import TextTower
from trmml.config.groups import ModelConfig
from trmml.errors import ConfigError
from trmml.matcher.decoding import PhotoScores, PredictsPhotos, stream_predictions
from trmml.matcher.matching import WAYS, CenteredFeatures, MatcherOutput, TextFeatures
from trmml.matcher.notebook import model_html
from trmml.matcher.prediction import Prediction
from trmml.matcher.probe import FeatureProbe
from trmml.matcher.prompts import HAND_WRITTEN, TEMPLATES, NewRow, random_context, relative_text
from trmml.matcher.sides import Side
from trmml.matcher.thresholds import Calibration


class TextRegionMatcher(PredictsPhotos, nn.Module):
    """Scores every label of a photo by matching its text with its own region.

    Attributes:
        config: Everything needed to rebuild the model around its learned tensors.
        backbone: The frozen CLIP.
        matching: The way in which text meets image.
        present: Prompts, text features and prototypes of the presence of each label.
        absent: Those of its absence; None without negative prompts.
        calibration: The thresholds of its labels.
        source: Where it was loaded from; None for a model made in this process.
        report: What `metrics.json` and `finetune.json` say of it; None where nothing is known of that.
        unlearned: Labels that `relabelled` added, which are scored by their names alone.
    """

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
        matching, num_labels = config.matching, len(config.labels)
        self.config = config
        self.backbone = backbone
        self.calibration = Calibration.uncalibrated(num_labels)
        self.source: str | None = None
        self.report: dict[str, dict[str, Any]] | None = None
        self.unlearned: frozenset[str] = frozenset()
        text_features = torch.zeros(num_labels, config.dim)
        context = torch.zeros(matching.num_context_tokens, config.text_width)
        if matching.label_specific_context:
            context = context.expand(num_labels, -1, -1)
        self.present = Side(context, text_features)
        self.absent = Side(context, text_features) if matching.negative_prompt else None
        self.register_buffer("image_center", torch.zeros(config.dim))
        self.register_buffer("patch_center", torch.zeros(config.dim))
        self.matching = WAYS[matching.way](num_labels, config.dim, matching)
        self.probe: FeatureProbe | None = None
        if matching.linear_probe and self.matching.learns:
            self.probe = FeatureProbe(num_labels, config.dim, mlp=matching.mlp_probe)
        self.log_scale = nn.Parameter(torch.tensor(math.log(matching.logit_scale)))
        self.logit_bias = nn.Parameter(torch.zeros(num_labels))
        self.eval()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what is recognised."""
        return self.config.labels

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.log_scale.device

    @property
    def sides(self) -> list[Side]:
        """Presence and, with negative prompts, absence."""
        return [self.present] if self.absent is None else [self.present, self.absent]

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """The bias; see `NewRow`."""
        return {"logit_bias": "mean"}

    @torch.no_grad()
    def start_from_text(self, seed: int = 0) -> None:
        """Fill the tensors before training: contexts, queries and prototypes.

        Queries are the text features of hand-written prompts. Contexts are noise, or the words of
        `context_init`; the context of absence is always noise, so that it can differ.

        Raises:
            ConfigError: If a label does not fit the text tower.
        """
        matching = self.config.matching
        generator = torch.Generator().manual_seed(seed)
        num_labels = len(self.labels) if matching.label_specific_context else None
        shape = (matching.num_context_tokens, self.config.text_width, num_labels)
        for side in self.sides:
            side.prompts.context.copy_(random_context(*shape, generator))
        if matching.context_init:
            words = self._text_tower().embed(matching.context_init)
            self.present.prompts.context.copy_(words.expand_as(self.present.prompts.context))
        self.matching.start(self.hand_written_text, generator)
        for side, features in self._by_side(self.encode_text()):
            side.set_from_text(features)

    @torch.no_grad()
    def start_from_data(self, sample: ImageFeatures, log_odds: Float[Tensor, " label"]) -> None:
        """Set what the training photos say before any step.

        Image and text features of a CLIP lie in two narrow cones, so cosines hardly differ between
        photos; features are therefore taken relative to their mean (our choice).

        Args:
            sample: Features of a sample of the training photos; their means become the centers.
            log_odds: Of a positive among the known states, at which the biases start.
        """
        self.patch_center.copy_(sample.patch_features.mean(dim=(0, 1)))
        self.image_center.copy_(sample.image_features.mean(dim=0))
        self.logit_bias.copy_(log_odds)

    def relabelled(self, labels: Sequence[str]) -> "TextRegionMatcher":
        """Return a model for other labels that keeps what was learned.

        Labels that stay keep all of their tensors and thresholds. New ones share what belongs to no
        label; their queries, text features and prototypes start from text, their bias (and context,
        where each label has its own) from the mean of the learned ones, and their threshold is the
        global one.

        Raises:
            ConfigError: If the model was loaded without its text tower, labels repeat, or it is
                zero-shot.
        """
        if not self.matching.learns:
            raise ConfigError(
                "This model is zero-shot, where each label is compared with all the others; make one "
                "of the new labels: load_model('zero-shot', labels=…, backbone=…)."
            )
        fresh = TextRegionMatcher(self.config.relabelled(labels), self.backbone).to(self.device)
        fresh.start_from_text()
        kept = [i for i, label in enumerate(labels) if label in self.labels]
        rows = [self.labels.index(labels[i]) for i in kept]
        new = [i for i in range(len(labels)) if i not in set(kept)]
        learned, starts = self.learned_state(), fresh._starts_per_label()
        with torch.no_grad():
            for name, tensor in fresh.learned_state().items():
                if name not in starts:
                    tensor.copy_(learned[name])
                    continue
                if starts[name] == "mean":
                    tensor.copy_(learned[name].mean(dim=0).expand_as(tensor))
                tensor[kept] = learned[name][rows]
            # Only now, since what their prompts say depends on the learned context.
            for side, features in fresh._by_side(fresh.encode_text()):
                side.set_from_text(features, new)
        fresh.calibration = self.calibration.relabelled(self.labels, labels)
        fresh.unlearned = frozenset(labels) - (frozenset(self.labels) - self.unlearned)
        return fresh.eval().requires_grad_(False)

    def _starts_per_label(self) -> dict[str, NewRow]:
        """Name every tensor with a row per label, and what the row of a new label starts from."""
        return {
            f"{prefix}.{name}".lstrip("."): start
            for prefix, module in self.named_modules()
            for name, start in getattr(module, "tensors_per_label", {}).items()
        }

    def _text_tower(self) -> TextTower:
        tower = self.backbone.text_tower
        if tower is None:
            raise ConfigError("This model was loaded for prediction, without its text tower.")
        return tower

    @torch.no_grad()
    def hand_written_text(self) -> Float[Tensor, "label dim"]:
        """Text features of "a photo of a <name>.", from the frozen tower alone."""
        tower = self._text_tower()
        words = tower.embed(HAND_WRITTEN)
        names, counts = tower.embed_names(self.config.prompt_names, len(words))
        return tower.encode_behind(words, names, counts)

    def zero_shot_text(self, templates: Sequence[str] = TEMPLATES) -> Float[Tensor, "label dim"]:
        """What zero-shot matching multiplies photos with; see `relative_text`."""
        return relative_text(self._text_tower(), self.config.prompt_names, templates)

    def encode_text(self) -> TextFeatures:
        """Encode the current prompts; gradients reach the contexts."""
        tower = self._text_tower()
        num_context_tokens = self.config.matching.num_context_tokens
        names, counts = tower.embed_names(self.config.prompt_names, num_context_tokens)
        learners = [side.prompts for side in self.sides]
        if self.present.prompts.is_shared:
            return TextFeatures(
                *(tower.encode_behind(learner.context, names, counts) for learner in learners)
            )
        prompts = torch.cat([learner(names, tower.num_start_tokens) for learner in learners])
        counts = (counts + num_context_tokens).repeat(len(learners))
        return TextFeatures(*tower(prompts, counts).chunk(len(learners)))

    def stored_text(self) -> TextFeatures:
        """Return the text features kept with the model; they need no text tower."""
        return TextFeatures(*(side.text_features for side in self.sides))

    @torch.no_grad()
    def store_text(self) -> None:
        """Encode the prompts once and keep the result for prediction."""
        for side, features in self._by_side(self.encode_text()):
            side.text_features.copy_(features)

    def _by_side(self, text: TextFeatures) -> list[tuple[Side, Float[Tensor, "label dim"]]]:
        """Return each side with its part of the text features."""
        both = [(self.present, text.present)]
        if self.absent is not None and text.absent is not None:
            both.append((self.absent, text.absent))
        return both

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor on the cosine difference; at most 100, as in CLIP."""
        return self.log_scale.exp().clamp(max=100)

    def centered(self, features: ImageFeatures) -> CenteredFeatures:
        """Return features relative to their mean in training."""
        patches = features.patch_features - self.patch_center
        return CenteredFeatures(
            patches, F.normalize(features.image_features - self.image_center, dim=-1)
        )

    def match(self, features: ImageFeatures, text: TextFeatures) -> MatcherOutput:
        """Match image features with text, label by label: logit = scale · similarity + bias.

        The similarity of text–region matching is cos(region, presence) − cos(region, absence). Where
        the probe has a share, it is mixed in.
        """
        centered = self.centered(features)
        similarity, regions = self.matching(centered, text)
        logits = self.logit_scale * similarity + self.logit_bias
        if self.probe is not None:
            logits = self.probe(logits, centered)
        return MatcherOutput(logits, regions)

    def evidence(
        self, features: ImageFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"] | None:
        """Return how much each patch speaks for each label; None where a way has no evidence.

        A region is a sum over the patches, and so is its product with the direction of the text: what
        each patch adds to that, before MLP and scaling (our choice).
        """
        return self.matching.evidence(self.centered(features), text)

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
        way, backbone = self.config.matching.way, self.config.backbone.source
        return f"{type(self).__name__}({len(self.labels)} labels, {way}, {backbone})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what it is, its figures and its labels."""
        return model_html(self.config, self.calibration, self.source, self.report)

    def predict_many(
        self,
        images: Iterable[Any],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        batch_size: int = 16,
        heatmaps: bool = False,
        rules: bool = False,
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
            rules: Whether scores and tags keep the rules of the calibration; see `with_rules`.

        Raises:
            ConfigError: If the threshold, `top_k` or the batch size is out of range.
        """
        self.require_in_range(threshold, top_k, batch_size)
        limits = self.calibration.thresholds
        if threshold is not None or top_k is not None:
            limits = (threshold or 0.0,) * len(self.labels)
        like = Prediction.unread(self.labels, limits, top_k)
        score = partial(self._scores, with_evidence=heatmaps)
        kept = self.calibration.rules if rules else ()
        return stream_predictions(
            images,
            self.config.photo,
            score,
            like,
            kept,
            batch_size=batch_size,
            keep_photos=heatmaps,
        )

    @torch.inference_mode()
    def _scores(
        self, images: Float[Tensor, "batch 3 height width"], *, with_evidence: bool
    ) -> PhotoScores:
        features, text = self.backbone(images.to(self.device)), self.stored_text()
        scores = self.match(features, text).scores.cpu().numpy()
        evidence = self.evidence(features, text) if with_evidence else None
        if evidence is None:
            return PhotoScores(scores, None)
        return PhotoScores(scores, evidence.unflatten(-1, self.backbone.grid).float().cpu().numpy())
