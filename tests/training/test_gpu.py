"""What only a GPU shows: that nothing is left on the CPU. Skipped where there is none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.zoo.loading import zero_shot_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
QUICK = {
    "training.epochs": 2,
    "matching.num_heads": 2,
    "matching.num_context_tokens": 2,
    "training.precision": "float32",
}
Maker = Callable[..., MultiLabelDataset]


def test_a_clip_may_be_on_the_gpu_before(backbone: FrozenCLIP, make_dataset: Maker) -> None:
    data = make_dataset(24)
    slow, quick = (
        trmml.finetune(data, backbone=clip, config=QUICK | {"training.features": "cached"})
        for clip in (backbone, backbone.to("cuda"))
    )
    photo = data.photos[0]
    assert slow.device.type == quick.device.type == "cuda"
    np.testing.assert_allclose(
        trmml.predict(photo, model=slow).scores, trmml.predict(photo, model=quick).scores, atol=1e-3
    )


def test_a_model_on_the_gpu_learns_new_labels(backbone: FrozenCLIP, make_dataset: Maker) -> None:
    data = make_dataset(24)
    first = trmml.finetune(data.with_labels(("red",)), backbone=backbone, config=QUICK)
    more = trmml.finetune(data, model=first, config=QUICK)
    assert more.labels == data.labels
    assert more.device.type == "cuda"


def test_zero_shot_says_the_same_on_both(backbone: FrozenCLIP, make_dataset: Maker) -> None:
    photo, labels = make_dataset(2).photos[0], ("red", "green")
    here = zero_shot_model(backbone, labels)
    expected = trmml.predict(photo, model=here).scores
    there = zero_shot_model(backbone.to("cuda"), labels)
    np.testing.assert_allclose(trmml.predict(photo, model=there).scores, expected, atol=1e-3)
