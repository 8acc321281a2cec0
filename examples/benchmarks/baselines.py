"""What a sceptic would try first on frozen features: probes, an MLP, and learned queries without text.

All see what text–region matching sees, learn from known states alone, and choose their settings on the
same photos. A head has six settings to choose from.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from trmml.evaluation.metrics import mean_average_precision
from trmml.labels import POSITIVE, UNKNOWN
from trmml.training.probing import fit_linear_maps

RATES, DECAYS = (3e-4, 1e-3, 3e-3), (0.01, 0.3)
"""Learning rates and weight decays of the heads."""
EPOCHS, BATCH_SIZE, WIDTH, NUM_HEADS = 30, 64, 512, 4
ASSUMED_NEGATIVE = 0.1
"""Weight of unknown states of labels without a known negative, as in the default of trmml."""


class Photos(NamedTuple):
    """Frozen features of photos as the tower gives them, and what is known of the photos."""

    image: Float[Tensor, "photo dim"]
    patches: Float[Tensor, "photo patch dim"]
    states: Int8[Tensor, "photo label"]

    def pooled(self) -> Float[Tensor, "photo dim"]:
        """Return image features of unit length."""
        return F.normalize(self.image, dim=-1)

    def summaries(self) -> Float[Tensor, "photo summary"]:
        """Return image feature, mean and maximum of the patches."""
        mean, most = self.patches.mean(dim=1, dtype=torch.float32), self.patches.amax(dim=1)
        return torch.cat([self.pooled(), mean, most.float()], dim=1)

    def on(self, device: torch.device) -> "Photos":
        """Return them on a device."""
        return Photos(*(part.to(device) for part in self))


class MLP(nn.Module):
    """One hidden layer on the summary of a photo."""

    def __init__(self, photos: Photos) -> None:
        """Standardize as these photos are."""
        super().__init__()
        seen = photos.summaries()
        self.register_buffer("mean", seen.mean(dim=0))
        self.register_buffer("spread", seen.std(dim=0) + 1e-6)
        self.layers = nn.Sequential(
            nn.Linear(seen.shape[1], WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(WIDTH, photos.states.shape[1]),
        )

    def forward(self, photos: Photos) -> Float[Tensor, "photo label"]:
        """Return logits."""
        return self.layers((photos.summaries() - self.mean) / self.spread)


class LearnedQueries(nn.Module):
    """Query2Labels (Liu et al., 2021) in small: a learned query of each label looks for its patches."""

    def __init__(self, photos: Photos) -> None:
        """Standardize as the patches of these photos are."""
        super().__init__()
        num_labels, dim = photos.states.shape[1], photos.patches.shape[2]
        mean = photos.patches.mean(dim=(0, 1), dtype=torch.float32)
        # In parts: all of them in float32 are gigabytes.
        squares = [(part.float() - mean).square().mean(dim=1) for part in photos.patches.split(256)]
        self.register_buffer("mean", mean)
        self.register_buffer("spread", torch.cat(squares).mean(dim=0).sqrt() + 1e-6)
        self.queries = nn.Parameter(torch.randn(num_labels, dim) * 0.1)
        self.attention = nn.MultiheadAttention(dim, NUM_HEADS, dropout=0.1, batch_first=True)
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(WIDTH, dim),
        )
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.randn(num_labels, dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, photos: Photos) -> Float[Tensor, "photo label"]:
        """Return logits."""
        patches = (photos.patches.float() - self.mean) / self.spread
        queries = self.queries.expand(len(patches), -1, -1)
        found = queries + self.attention(queries, patches, patches, need_weights=False)[0]
        found = self.norm(found + self.layers(found))
        return (found * self.weight).sum(dim=-1) + self.bias


class Fit(NamedTuple):
    """What was chosen, and how well it ordered the photos that chose it.

    Attributes:
        logits: Of any photos.
        val_map: mAP on the photos that chose.
        penalty: Of a probe; see `fit_linear_maps`.
    """

    logits: Callable[[Photos], Float[Tensor, "photo label"]]
    val_map: float
    penalty: float | None = None


def probe(train: Photos, chooser: Photos, sees: Callable[[Photos], Tensor]) -> Fit:
    """Fit logistic regressions of several strengths; take the one with the best mAP on `chooser`."""
    seen = sees(chooser)
    tried = [
        (_map(one.logits(seen), chooser.states), one)
        for one in fit_linear_maps(sees(train), train.states, ASSUMED_NEGATIVE)
    ]
    value, best = max(tried, key=lambda pair: pair[0])
    return Fit(lambda photos: best.logits(sees(photos)), value, best.penalty)


def head(
    kind: type[MLP] | type[LearnedQueries],
    train: Photos,
    chooser: Photos,
    seed: int,
    settings: Iterable[tuple[float, float]] | None = None,
    epochs: int | None = None,
    half: bool = False,
) -> Fit:
    """Train a head with each setting; take setting and epoch with the best mAP on `chooser`.

    Args:
        kind: Of head.
        train: What it learns from.
        chooser: What chooses.
        seed: Of the start, the order and the dropout.
        settings: Learning rates and weight decays; all pairs by default.
        epochs: At each of them.
        half: Whether to train in bfloat16.
    """
    best, found = -1.0, None
    for rate, decay in settings or product(RATES, DECAYS):
        torch.manual_seed(seed)
        module = kind(train).to(train.image.device)
        for value in _epochs(module, train, chooser, rate, decay, epochs or EPOCHS, half):
            if value > best:
                best, found = value, copy.deepcopy(module)
    assert found is not None
    return Fit(torch.no_grad()(lambda photos: _in_parts(found, photos)), best)


def _epochs(
    module: nn.Module,
    train: Photos,
    chooser: Photos,
    rate: float,
    decay: float,
    epochs: int,
    half: bool,
) -> Iterator[float]:
    steps = epochs * -(-len(train.states) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    without, device = (train.states == 0).sum(dim=0) == 0, train.image.device.type
    for _ in range(epochs):
        module.train()
        for rows in torch.randperm(len(train.states)).split(BATCH_SIZE):
            batch = Photos(*(part[rows] for part in train))
            weights = (batch.states != UNKNOWN).float()
            weights = torch.where(without & (weights == 0), ASSUMED_NEGATIVE, weights)
            targets = (batch.states == POSITIVE).float()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                logits = module(batch)
            losses = F.binary_cross_entropy_with_logits(
                logits.float(), targets, weights, reduction="sum"
            )
            optimizer.zero_grad()
            (losses / len(rows)).backward()
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.no_grad():
            yield _map(_in_parts(module, chooser), chooser.states)


def _in_parts(module: nn.Module, photos: Photos) -> Tensor:
    rows = torch.arange(len(photos.states)).split(256)
    return torch.cat([module(Photos(*(part[some] for part in photos))) for some in rows])


def _map(logits: Tensor, states: Tensor) -> float:
    return mean_average_precision(logits.cpu().numpy(), states.cpu().numpy())
