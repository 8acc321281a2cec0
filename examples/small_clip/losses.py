"""The losses of locked-image tuning, each between photos and texts of unit length."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def contrastive_loss(similarity: Float[Tensor, "pair pair"]) -> Float[Tensor, ""]:
    """Contrast of CLIP (Radford et al., 2021): each photo with its text against the others.

    Args:
        similarity: Scaled cosines of photos with texts; pairs lie on the diagonal.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def words_loss(
    similarity: Float[Tensor, "photo word"], targets: Bool[Tensor, "photo word"]
) -> Float[Tensor, ""]:
    """Find the words of each photo's caption among words, and the photos of each word among photos.

    Cross-entropy with what is right in equal shares (Joulin et al., 2016), in both directions.
    """
    return (_shared_entropy(similarity, targets) + _shared_entropy(similarity.T, targets.T)) / 2


def _shared_entropy(
    logits: Float[Tensor, "row column"], targets: Bool[Tensor, "row column"]
) -> Float[Tensor, ""]:
    counts = targets.sum(dim=1)
    each = -(targets * logits.log_softmax(dim=1)).sum(dim=1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)


def distillation_loss(
    similarity: Float[Tensor, "photo name"], teacher: Float[Tensor, "photo name"]
) -> Float[Tensor, ""]:
    """Divergence (Kullback and Leibler) of what the texts say from what the classifier says.

    Args:
        similarity: Scaled cosines of photos with names.
        teacher: Logits of the classifier for the same classes.
    """
    return F.kl_div(
        similarity.log_softmax(dim=1),
        teacher.log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )
