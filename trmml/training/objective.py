"""What a training step minimizes: known labels, pseudo labels, distillation, contrast.

Paper: the parts are stated, their sum and weights are not; each weight is a setting, and 0 turns
its part off.
"""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from trmml.config.groups import FinetuneConfig
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.matcher.matching import MatcherOutput, TextFeatures
from trmml.matcher.model import TextRegionMatcher
from trmml.training.losses import asymmetric_loss, contrastive_loss, distillation_loss
from trmml.training.pseudo_labels import (
    START_EPOCH,
    PositiveBudget,
    presence_probability,
    pseudo_labels,
)
from trmml.training.teacher import Teacher

MAX_TEACHER_BOOST = 30
"""Or a few known states could no longer be learned beside what the teacher says."""
CONFIDENCE = 0.8
"""A known state moves its prototype only where the score is surer than this (as in SADCL)."""
MOMENTUM = 0.99
"""Share of the old prototype kept in a step (as in SADCL)."""


class StepLoss(NamedTuple):
    """The loss of one batch and what it was made of."""

    total: Float[Tensor, ""]
    parts: dict[str, float]
    estimated: Int8[Tensor, "batch label"]
    """States after pseudo labelling; unknown where nothing was decided."""


class Objective:
    """Loss of a batch, and the prototype update that follows the step."""

    def __init__(
        self,
        model: TextRegionMatcher,
        config: FinetuneConfig,
        states: Int8[Tensor, "image label"],
        learned: Collection[str] = (),
    ) -> None:
        """Prepare what stays the same in all steps.

        Args:
            model: The matcher in training.
            config: Loss weights and pseudo-label settings.
            states: Of the whole training set. Where a label has no known negative, its unknown states
                count as weak negatives and are not estimated; elsewhere the share of positives among
                the known states limits how many are estimated. A label that is known in n photos is
                distilled min(max(few_labels / n − 1, 0), 30) times more, in all photos.
            learned: Labels that the model was trained on before, for self-distillation.
        """
        self.model = model
        self.config = config
        positives, negatives = ((states == s).sum(dim=0) for s in (POSITIVE, NEGATIVE))
        self.without_negatives = (negatives == 0).to(model.device)
        self.can_estimate = config.pseudo_labels.enabled and bool((negatives > 0).any())
        # How common a label is, as far as is known; what limits how often it may be estimated.
        rate = (positives + 1) / (positives + negatives + 2)  # smoothed by one of each
        self.positives_per_unknown = config.pseudo_labels.positive_budget * rate.to(model.device)
        loss = config.loss
        learned = learned if loss.self_distillation else ()
        self.teacher = Teacher(model, loss.teacher, learned) if loss.distillation else None
        known = torch.where(negatives == 0, len(states), positives + negatives)
        boost = (loss.few_labels / known.clamp(min=1) - 1).clamp(0, MAX_TEACHER_BOOST)
        self.teacher_boost = boost.to(model.device)
        self.teacher_trust = torch.ones(states.shape[1], device=model.device)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Say which epoch the next steps belong to, from 0."""
        self.epoch = epoch
        self.budget = PositiveBudget(self.positives_per_unknown)

    @property
    def is_warm(self) -> bool:
        """Whether prototypes are good enough by now to estimate anything."""
        return self.epoch >= START_EPOCH

    def __call__(
        self,
        output: MatcherOutput,
        text: TextFeatures,
        states: Int8[Tensor, "batch label"],
        teacher_scores: Float[Tensor, "batch teacher label"] | None,
    ) -> StepLoss:
        """Return the loss; pseudo labels take part from the third epoch on.

        Args:
            output: What the matcher made of the photos.
            text: The current text features.
            states: Of the same photos.
            teacher_scores: What `teacher` says about the photos, if there is one.
        """
        loss, pseudo = self.config.loss, self.config.pseudo_labels
        estimated = states
        if self.can_estimate and self.is_warm:
            estimated = self._estimate(output, states)
        is_estimated = estimated != states
        # Unknown states get no term: `asymmetric_loss` skips every UNKNOWN of `targets`. The weights are
        # for those that have just been assumed to be negative.
        targets = self.with_assumed_negatives(states).masked_fill(is_estimated, UNKNOWN)
        weights = torch.where(states == UNKNOWN, loss.assumed_negative, 1.0)
        classify = partial(
            asymmetric_loss,
            output.logits,
            gamma_positive=loss.gamma_positive,
            gamma_negative=loss.gamma_negative,
            clip=loss.clip,
        )
        parts = {"classification": classify(targets, weights=weights)}
        if is_estimated.any():
            # Added to the mean over the known labels, which the many estimated ones must not thin out.
            per_known = is_estimated.sum() / weights[targets != UNKNOWN].sum().clamp(min=1)
            only_estimated = estimated.masked_fill(~is_estimated, UNKNOWN)
            parts["pseudo_labels"] = pseudo.weight * per_known * classify(only_estimated)
        if teacher_scores is not None:
            teacher_weights = self.teacher_trust * ((states == UNKNOWN) + self.teacher_boost)
            losses = [
                distillation_loss(output.logits, scores, teacher_weights)
                for scores in teacher_scores.unbind(dim=1)
            ]
            parts["distillation"] = loss.distillation * torch.stack(losses).mean()
        if (
            loss.contrastive and self.model.matching.has_evidence
        ):  # without regions nothing to contrast
            parts["contrastive"] = loss.contrastive * contrastive_loss(
                F.normalize(output.region_features, dim=-1),
                estimated == POSITIVE,
                text.present,
                self.model.present.prototypes.visual,
            )
        total = torch.stack(list(parts.values())).sum()
        return StepLoss(total, {name: part.item() for name, part in parts.items()}, estimated)

    def with_assumed_negatives(
        self, states: Int8[Tensor, "batch label"]
    ) -> Int8[Tensor, "batch label"]:
        """Return states whose unknown ones are negative where a label has no known negative."""
        return states.masked_fill((states == UNKNOWN) & self.without_negatives, NEGATIVE)

    def _estimate(
        self, output: MatcherOutput, states: Int8[Tensor, "batch label"]
    ) -> Int8[Tensor, "batch label"]:
        model, pseudo = self.model, self.config.pseudo_labels
        regions = F.normalize(output.region_features, dim=-1)
        prototypes = model.present.prototypes
        probability = presence_probability(
            regions,
            prototypes,
            None if model.absent is None else model.absent.prototypes,
            model.logit_scale,
            model.logit_bias,
            pseudo,
        )
        estimated = pseudo_labels(states, probability, regions, prototypes, self.budget, pseudo)
        # Where no negative is known, the unknown labels are weak negatives already, and scores that
        # have never seen a real one are too high: many of the positives they would give are wrong.
        return torch.where(self.without_negatives, states, estimated)

    @torch.no_grad()
    def update_prototypes(
        self, output: MatcherOutput, text: TextFeatures, states: Int8[Tensor, "batch label"]
    ) -> None:
        """Move the prototypes towards the confidently right labels of a batch, known or assumed."""
        model = self.model
        regions = F.normalize(output.region_features.float(), dim=-1)
        scores = output.logits.sigmoid()
        sure = (states == POSITIVE) & (scores > CONFIDENCE)
        model.present.prototypes.update(regions, sure, text.present, MOMENTUM)
        if model.absent is not None and text.absent is not None:
            negative = self.with_assumed_negatives(states) == NEGATIVE
            sure = negative & (scores < 1 - CONFIDENCE)
            model.absent.prototypes.update(regions, sure, text.absent, MOMENTUM)
