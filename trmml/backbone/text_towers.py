"""Text towers: soft prompts to text features, no longer than needed and no token twice.

A causal tower that reads out at the end token sees nothing behind the end of a prompt, and what all
prompts begin with is the same in all of them; both shortcuts are exact (`CausalTextTower`). Any other
reads every prompt at its full length (`WholeTextTower`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor

from trmml.backbone.text import TextTower, in_parts, text_pooling
from trmml.backbone.tokenizers import ClipTokenizer, Tokenizer
from trmml.errors import UnsupportedBackboneError


class WholeTextTower(TextTower):
    """A tower whose tokens see all others, padding too, or that reads out at the last place.

    So each prompt is encoded at the full context length, and nothing is shared between prompts.
    """

    def forward(
        self,
        prompt_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts, of unit length; see `TextTower.forward`."""
        room = self.context_length - prompt_embeddings.shape[1]
        whole = F.pad(prompt_embeddings, (0, 0, 0, room))
        places = torch.arange(self.context_length, device=whole.device)
        is_padding = (places >= num_tokens[:, None])[..., None]
        padding = self.token_embedding.weight[self.tokenizer.pad]
        return in_parts(self._through, torch.where(is_padding, padding, whole), num_tokens)


class CausalTextTower(TextTower):
    """A causal tower that reads out at the end token.

    Prompts are encoded as far as each one goes; what they share at the beginning is encoded once
    (`encode_with_prefix`). Neither changes anything but time and memory.
    """

    def forward(
        self,
        prompt_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Return the text features of prompts, of unit length; see `TextTower.forward`."""
        encode = self._encode if self._has_plain_blocks else self._through
        return in_parts(encode, prompt_embeddings, num_tokens)

    def encode_with_prefix(
        self,
        prefix_embeddings: Float[Tensor, "prefix width"],
        rest_embeddings: Float[Tensor, "label token width"],
        num_tokens: Int[Tensor, " label"],
    ) -> Float[Tensor, "label dim"]:
        """Run the prefix through the tower once; its keys and values serve every prompt."""
        if not self._has_plain_blocks:
            return super().encode_with_prefix(prefix_embeddings, rest_embeddings, num_tokens)
        # The tower is causal: keys and values of the prefix are the same whatever follows it.
        start, dtype = len(prefix_embeddings), self.transformer.get_cast_dtype()
        tokens = prefix_embeddings.to(dtype) + self.positional_embedding[:start].to(dtype)
        kept = []
        for block in self.transformer.resblocks:
            query, key, value = _split(_projected(block, tokens), (1, start), block)
            kept += [key, value]
            tokens = _after_attention(block, tokens, self._read(query, key, value))
        return in_parts(self._encode, rest_embeddings, num_tokens, *kept)

    @property
    def _has_plain_blocks(self) -> bool:
        return all(type(block) is ResidualAttentionBlock for block in self.transformer.resblocks)

    def _encode(self, prompts: Tensor, num_tokens: Tensor, *kept: Tensor) -> Tensor:
        """Run prompts through the tower behind kept keys and values, one pair per block.

        All tokens lie one behind the other, shorter prompts first, so that none is spent on padding;
        only attention looks at prompts of one length at a time.
        """
        order = num_tokens.argsort(stable=True)
        lengths, sizes = num_tokens[order].unique_consecutive(return_counts=True)
        shapes = list(zip(sizes.tolist(), lengths.tolist(), strict=True))
        start, dtype = kept[0].shape[2] if kept else 0, self.transformer.get_cast_dtype()
        positions = self.positional_embedding[start:].to(dtype)
        groups = zip(order.split(sizes.tolist()), shapes, strict=True)
        tokens = torch.cat(
            [
                (prompts[rows, :length].to(dtype) + positions[:length]).flatten(0, 1)
                for rows, (_, length) in groups
            ]
        )
        # In attention alone tokens meet, and prompts of one length make a rectangle there.
        areas = [size * length for size, length in shapes]
        for i, block in enumerate(self.transformer.resblocks):
            read = []
            for part, shape in zip(_projected(block, tokens).split(areas), shapes, strict=True):
                query, key, value = _split(part, shape, block)
                if kept:
                    before = [k.expand(shape[0], -1, -1, -1) for k in kept[2 * i : 2 * i + 2]]
                    key = torch.cat([before[0], key], dim=2)
                    value = torch.cat([before[1], value], dim=2)
                read.append(self._read(query, key, value))
            tokens = _after_attention(block, tokens, torch.cat(read))
        # Prompts lie one behind the other, so an end token is where the lengths so far add up to.
        last = num_tokens[order].cumsum(0) - 1
        return self._read_out(tokens[last])[order.argsort()]

    def _read(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return softmax(q·kᵀ/√width + mask)·v for the last tokens, flat over prompts and tokens."""
        length = key.shape[2]
        assert self.attention_mask is not None  # the tower is causal
        mask = self.attention_mask[length - query.shape[2] : length, :length].to(query.dtype)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return read.transpose(1, 2).flatten(-2).flatten(0, 1)


def text_tower(clip: CLIP | CustomTextCLIP, tokenizer: Tokenizer | None = None) -> TextTower:
    """Wrap the text tower of a CLIP.

    Args:
        clip: The CLIP.
        tokenizer: What it was trained with; open_clip's own by default.

    Raises:
        UnsupportedBackboneError: If the tower is of another kind.
    """
    tokenizer = tokenizer or ClipTokenizer()
    parts: Any = clip
    if isinstance(clip, CustomTextCLIP):
        parts = clip.text
        # An own class token would be appended behind the padding, and the padding hidden from it.
        if type(parts) is not TextTransformer or parts.cls_emb is not None or parts.use_pad_mask:
            raise UnsupportedBackboneError(
                "This text tower is not open_clip's own, or has a class token or hides its padding."
            )
    pooling, end = text_pooling(clip)
    reads_end = (pooling == "argmax" and isinstance(tokenizer, ClipTokenizer)) or (
        pooling == "eos" and tokenizer.end == [end]
    )
    if pooling != "last" and not reads_end:
        raise UnsupportedBackboneError(
            f"This text tower reads out by {pooling!r}, and not at the end of its tokenizer's texts; "
            "learned prompts are not supported on it."
        )
    is_causal = parts.attn_mask is not None and reads_end
    return (CausalTextTower if is_causal else WholeTextTower)(clip, tokenizer)


def _projected(block: Any, tokens: Tensor) -> Tensor:
    """Return queries, keys and values of a block's attention, side by side."""
    attention = block.attn
    return F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)


def _split(projected: Tensor, shape: tuple[int, int], block: Any) -> tuple[Tensor, ...]:
    """Return queries, keys and values of prompts of one length: prompt × head × token × width."""
    return tuple(
        part.unflatten(0, shape).unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )


def _after_attention(block: Any, tokens: Tensor, read: Tensor) -> Tensor:
    """Return what a block makes of its tokens and of what they read from each other."""
    tokens = tokens + block.ls_1(block.attn.out_proj(read))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
