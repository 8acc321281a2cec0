"""The small MLP beside zero-shot, trained at the end on what is known, for labels known well enough.

Our choice. Like the linear map it corrects zero-shot matching. With few known positives of a label it is
worse than that map, with many it is better; they err on different photos, so that their mean is
better than either (validation photos of COCO-18).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from trmml.labels import POSITIVE
from trmml.matcher.probe import HIDDEN_UNITS
from trmml.training.logistic import cell_weights, deviation_of

LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 1e-3, 1.0, 64
INPUT_DROPOUT, DROPOUT = 0.1, 0.5
MOST_VIEWS = 20_000
"""Photos seen in all epochs together, as far as these are between FEWEST_EPOCHS and MOST_EPOCHS."""
FEWEST_EPOCHS, MOST_EPOCHS = 6, 15
MOST_SHARE = 0.8
FEWEST_POSITIVES, POSITIVES_AT_HALF = 10, 50
"""Known positives of a trusted label at which the share leaves 0, and is half of the most."""


class MLP(NamedTuple):
    """A linear map, ReLU and another linear map, from summaries to what corrects the logits."""

    hidden_weight: Float[Tensor, "unit summary"]
    hidden_bias: Float[Tensor, " unit"]
    weight: Float[Tensor, "label unit"]
    bias: Float[Tensor, " label"]

    def logits(self, summaries: Float[Tensor, "image summary"]) -> Float[Tensor, "image label"]:
        """Return what is added to the zero-shot logits of some photos."""
        hidden = F.linear(summaries.float(), self.hidden_weight, self.hidden_bias)
        return F.linear(hidden.relu(), self.weight, self.bias)


def share_of_mlp(
    states: Int8[Tensor, "image label"], trust: Float[Tensor, " label"]
) -> Float[Tensor, " label"]:
    """Return the MLP's share in the correction of each label: 0.8 q / (q + 40).

    q is the number of known positives, less 10 where the text is trusted, which few photos correct
    badly. Our choice, from tables of 4 to 1,800 positives a label.
    """
    more = (states == POSITIVE).sum(dim=0).to(trust.device) - FEWEST_POSITIVES * trust
    more = more.clamp(min=0)
    return MOST_SHARE * more / (more + POSITIVES_AT_HALF - FEWEST_POSITIVES)


def fit_mlp(
    summaries: Float[Tensor, "image summary"],
    states: Int8[Tensor, "image label"],
    *,
    assumed_negative: float,
    seed: int,
    zero_shot: Float[Tensor, "image label"],
    trust: Float[Tensor, " label"],
    start: MLP | None = None,
) -> MLP:
    """Train an MLP to correct zero-shot logits on the known states.

    Args:
        summaries: Of the training photos.
        states: Of the same photos; unknown ones do not count.
        assumed_negative: Weight of unknown states of labels without a known negative.
        seed: Of the start, the order and the dropout.
        zero_shot: Logits of the same photos.
        trust: How far these are to be trusted for each label: the more, the smaller the corrections
            that training starts from.
        start: One to go on from.
    """
    device, num_photos = summaries.device, len(summaries)
    mean, deviation = summaries.float().mean(dim=0), deviation_of(summaries)
    states = states.to(device)
    weights, targets = cell_weights(states, assumed_negative), (states == POSITIVE).float()
    epochs = min(max(MOST_VIEWS // num_photos, FEWEST_EPOCHS), MOST_EPOCHS)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        first, last = nn.Linear(len(mean), HIDDEN_UNITS), nn.Linear(HIDDEN_UNITS, states.shape[1])
        last.weight.data.mul_(1 - trust.cpu()[:, None])
        nn.init.zeros_(last.bias)
        if start is not None:
            tensors = _standardized(start, mean, deviation)
            for parameter, tensor in zip(
                (*first.parameters(), *last.parameters()), tensors, strict=True
            ):
                parameter.data.copy_(tensor)
        layers = nn.Sequential(
            nn.Dropout(INPUT_DROPOUT), first, nn.ReLU(), nn.Dropout(DROPOUT), last
        ).to(device)
        optimizer = torch.optim.AdamW(layers.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = epochs * math.ceil(num_photos / BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, steps, pct_start=0.1
        )
        with torch.enable_grad():
            for _ in range(epochs):
                for rows in torch.randperm(num_photos).to(device).split(BATCH_SIZE):
                    correction = layers((summaries[rows].float() - mean) / deviation)
                    losses = F.binary_cross_entropy_with_logits(
                        zero_shot[rows] + correction,
                        targets[rows],
                        weights[rows],
                        reduction="sum",
                    )
                    optimizer.zero_grad()
                    (losses / weights[rows].sum().clamp(min=1)).backward()
                    optimizer.step()
                    schedule.step()
    weight = first.weight.detach() / deviation
    bias = first.bias.detach() - weight @ mean
    return MLP(weight, bias, last.weight.detach(), last.bias.detach())


def _standardized(
    start: MLP, mean: Float[Tensor, " summary"], deviation: Float[Tensor, " summary"]
) -> MLP:
    """Return the same map, of features that are standardized."""
    return start._replace(
        hidden_weight=start.hidden_weight * deviation,
        hidden_bias=start.hidden_bias + start.hidden_weight @ mean,
    )
