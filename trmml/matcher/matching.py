"""The four ways in which text meets an image; each compares every photo with every label.

Paper: TRM-ML matches text with regions. Text–pixel is DualCoOp's way (Sun et al., 2022), text–image
CoOp's (Zhou et al., 2022), and zero-shot takes a CLIP as it is.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.config.groups import MatchingConfig
from trmml.matcher.regions import RegionModule

HIGHEST_SCORE = 1 - 2**-24
"""The largest float32 below 1."""
ATTENTION_DROPOUT = 0.1
"""Share of the attention weights dropped in training (as in Query2Labels; our choice)."""
PATCHES_BESIDE_PHOTO = 0.5
"""Weight of the best patches in zero-shot matching, where the whole photo has 1."""
BEST_PATCHES = 1 / 16
"""Share of the patches that speak for a label: the mean of several is steadier than one."""


class CenteredFeatures(NamedTuple):
    """Image features relative to their mean in training.

    Attributes:
        patches: Not normalized: their length says something, too.
        image: Of unit length.
    """

    patches: Float[Tensor, "batch patch dim"]
    image: Float[Tensor, "batch dim"]


class TextFeatures(NamedTuple):
    """What the prompts say, of unit length: presence of each label and, maybe, its absence."""

    present: Float[Tensor, "label dim"]
    absent: Float[Tensor, "label dim"] | None = None

    @property
    def direction(self) -> Float[Tensor, "label dim"]:
        """What a region is multiplied with: presence, less absence where there is one."""
        return self.present if self.absent is None else self.present - self.absent


class Match(NamedTuple):
    """What a way of matching finds in a batch of photos.

    Attributes:
        similarity: Of each photo and label; the logit before scale and bias.
        region_features: What each label read from the photo; the image feature, where a way reads
            nothing of its own for each label.
    """

    similarity: Float[Tensor, "batch label"]
    region_features: Float[Tensor, "batch label dim"]


class MatcherOutput(NamedTuple):
    """Logits and region features of a batch of photos.

    Attributes:
        logits: Matching logits, before the sigmoid.
        region_features: What each label read from the photo; see `Match`.
    """

    logits: Float[Tensor, "batch label"]
    region_features: Float[Tensor, "batch label dim"]

    @property
    def scores(self) -> Float[Tensor, "batch label"]:
        """The sigmoid of the logits, below 1: a threshold of 1 means never."""
        return scores_of(self.logits)


def scores_of(logits: Float[Tensor, "batch label"]) -> Float[Tensor, "batch label"]:
    """Return the sigmoid of logits, as float32 below 1."""
    return logits.float().sigmoid().clamp(max=HIGHEST_SCORE)


class WayOfMatching(nn.Module):
    """What the four ways share.

    Attributes:
        learns: Whether `finetune` can train it.
        has_evidence: Whether it can say where in a photo a label is.
    """

    learns: ClassVar[bool] = True
    has_evidence: ClassVar[bool] = True

    def start(
        self, text: Callable[[], Float[Tensor, "label dim"]], generator: torch.Generator
    ) -> None:
        """Set the tensors before training; `text` gives the features of hand-written prompts."""

    def forward(self, features: CenteredFeatures, text: TextFeatures) -> Match:
        """Compare every photo with every label."""
        raise NotImplementedError

    def evidence(
        self, features: CenteredFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"] | None:
        """Return how much each patch speaks for each label; None without evidence."""
        raise NotImplementedError


class TextRegion(WayOfMatching):
    """One region feature per label, compared with the label's own text (TRM-ML)."""

    def __init__(self, num_labels: int, dim: int, config: MatchingConfig) -> None:
        """Make the region module, with empty queries."""
        super().__init__()
        queries = torch.zeros(num_labels, dim)
        self.regions = RegionModule(
            queries,
            num_heads=config.num_heads,
            dropout=ATTENTION_DROPOUT,
            mlp=config.region_mlp,
        )

    def start(
        self, text: Callable[[], Float[Tensor, "label dim"]], generator: torch.Generator
    ) -> None:
        """Start the queries from the text features."""
        self.regions.start(text(), generator)

    def forward(self, features: CenteredFeatures, text: TextFeatures) -> Match:
        """Return cos(region, presence) − cos(region, absence)."""
        regions = self.regions(features.patches)
        return Match(_products(regions, text), regions)

    def evidence(
        self, features: CenteredFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"]:
        """Return what each patch adds to the product of region and text, before the MLP.

        Attention alone is no answer to where a label is: much of it lies on patches that say little.
        """
        return self.regions.evidence(features.patches, text.direction)


class TextPixel(WayOfMatching):
    """The mean of the patches, weighted by the softmax of their similarity to a label's text."""

    def __init__(self, num_labels: int, dim: int, config: MatchingConfig) -> None:
        """Make the learned sharpness of the softmax."""
        super().__init__()
        self.log_spatial_scale = nn.Parameter(torch.tensor(math.log(config.spatial_scale)))

    def forward(self, features: CenteredFeatures, text: TextFeatures) -> Match:
        """Return the weighted cosines of the patches with presence, less those with absence."""
        patches = F.normalize(features.patches, dim=-1)
        attention = self._attention(patches, text)
        regions = torch.einsum("bcp,bpd->bcd", attention, patches)
        return Match(_products(regions, text), regions)

    def evidence(
        self, features: CenteredFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"]:
        """Return the summands of the similarity: weight times cosine."""
        patches = F.normalize(features.patches, dim=-1)
        cosines = torch.einsum("bpd,cd->bcp", patches, text.direction)
        return self._attention(patches, text) * cosines

    def _attention(
        self, patches: Float[Tensor, "batch patch dim"], text: TextFeatures
    ) -> Float[Tensor, "batch label patch"]:
        # By presence alone: what speaks for absence would draw the label to where it is not.
        cosines = torch.einsum("bpd,cd->bcp", patches, text.present)
        return (self.log_spatial_scale.exp() * cosines).softmax(dim=-1)


class TextImage(WayOfMatching):
    """The pooled image feature, compared with every text (CoOp)."""

    has_evidence = False

    def __init__(self, num_labels: int, dim: int, config: MatchingConfig) -> None:
        """Nothing but the prompts is learned."""
        super().__init__()

    def forward(self, features: CenteredFeatures, text: TextFeatures) -> Match:
        """Return cos(image, presence) − cos(image, absence)."""
        # The same for every label; expanded, it takes no memory.
        regions = features.image[:, None].expand(-1, len(text.present), -1)
        return Match(_products(regions, text), regions)

    def evidence(self, features: CenteredFeatures, text: TextFeatures) -> None:
        """A pooled feature says nothing of where."""


class ZeroShot(WayOfMatching):
    """Pooled feature and best patches, each for half: any labels, no training."""

    learns = False

    def __init__(self, num_labels: int, dim: int, config: MatchingConfig) -> None:
        """Nothing is learned."""
        super().__init__()

    def forward(self, features: CenteredFeatures, text: TextFeatures) -> Match:
        """See `zero_shot_similarity`."""
        regions = features.image[:, None].expand(-1, len(text.present), -1)
        return Match(zero_shot_similarity(features, text.direction), regions)

    def evidence(
        self, features: CenteredFeatures, text: TextFeatures
    ) -> Float[Tensor, "batch label patch"]:
        """Return the similarity of each patch."""
        return patch_similarity(features.patches, text.direction).transpose(1, 2)


WAYS: dict[str, type[WayOfMatching]] = {
    "text-region": TextRegion,
    "text-pixel": TextPixel,
    "text-image": TextImage,
    "zero-shot": ZeroShot,
}
"""By the value of `matching.way`; each is made from the number of labels, the width and the settings."""


def patch_similarity(
    patch_features: Float[Tensor, "batch patch dim"], directions: Float[Tensor, "label dim"]
) -> Float[Tensor, "batch patch label"]:
    """Return the cosines of patches and directions.

    They find small things better than products do, in which long patches say more (our choice).
    """
    return F.normalize(patch_features, dim=-1) @ directions.T


def best_patches(
    similarity: Float[Tensor, "batch patch label"],
) -> Float[Tensor, "batch label"]:
    """Return the mean similarity of the patches that fit each label best (our choice).

    A photo as a whole tells best what it is a photo of; a small thing in it shows in a few patches and
    is lost in their mean.
    """
    num_best = max(round(BEST_PATCHES * similarity.shape[1]), 1)
    return similarity.topk(num_best, dim=1).values.mean(dim=1)


def zero_shot_similarity(
    features: CenteredFeatures, directions: Float[Tensor, "label dim"]
) -> Float[Tensor, "batch label"]:
    """Return how alike photo and text are for a CLIP alone: by the photo, and by its patches.

    Their weighted mean and not their sum, which the sigmoid of a CLIP's own scale would hold for
    certain. The weights are our choice: what a small CLIP says of a photo is surer than of its patches.

    Args:
        features: Of the photos.
        directions: Text features, relative to their mean.
    """
    best = best_patches(patch_similarity(features.patches, directions))
    # Any label has patches that fit it best; only how much better than other labels' counts.
    best = best - best.mean(dim=1, keepdim=True)
    return (features.image @ directions.T + PATCHES_BESIDE_PHOTO * best) / (
        1 + PATCHES_BESIDE_PHOTO
    )


def _products(
    regions: Float[Tensor, "batch label dim"], text: TextFeatures
) -> Float[Tensor, "batch label"]:
    return torch.einsum("bcd,cd->bc", regions, text.direction)
