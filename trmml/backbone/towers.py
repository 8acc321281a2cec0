"""Image towers: the patch features in the joint space and CLIP's own pooled image feature.

One small class per kind of tower. Each runs the tower once, takes its map before the pooling, and
gives both features; each is tested against open_clip's own `encode_image`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip import CLIP, CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from trmml.backbone.timm_towers import Features, timm_tower
from trmml.errors import ConfigError, UnsupportedBackboneError


def resize_position_table(
    table: Float[Tensor, "position width"], grid: int
) -> Float[Tensor, "resized width"]:
    """Resize a position table (one pooled token, then a square grid) to `grid` × `grid`, bicubic."""
    old = math.isqrt(len(table) - 1)
    if old == grid:
        return table
    # The pooled token has no place in the grid; as in open_clip, its row stays as it is.
    positions = table[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(
        positions, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([table[:1], resized.flatten(2)[0].T.to(table.dtype)])


class ResNetTower(nn.Module):
    """CLIP's ResNet: layer4 cells through the attention pool's value and output maps.

    These are point-wise linear maps, used without query, key and positions (as in the TRM-ML
    author's public code), so a cell lands where the pool would put a map that is constant.
    """

    def __init__(self, visual: ModifiedResNet, image_size: int) -> None:
        super().__init__()
        if image_size % 32:
            raise ConfigError(f"image_size must be a multiple of 32 here, got {image_size}.")
        self.visual = visual
        pool = visual.attnpool
        table = resize_position_table(pool.positional_embedding.data, image_size // 32)
        pool.positional_embedding = nn.Parameter(table.contiguous(), requires_grad=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Return cells and the attention-pooled feature, as open_clip pools them."""
        visual = self.visual
        cells = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            cells = layer(cells)
        pool = visual.attnpool
        patches = pool.c_proj(pool.v_proj(cells.flatten(2).transpose(1, 2)))
        return patches, pool(cells)


class VisionTransformerTower(nn.Module):
    """open_clip's ViT.

    With a class token, a patch passes the last block's value and output maps in place of its
    attention (the practice of MaskCLIP), without residual and MLP: what the class token would read
    there. Where CLIP pools by the mean, the last block's patches are in the joint space as they are.
    """

    def __init__(self, visual: VisionTransformer, image_size: int) -> None:
        super().__init__()
        if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
            raise UnsupportedBackboneError(
                "This ViT pools by attention or not at all; supported are class token and mean."
            )
        if type(visual.transformer.resblocks[-1]) is not ResidualAttentionBlock:
            raise UnsupportedBackboneError(
                "This ViT has custom blocks; only plain ones are supported."
            )
        patch: int = visual.patch_size[0]  # pyright: ignore[reportIndexIssue]
        if image_size % patch:
            raise ConfigError(f"image_size must be a multiple of {patch} here, got {image_size}.")
        self.visual = visual
        grid = image_size // patch
        table = resize_position_table(visual.positional_embedding.data, grid)
        visual.positional_embedding = nn.Parameter(table.contiguous(), requires_grad=False)
        visual.grid_size, visual.image_size = (grid, grid), (image_size, image_size)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Return patches and the class token (or mean), as open_clip pools them."""
        visual: Any = self.visual
        tokens = visual._embeds(images)
        transformer = visual.transformer
        # open_clip lets a transformer have photos or tokens first.
        if not transformer.batch_first:
            tokens = tokens.transpose(0, 1)
        for block in transformer.resblocks[:-1]:
            tokens = block(tokens)
        last = transformer.resblocks[-1]
        patches, tokens = self._patches_of_value(last, tokens), last(tokens)
        if not transformer.batch_first:
            patches, tokens = patches.transpose(0, 1), tokens.transpose(0, 1)
        pooled, mean_pooled_tokens = visual._pool(tokens)
        if visual.pool_type == "avg":
            normed = visual.final_ln_after_pool
            patches = visual.ln_post(mean_pooled_tokens) if normed else mean_pooled_tokens
        else:
            patches = visual.ln_post(patches[:, 1:])
        return patches @ visual.proj, pooled @ visual.proj

    @staticmethod
    def _patches_of_value(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
        """The block's attention output, were each token to attend to itself alone."""
        attention = block.attn
        width = attention.embed_dim
        bias = attention.in_proj_bias
        value_bias = None if bias is None else bias[2 * width :]
        values = F.linear(block.ln_1(tokens), attention.in_proj_weight[2 * width :], value_bias)
        return block.ls_1(attention.out_proj(values))


def image_tower(clip: CLIP | CustomTextCLIP, image_size: int) -> nn.Module:
    """Wrap the image tower of a CLIP for photos of `image_size` × `image_size`.

    Raises:
        UnsupportedBackboneError: If the tower is of another kind.
        ConfigError: If the tower cannot take this size.
    """
    visual = clip.visual
    if type(visual) not in _TOWERS:
        raise UnsupportedBackboneError(
            f"Image tower {type(visual).__name__} is not supported; supported are open_clip's "
            "ModifiedResNet, VisionTransformer and TimmModel."
        )
    return _TOWERS[type(visual)](visual, image_size)


_TOWERS: dict[type[nn.Module], Callable[[Any, int], nn.Module]] = {
    ModifiedResNet: ResNetTower,
    VisionTransformer: VisionTransformerTower,
    TimmModel: timm_tower,
}
