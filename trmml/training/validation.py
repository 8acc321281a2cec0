"""What validation photos say of a model, and of the simple things that it has to be better than."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from trmml.backbone.clip import ImageFeatures
from trmml.evaluation.metrics import mean_average_precision
from trmml.matcher.matching import zero_shot_similarity
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.probe import ProbeInputs, probe_inputs
from trmml.training import distributed
from trmml.training.photos import ValidationPhotos


class Validation:
    """Scores the validation photos, all processes together."""

    def __init__(self, model: TextRegionMatcher, photos: ValidationPhotos, batch_size: int) -> None:
        """Take the model as it will be when something is asked."""
        self.model, self.batch_size = model, batch_size
        self.data, self.features = photos

    def map_of(self, scores: Float32[np.ndarray, "image label"]) -> float | None:
        """Return the mAP over known states; None where no label has a positive and a negative."""
        value = mean_average_precision(scores, self.data.states)
        return None if math.isnan(value) else round(value, 6)

    def scores(self) -> Float32[np.ndarray, "image label"]:
        """Return the scores of the model."""
        text = self.model.stored_text()
        (scores,) = self._all(lambda features: (self.model.match(features, text).scores,))
        return scores.cpu().numpy()

    def zero_shot_scores(self) -> Float32[np.ndarray, "image label"]:
        """Return the scores of the CLIP alone."""
        text, model = self.model.zero_shot_text(), self.model
        (scores,) = self._all(lambda seen: (zero_shot_similarity(model.centered(seen), text),))
        return scores.cpu().numpy()

    def probe_inputs(self) -> ProbeInputs:
        """Return the inputs of the probe."""
        text, model = self.model.zero_shot_text(), self.model
        return ProbeInputs(
            *self._all(lambda features: probe_inputs(model.centered(features), text))
        )

    def _all(self, score: Callable[[ImageFeatures], tuple[Tensor, ...]]) -> list[Tensor]:
        rows = []
        with torch.no_grad():
            for features in self.features.in_order(self.batch_size):
                rows.append(score(ImageFeatures(*(f.to(self.model.device) for f in features))))
            parts = zip(*rows, strict=True)
            return [distributed.gather(torch.cat(part), len(self.data)) for part in parts]
