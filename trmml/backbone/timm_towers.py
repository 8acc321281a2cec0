"""Image towers of timm: one small class per way of pooling.

Each gives the patch features in the joint space and the pooled image feature, as `towers` has it.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from trmml.errors import UnsupportedBackboneError

Features = tuple[Float[Tensor, "batch patch dim"], Float[Tensor, "batch dim"]]


class TimmTower(nn.Module):
    """A timm network that pools by the mean: every cell goes through pool and heads on its own.

    A cell so lands where the tower would put a map that is constant.
    """

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        trunk: Any = visual.trunk
        self.visual = visual
        self.is_channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        self.num_prefix_tokens: int = getattr(trunk, "num_prefix_tokens", 0)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Return cells and the pooled feature, as the trunk pools them."""
        trunk: Any = self.visual.trunk
        features = trunk.forward_features(images)
        if features.ndim == 3:
            # Each cell alone, behind blanks where the pooling skips the prefix tokens.
            cells = features[:, self.num_prefix_tokens :]
            alone = F.pad(cells.flatten(0, 1)[:, None], (0, 0, self.num_prefix_tokens, 0))
        elif self.is_channels_last:
            cells = features.flatten(1, 2)
            alone = cells.flatten(0, 1)[:, None, None]
        else:
            cells = features.flatten(2).transpose(1, 2)
            alone = cells.flatten(0, 1)[..., None, None]
        patches = self._heads(alone).unflatten(0, cells.shape[:2])
        return patches, self._heads(features)

    def _heads(self, features: Tensor) -> Tensor:
        trunk: Any = self.visual.trunk
        return self.visual.head(trunk.forward_head(features))


class TimmAttentionPoolTower(nn.Module):
    """A timm transformer that pools by a learned query ("map"; SigLIP, PE-Core).

    A patch passes the pool's value and output maps: what the query would read of a constant map.
    """

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        trunk: Any = visual.trunk
        pool = getattr(trunk, "attn_pool", None)
        if type(pool) is not AttentionPoolLatent or pool.pos_embed is not None:
            raise UnsupportedBackboneError("This timm tower has an attention pool of another kind.")
        self.visual = visual
        self.num_prefix_tokens: int = trunk.num_prefix_tokens

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Return patches and the feature that the query reads, as the trunk pools them."""
        trunk: Any = self.visual.trunk
        tokens = trunk.forward_features(images)
        patches = self._read_alone(trunk.attn_pool, tokens[:, self.num_prefix_tokens :])
        patches = trunk.head(trunk.head_drop(trunk.fc_norm(patches)))
        return self.visual.head(patches), self.visual.head(trunk.forward_head(tokens))

    @staticmethod
    def _read_alone(pool: Any, cells: Tensor) -> Tensor:
        """Return the pool's answer, were each cell the only one."""
        width = pool.kv.out_features // 2
        bias = None if pool.kv.bias is None else pool.kv.bias[width:]
        read = pool.proj(F.linear(cells, pool.kv.weight[width:], bias))
        return read if pool.mlp is None else read + pool.mlp(pool.norm(read))


class TimmClassTokenTower(nn.Module):
    """A timm transformer that pools by its class token (EVA, MobileCLIP-B).

    A patch passes the last block's attention as if it attended to itself alone (the practice of
    MaskCLIP), without residual and MLP: what the class token would read there.
    """

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        trunk: Any = visual.trunk
        blocks = getattr(trunk, "blocks", None)
        if blocks is None or len(blocks) < 2 or type(blocks[-1]) not in _ATTENTION:
            raise UnsupportedBackboneError(
                "This timm tower pools by a class token behind blocks of a kind that is not supported."
            )
        self.visual = visual

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Return patches and the class token, as the trunk pools them."""
        trunk: Any = self.visual.trunk
        tokens, (patches,) = trunk.forward_intermediates(
            images, indices=[len(trunk.blocks) - 2], output_fmt="NLC"
        )
        # A sequence of one token attends to itself alone; its position turns queries and keys only.
        last, alone = trunk.blocks[-1], patches.flatten(0, 1)[:, None]
        values = self._heads(trunk.norm(_ATTENTION[type(last)](last, alone)))
        return values.unflatten(0, patches.shape[:2]), self._heads(tokens)

    def _heads(self, features: Tensor) -> Tensor:
        trunk: Any = self.visual.trunk
        return self.visual.head(trunk.forward_head(features))


def _of_block(block: Any, tokens: Tensor) -> Tensor:
    return block.ls1(block.attn(block.norm1(tokens)))


def _of_eva_block(block: Any, tokens: Tensor) -> Tensor:
    read = block.attn(block.norm1(tokens))
    return read if block.gamma_1 is None else block.gamma_1 * read


def _of_eva_block_norm_last(block: Any, tokens: Tensor) -> Tensor:
    return block.norm1(block.attn(tokens))


_ATTENTION: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Block: _of_block,
    EvaBlock: _of_eva_block,
    EvaBlockPostNorm: _of_eva_block_norm_last,
}
"""What the attention of a block adds to the tokens, by kind of block."""

_BY_POOLING: dict[str, Callable[[TimmModel], nn.Module]] = {
    "avg": TimmTower,
    "map": TimmAttentionPoolTower,
    "token": TimmClassTokenTower,
}


def timm_tower(visual: TimmModel, image_size: int) -> nn.Module:
    """Wrap a timm tower for photos of `image_size` × `image_size`.

    Raises:
        UnsupportedBackboneError: If it pools in another way.
    """
    trunk: Any = visual.trunk
    pooling = None if hasattr(visual.head, "pool") else _pooling(trunk)
    if pooling not in _BY_POOLING:
        raise UnsupportedBackboneError(
            f"This timm tower pools by {pooling or 'attention'!r}; supported are the mean, a class "
            "token and a learned query."
        )
    # Other trunks take photos of any size as they are.
    if trunk.default_cfg.get("fixed_input_size") and hasattr(trunk, "set_input_size"):
        trunk.set_input_size((image_size, image_size))
    return _BY_POOLING[pooling](visual)


def _pooling(trunk: nn.Module) -> str | None:
    """Name of the pooling that timm's `forward_head` does; the place differs by family."""
    if getattr(trunk, "pool_include_prefix", False):
        return f"{getattr(trunk, 'global_pool', '')} with prefix tokens"
    for owner in (trunk, getattr(trunk, "head", None)):
        pooling = getattr(owner, "global_pool", None)
        if pooling is not None:
            return pooling if isinstance(pooling, str) else getattr(pooling, "pool_type", None)
    return None
