"""Regions: one query per label reads one region feature from the patches.

Paper: the "category-aware region learning module" of TRM-ML. Stated: category queries, cross-modal
attention, a simple MLP, one region per label. Our choices: one layer, even start, and no path
from the query into the region feature, so that a region stays a mix of what is in the photo.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.errors import ConfigError
from trmml.matcher.prompts import NewRow


class RegionModule(nn.Module):
    """Cross-attention from category queries to patch features, and an MLP on what they read.

    At the start the attention is even, the value and output maps are identities and the MLP adds
    nothing: a region feature is then the mean of CLIP's own patch features.
    """

    def __init__(
        self,
        queries: Float[Tensor, "label dim"],
        *,
        num_heads: int = 8,
        dropout: float = 0.0,
        mlp: bool = True,
    ) -> None:
        """Make the maps; the queries are placeholders until `start`.

        Args:
            queries: One for each label; only their shape matters before `start`.
            num_heads: Attention heads; must divide the width.
            dropout: Share of attention weights dropped in training.
            mlp: Whether an MLP refines the regions.

        Raises:
            ConfigError: If `num_heads` does not divide the width.
        """
        super().__init__()
        dim = queries.shape[1]
        if dim % num_heads:
            raise ConfigError(f"num_heads ({num_heads}) must divide the backbone's width ({dim}).")
        self.num_heads = num_heads
        self.queries = nn.Parameter(torch.empty_like(queries))
        self.query_norm = nn.LayerNorm(dim)
        self.patch_norm = nn.LayerNorm(dim)
        self.query_map = _blank_linear(dim)
        self.key_map = _blank_linear(dim)
        self.value_map = _blank_linear(dim)
        self.output_map = _blank_linear(dim)
        self.dropout = nn.Dropout(dropout)
        self.region_norm = nn.LayerNorm(dim) if mlp else None
        self.mlp = nn.Sequential(_blank_linear(dim), nn.ReLU(), _blank_linear(dim)) if mlp else None
        self.start(queries, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def start(self, queries: Float[Tensor, "label dim"], generator: torch.Generator) -> None:
        """Set the queries, the maps, and noise for the MLP's first layer.

        The query map starts at zero, so that every label first attends to all patches alike and
        learns from there where to look; the other maps start as identities.
        """
        self.queries.copy_(queries)
        # With identities a region starts in CLIP's own space, where text can be compared with it.
        for linear in (self.query_map, self.key_map, self.value_map, self.output_map):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.query_map.weight)
        if self.mlp is not None:
            first: Any = self.mlp[0]
            last: Any = self.mlp[-1]
            # On the CPU, where the generator is: the same noise on every device.
            noise = torch.empty(first.weight.shape, device="cpu")
            nn.init.kaiming_uniform_(noise, nonlinearity="relu", generator=generator)
            first.weight.copy_(noise)
            # A zero last layer: the MLP adds nothing until it has learned something.
            for values in (first.bias, last.weight, last.bias):
                nn.init.zeros_(values)

    @property
    def tensors_per_label(self) -> dict[str, NewRow]:
        """The queries; see `NewRow`."""
        return {"queries": "text"}

    def forward(
        self, patch_features: Float[Tensor, "batch patch dim"]
    ) -> Float[Tensor, "batch label dim"]:
        """Return the region features, of unit length."""
        values = self._split_heads(self.value_map(patch_features))
        attention = self.dropout(self.attention(patch_features))
        read = torch.einsum("bhcp,bphd->bchd", attention, values)
        # No residual from the queries: a label that is not there must not bring its own region along.
        regions = self.output_map(read.flatten(start_dim=-2))
        if self.mlp is not None and self.region_norm is not None:
            regions = regions + self.mlp(self.region_norm(regions))
        return F.normalize(regions, dim=-1)

    def attention(
        self, patch_features: Float[Tensor, "batch patch dim"]
    ) -> Float[Tensor, "batch head label patch"]:
        """Return the weights with which each head of a query reads the patches; they sum to 1."""
        return self._similarity(patch_features).softmax(dim=-1)

    def evidence(
        self,
        patch_features: Float[Tensor, "batch patch dim"],
        directions: Float[Tensor, "label dim"],
    ) -> Float[Tensor, "batch label patch"]:
        """Return what each patch adds to the product of a region with its label's direction.

        Attention times what is read from the patch, before the MLP and the normalization; the sum over
        the patches is the product, up to the bias of the output map.
        """
        attention = self.attention(patch_features)
        values = self._split_heads(self.value_map(patch_features))
        weight = self.output_map.weight.unflatten(1, (self.num_heads, -1))
        # The text's direction goes back through the output map once, instead of every patch forward.
        read_as = torch.einsum("cd,dhe->che", directions, weight)
        return (attention * torch.einsum("bphe,che->bhcp", values, read_as)).sum(dim=1)

    def _similarity(
        self, patch_features: Float[Tensor, "batch patch dim"]
    ) -> Float[Tensor, "batch head label patch"]:
        """Return the scaled products of queries and keys, up to a constant per query.

        With few labels the key map is applied to the queries instead of to every patch, which
        is the same product in another order. What it leaves out, the biases of the key map and of the
        norm, adds the same to all patches, and a softmax does not see it.
        """
        num_labels, dim = self.queries.shape
        queries = self._split_heads(self.query_map(self.query_norm(self.queries)))
        queries = queries / math.sqrt(queries.shape[-1])
        # Cheaper from here on: `num_heads` products per label and patch against `dim` per patch.
        if num_labels * self.num_heads > dim:
            keys = self._split_heads(self.key_map(self.patch_norm(patch_features)))
            return torch.einsum("chd,bphd->bhcp", queries, keys)
        key_map = self.key_map.weight.unflatten(0, (self.num_heads, -1))
        query_keys = torch.einsum("chd,hde->hce", queries, key_map) * self.patch_norm.weight
        standardized = F.layer_norm(patch_features, (dim,), eps=self.patch_norm.eps)
        similarity = F.linear(standardized, query_keys.flatten(end_dim=1))
        return similarity.unflatten(-1, (self.num_heads, -1)).movedim(1, -1)

    def _split_heads(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.num_heads, -1))


def _blank_linear(dim: int) -> nn.Linear:
    """A square linear map without values, so that making one draws no random numbers."""
    place = torch.get_default_device()  # else it were the CPU, even where shapes alone are wanted
    return nn.utils.skip_init(nn.Linear, dim, dim, device=place)  # pyright: ignore[reportReturnType]
