import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.config.groups import MatchingConfig, Way
from trmml.data.tensors import photo_tensor
from trmml.errors import ConfigError
from trmml.evaluation.requirements import require_loaded
from trmml.matcher.model import TextRegionMatcher
from trmml.zoo.loading import make_config

CATEGORIES = ("cat", "fire hydrant", "stop_sign")
BATCH, PATCHES = 2, 5


def matcher_of(backbone: FrozenCLIP, **settings: object) -> TextRegionMatcher:
    matching = MatchingConfig(num_context_tokens=3, num_heads=2, **settings)
    model = TextRegionMatcher(make_config(backbone, CATEGORIES, matching), backbone)
    model.start_from_text(seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.store_text()
    return model


def random_features(dim: int) -> ImageFeatures:
    return ImageFeatures(torch.randn(BATCH, PATCHES, dim), torch.randn(BATCH, dim))


ALL_WAYS = pytest.mark.parametrize("way", get_args(Way))


@ALL_WAYS
@pytest.mark.parametrize("negative_prompt", [True, False])
def test_logits_equal_their_definition(
    backbone: FrozenCLIP, way: str, negative_prompt: bool
) -> None:
    model = matcher_of(backbone, way=way, negative_prompt=negative_prompt)
    with torch.no_grad():
        model.image_center.normal_()
        model.patch_center.normal_()
    features = random_features(backbone.dim)
    output = model.match(features, model.stored_text())
    patches = features.patch_features - model.patch_center
    direction = model.present.text_features - (model.absent.text_features if negative_prompt else 0)
    # One of so few patches.
    best = (F.normalize(patches, dim=-1) @ direction.T).amax(dim=1)
    for b in range(BATCH):
        for c in range(len(CATEGORIES)):
            text = model.present.text_features[c]
            if way == "text-region":
                region = model.matching.regions(patches)[b, c]
            elif way == "text-pixel":
                unit = F.normalize(patches[b], dim=-1)
                weights = (model.matching.log_spatial_scale.exp() * unit @ text).softmax(dim=0)
                region = weights @ unit
            else:
                region = F.normalize(features.image_features[b] - model.image_center, dim=0)
            cosine = region @ text
            if negative_prompt:
                cosine = cosine - region @ model.absent.text_features[c]
            if way == "zero-shot":
                cosine = (cosine + (best[b, c] - best[b].mean()) / 2) / 1.5
            expected = model.logit_scale * cosine + model.logit_bias[c]
            torch.testing.assert_close(output.logits[b, c], expected, rtol=1e-4, atol=1e-4)


@ALL_WAYS
def test_a_way_of_matching_says_whether_it_has_evidence(backbone: FrozenCLIP, way: str) -> None:
    model, features = matcher_of(backbone, way=way), random_features(backbone.dim)
    evidence = model.evidence(features, model.stored_text())
    assert model.matching.has_evidence == (evidence is not None)


@ALL_WAYS
def test_evidence_is_what_is_matched_patch_by_patch(backbone: FrozenCLIP, way: str) -> None:
    model, features = matcher_of(backbone, way=way), random_features(backbone.dim)
    text = model.stored_text()
    evidence, output = model.evidence(features, text), model.match(features, text)
    if way == "text-pixel":
        expected = (output.logits - model.logit_bias) / model.logit_scale
        torch.testing.assert_close(evidence.sum(dim=-1), expected)
    if way == "zero-shot":
        best = evidence.amax(dim=-1)
        image = model.centered(features).image @ text.direction.T
        expected = 2 * (1.5 * (output.logits - model.logit_bias) / model.logit_scale - image)
        torch.testing.assert_close(best - best.mean(dim=1, keepdim=True), expected)


@pytest.mark.parametrize("specific", [True, False])
def test_gradients_reach_every_learned_parameter(backbone: FrozenCLIP, specific: bool) -> None:
    model = matcher_of(backbone, label_specific_context=specific)
    features = random_features(backbone.dim)
    model.match(features, model.encode_text()).logits.square().sum().backward()
    # They shift the similarity of all patches alike, which the softmax ignores.
    unseen = ("matching.regions.key_map.bias", "matching.regions.patch_norm.bias")
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            assert parameter.grad is None, name
        elif name not in unseen:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name


def test_stored_text_is_what_the_prompts_say(backbone: FrozenCLIP) -> None:
    model = matcher_of(backbone)
    text = model.encode_text()
    assert torch.equal(model.present.text_features, text.present)
    assert torch.equal(model.absent.text_features, text.absent)


def test_hand_written_context_gives_the_hand_written_text(backbone: FrozenCLIP) -> None:
    matching = MatchingConfig(way="text-image", context_init="a photo of a", negative_prompt=False)
    model = TextRegionMatcher(make_config(backbone, CATEGORIES, matching), backbone)
    model.start_from_text()
    torch.testing.assert_close(model.present.text_features, model.hand_written_text())


def test_queries_start_as_hand_written_text(backbone: FrozenCLIP) -> None:
    config = make_config(backbone, CATEGORIES, MatchingConfig(num_heads=2))
    model = TextRegionMatcher(config, backbone)
    model.start_from_text()
    assert torch.equal(model.matching.regions.queries, model.hand_written_text())
    assert config.prompt_names == ("cat", "fire hydrant", "stop sign")


def test_the_same_seed_starts_the_same_model(backbone: FrozenCLIP) -> None:
    config = make_config(backbone, CATEGORIES, MatchingConfig(num_heads=2))
    contexts = []
    for seed in (3, 3, 4):
        model = TextRegionMatcher(config, backbone)
        model.start_from_text(seed)
        contexts.append(model.present.prompts.context.detach().clone())
    assert torch.equal(contexts[0], contexts[1])
    assert not torch.equal(contexts[0], contexts[2])
    assert not torch.equal(model.present.prompts.context, model.absent.prompts.context)


def test_the_learned_state_holds_nothing_of_the_backbone(backbone: FrozenCLIP) -> None:
    model = matcher_of(backbone)
    state = model.learned_state()
    assert not [name for name in state if "backbone" in name or "tower" in name]
    assert {
        "present.prompts.context",
        "matching.regions.queries",
        "absent.prototypes.visual",
    } <= set(state)


def test_the_scale_is_never_above_one_hundred(backbone: FrozenCLIP) -> None:
    model = matcher_of(backbone)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.logit_scale.item() == 100


def test_a_backbone_of_another_width_is_refused(backbone: FrozenCLIP) -> None:
    config = make_config(backbone, CATEGORIES, MatchingConfig(num_heads=2))
    with pytest.raises(ConfigError, match="dim is 18, but the backbone's joint space has 16"):
        TextRegionMatcher(dataclasses.replace(config, dim=18), backbone)
    odd = dataclasses.replace(config, matching=MatchingConfig(num_heads=3))
    with pytest.raises(ConfigError, match="num_heads \\(3\\) must divide"):
        TextRegionMatcher(odd, backbone)


def test_predictions_come_in_order_whatever_the_batch_size(backbone: FrozenCLIP) -> None:
    model = matcher_of(backbone)
    generator = np.random.default_rng(0)
    photos = [
        generator.integers(0, 255, (7 + 3 * i, 50 - 4 * i, 3), dtype=np.uint8) for i in range(11)
    ]
    tensors = [photo_tensor(Image.fromarray(photo), model.config.photo) for photo in photos]
    with torch.inference_mode():
        expected = model(torch.stack(tensors)).logits.sigmoid().numpy()
    for batch_size in (1, 3, 16):
        predictions = list(model.predict_many(iter(photos), batch_size=batch_size))
        scores = np.stack([prediction.scores for prediction in predictions])
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_only_two_batches_are_read_ahead(backbone: FrozenCLIP) -> None:
    model, taken = matcher_of(backbone), []

    def photos():
        for i in range(100):
            taken.append(i)
            yield np.zeros((8, 8, 3), dtype=np.uint8)

    stream = model.predict_many(photos(), batch_size=3)
    next(stream)
    assert len(taken) <= 9
    stream.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_wrong_prediction_settings_are_refused_at_once(
    backbone: FrozenCLIP, arguments: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        matcher_of(backbone).predict_many([], **arguments)


def test_a_model_says_what_it_is_in_a_line(backbone: FrozenCLIP) -> None:
    config = make_config(backbone, ("a", "b"), MatchingConfig(num_heads=2))
    shown = repr(TextRegionMatcher(config, backbone))
    assert shown == f"TextRegionMatcher(2 labels, text-region, {backbone.config.source})"


def test_the_name_of_a_model_is_no_model(backbone: FrozenCLIP) -> None:
    require_loaded(matcher_of(backbone))
    with pytest.raises(ConfigError, match=r"trmml.load_model\('runs/shop'\)"):
        require_loaded("runs/shop")
