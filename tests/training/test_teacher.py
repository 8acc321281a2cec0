import pytest
import torch
import torch.nn.functional as F
from conftest import untrained

from trmml.backbone.clip import FrozenCLIP, ImageFeatures
from trmml.matcher.model import TextRegionMatcher
from trmml.training.teacher import Teacher

BATCH, NAMES = 4, ("dog", "cat", "bus")


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    return untrained(backbone, NAMES)


def test_what_was_learned_is_taught_by_the_model_as_it_was(model: TextRegionMatcher) -> None:
    dim = model.backbone.dim
    features = ImageFeatures(torch.randn(BATCH, 9, dim), torch.randn(BATCH, dim))
    before = model.eval().match(features, model.stored_text()).logits.detach()
    teacher = Teacher(model, learned=("cat", "cow"))
    zero_shot = Teacher(model)(features)
    with torch.no_grad():
        for parameter in model.matching.regions.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.train()
    scores = teacher(features)
    assert not torch.allclose(model.match(features, model.stored_text()).logits, before)
    for way in range(2):
        torch.testing.assert_close(scores[:, way, 1], before[:, 1])
        assert torch.equal(scores[:, way, [0, 2]], zero_shot[:, way, [0, 2]])


@pytest.mark.parametrize(("num_patches", "num_best"), [(1, 1), (5, 1), (32, 2), (49, 3)])
def test_a_photo_is_scored_as_a_whole_and_by_the_best_sixteenth_of_its_patches(
    model: TextRegionMatcher, num_patches: int, num_best: int
) -> None:
    dim = model.backbone.dim
    features = ImageFeatures(torch.randn(BATCH, num_patches, dim), torch.randn(BATCH, dim))
    model.image_center.copy_(torch.randn(dim))
    model.patch_center.copy_(torch.randn(dim))
    scores = Teacher(model)(features)
    for way, sees in enumerate(("photo", "patches")):
        assert torch.equal(Teacher(model, sees)(features), scores[:, way : way + 1])
    text = model.zero_shot_text()
    assert scores.shape == (BATCH, 2, len(NAMES))
    for photo in range(BATCH):
        whole = F.normalize(features.image_features[photo] - model.image_center, dim=0)
        patches = features.patch_features[photo] - model.patch_center
        for label in range(len(NAMES)):
            cosines = sorted(((p @ text[label] / p.norm()).item() for p in patches), reverse=True)
            expected = (whole @ text[label]).item(), sum(cosines[:num_best]) / num_best
            assert scores[photo, :, label].tolist() == pytest.approx(expected, abs=1e-4)
