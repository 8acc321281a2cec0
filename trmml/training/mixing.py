"""The end of a training: the probe mixed in, and the result compared with simple things.

Our choice, so that a training does not end clearly below what needs none; see `mix_in_probe`.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8
from torch import Tensor

from trmml.evaluation.intervals import difference
from trmml.matcher.matching import scores_of
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.probe import FeatureProbe, ProbeInputs, ProbeMLP
from trmml.reports.numbers import signed_per_cent
from trmml.training.fitted_text import FittedText, fit_zero_shot
from trmml.training.mlp import MLP, fit_mlp, share_of_mlp
from trmml.training.photos import can_choose_epoch
from trmml.training.probing import LinearMap, fit_linear, share_of_probe
from trmml.training.survey import Survey
from trmml.training.validation import Validation

logger = logging.getLogger(__name__)
ZERO_SHOT, LINEAR_PROBE = "zero-shot", "linear probe"


class Mixed(NamedTuple):
    """What came of mixing.

    Attributes:
        scores: Of the model on the validation photos.
        linear_probe: Scores of a plain linear probe on the same photos.
        has_new_probe: Whether the new probe has a say in any label of the model.
    """

    scores: Float32[np.ndarray, "image label"]
    linear_probe: Float32[np.ndarray, "image label"]
    has_new_probe: bool


def mix_in_probe(
    model: TextRegionMatcher,
    states: Int8[Tensor, "image label"],
    survey: Survey,
    validation: Validation,
    *,
    assumed_negative: float,
    seed: int,
    is_learned: Bool[Tensor, " label"],
) -> Mixed:
    """Mix zero-shot, a linear map and an MLP that correct it, into a model.

    Where no label was learned before, and zero-shot (with scales and biases fitted to the photos) or a
    plain linear probe is better than the mixture by more than chance (the interval of 95 % of the
    difference of their mAP lies above 0), that takes its place, with a warning.

    Args:
        model: With a probe, after its training.
        states: Of the training photos.
        survey: Of the same photos.
        validation: What may choose the strength of the linear map.
        assumed_negative: Weight of unknown states of labels without a known negative.
        seed: Of the training of the MLP.
        is_learned: Labels that were trained before, of which the model may know more than these photos
            say: they take the new probe only where that raises validation mAP, and enough is known to
            choose by that.
    """
    val, before = validation.probe_inputs(), _learned_tensors(model)
    states, val_states = states.to(model.device), torch.from_numpy(validation.data.states)
    inputs, text_trust = survey.inputs, survey.text_trust
    zero_shot = fit_zero_shot(inputs, states, text_trust, assumed_negative)
    fit = partial(
        fit_linear, inputs.summaries, states, val.summaries, val_states,
        assumed_negative=assumed_negative,
    )  # fmt: skip
    correction = fit(zero_shot=(zero_shot.logits(inputs), zero_shot.logits(val)))
    _mix(model, zero_shot, correction, share_of_probe(states, text_trust))
    _learn_mlp(model, zero_shot.bias, states, survey, assumed_negative, seed)
    plain, scores = fit(), validation.scores()
    alone = scores_of(plain.logits(val.summaries)).cpu().numpy()
    if is_learned.any():
        mixed = _learned_tensors(model)
        _put_back(model, before, is_learned)
        kept = validation.scores()
        is_better = (validation.map_of(scores) or 0) > (validation.map_of(kept) or 0)
        if not (is_better and can_choose_epoch(validation.data)):
            return Mixed(kept, alone, not bool(is_learned.all()))
        restore(model, mixed)
        return Mixed(scores, alone, True)
    nothing = LinearMap(torch.zeros_like(plain.weight), torch.zeros_like(plain.bias), 0.0)
    without_text = FittedText(torch.zeros_like(zero_shot.scales), torch.zeros_like(zero_shot.bias))
    trusted = fit_zero_shot(inputs, states, torch.ones_like(text_trust), assumed_negative)
    simple = {ZERO_SHOT: (trusted, nothing), LINEAR_PROBE: (without_text, plain)}
    return Mixed(_never_worse(model, scores, simple, validation, val), alone, True)


def _learned_tensors(model: TextRegionMatcher) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.learned_state().items()}


@torch.no_grad()
def _put_back(
    model: TextRegionMatcher, before: Mapping[str, Tensor], is_learned: Bool[Tensor, " label"]
) -> None:
    """Give the labels that were learned before the probe that they had; the others keep the new one.

    All labels share the hidden units of the MLP. Where a label that was learned needs the old ones, the
    others go by the linear map alone.
    """
    probe, rows = model.probe, is_learned.to(model.device)
    assert probe is not None
    parts: list[tuple[str, FeatureProbe | ProbeMLP]] = [("probe", probe)]
    if probe.mlp is not None:
        parts.append(("probe.mlp", probe.mlp))
    for prefix, module in parts:
        for name in module.tensors_per_label:
            tensor = getattr(module, name)
            tensor[rows] = before[f"{prefix}.{name}"][rows]
    if probe.mlp is not None and before["probe.mlp.share"].any():
        probe.mlp.hidden_weight.copy_(before["probe.mlp.hidden_weight"])
        probe.mlp.hidden_bias.copy_(before["probe.mlp.hidden_bias"])
        probe.mlp.share[~rows] = 0.0


def _mix(model: TextRegionMatcher, zero_shot: FittedText, linear: LinearMap, share: Tensor) -> None:
    """Mix zero-shot with its correction into the logits of a model."""
    assert model.probe is not None
    image_text, patch_text = zero_shot.scales[:, :, None] * model.zero_shot_text()
    bias = zero_shot.bias + linear.bias
    model.probe.mix_in(image_text, patch_text, linear.weight, bias, share)


@torch.no_grad()
def _learn_mlp(
    model: TextRegionMatcher,
    bias: Float[Tensor, " label"],
    states: Int8[Tensor, "image label"],
    survey: Survey,
    assumed_negative: float,
    seed: int,
) -> None:
    """Train the MLP for labels with enough positives, going on from what it has learned before.

    It corrects zero-shot as it stands in the probe by now, exactly where the labels are those of before
    and nearly so for others; `bias` is that of zero-shot.
    """
    assert model.probe is not None
    mlp = model.probe.mlp
    if mlp is None:
        return
    share = torch.maximum(mlp.share, share_of_mlp(states, survey.text_trust))
    if not share.any():
        return
    text = model.zero_shot_text()
    length = text.square().sum(dim=1).clamp(min=1e-12)
    texts = torch.stack([model.probe.image_text, model.probe.patch_text])
    zero_shot = FittedText((texts * text).sum(dim=2) / length, bias)
    before = MLP(mlp.hidden_weight, mlp.hidden_bias, mlp.weight, mlp.bias - bias)
    learned = fit_mlp(
        survey.inputs.summaries,
        states,
        assumed_negative=assumed_negative,
        seed=seed,
        zero_shot=zero_shot.logits(survey.inputs),
        trust=survey.text_trust,
        start=before if mlp.share.any() else None,
    )
    learned = learned._replace(bias=learned.bias + bias)
    for tensor, new in zip(
        (mlp.hidden_weight, mlp.hidden_bias, mlp.weight, mlp.bias, mlp.share),
        (*learned, share),
        strict=True,
    ):
        tensor.copy_(new)


@torch.no_grad()
def restore(model: TextRegionMatcher, state: dict[str, Tensor]) -> None:
    """Put learned tensors back into a model."""
    learned = model.learned_state()
    for name, tensor in state.items():
        learned[name].copy_(tensor)


def _never_worse(
    model: TextRegionMatcher,
    scores: Float32[np.ndarray, "image label"],
    simple: Mapping[str, tuple[FittedText, LinearMap]],
    validation: Validation,
    val: ProbeInputs,
) -> Float32[np.ndarray, "image label"]:
    """Put what is better than the model in its place; return the validation scores of what is there."""
    assert model.probe is not None
    for name, (zero_shot, linear) in simple.items():
        other = scores_of(zero_shot.logits(val) + linear.logits(val.summaries)).cpu().numpy()
        gain = difference(other, scores, validation.data.states)
        if not gain.low > 0:
            continue
        logger.warning(
            "On the validation photos the training is worse than %s by %.1f mAP (95 %%: %.1f to %.1f): "
            "that takes its place. More known labels would help, or a CLIP that knows them.",
            name, *(100 * value for value in gain)
        )  # fmt: skip
        _mix(model, zero_shot, linear, torch.ones_like(model.probe.share))
        if model.probe.mlp is not None:
            model.probe.mlp.share.zero_()
        scores = validation.scores()
    return scores


def compared_with(
    scores: Float32[np.ndarray, "image label"],
    others: Mapping[str, Float32[np.ndarray, "image label"] | None],
    validation: Validation,
) -> dict[str, dict[str, float | None]]:
    """Return what others reach on the validation photos, and how far the model is above each.

    Args:
        scores: Of the model.
        others: Scores by name; None is left out.
        validation: The photos.

    Returns:
        By name: `mAP`, and `gain` with its interval of 95 % (`low`, `high`), shares in [-1, 1].
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, other in others.items():
        if other is None or validation.map_of(other) is None:
            continue
        gain = difference(scores, other, validation.data.states)
        found[name] = {"mAP": validation.map_of(other)} | {
            key: round(value, 6) for key, value in zip(("gain", "low", "high"), gain, strict=True)
        }
    return found


def warn_if_no_gain(compared: Mapping[str, Mapping[str, float | None]]) -> None:
    """Say in words that zero-shot, which needs no training, may be as good; see `compared_with`."""
    found = compared.get(ZERO_SHOT, {})
    other, gain, low, high = (found.get(key) for key in ("mAP", "gain", "low", "high"))
    if other is None or gain is None or low is None or high is None or low > 0:
        return
    if other + gain > 0.9995:
        return  # nothing is left to gain
    logger.warning(
        "The validation photos do not show that the model is better than its CLIP alone (zero-shot): "
        "mAP differs by %s, 95 %% interval %s to %s. More known labels would help, or more validation "
        "photos to tell.", *(signed_per_cent(value) for value in (gain, low, high))
    )  # fmt: skip
