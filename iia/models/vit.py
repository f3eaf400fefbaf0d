"""A transformer over patches whose attention can be recorded and replaced (METHOD.md, section 6)."""

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ..errors import UserError, rephrased
from .attention import AnyPass, Passed
from ..precision import products
from .calls import ONE_AT_A_TIME, forget
from .copying import HOOKS, frozen_copy
from .fast_cpu import linear, with_token_linears
from .find_attention import Found, NotAViT, find
from .model import Model
from .snapshot import Snapshot


class ViT(Model):
    """Any network with attention over patches in a row of blocks, whatever its head reads.

    Attributes:
        blocks: the modules that hold an attention each. block_of, heads: see `find_attention.Found`.
        grid: (h, w) of the patches, the last tokens.
        passes: how they are run: by the rows of timm's plain blocks (`by_rows`), or by running the network.

    Raises:
        NotAViT: it has no such attention, or none that can be replaced.
    """

    upsampling = "bilinear"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = {"paper": 10, "release": 5}          # n

    def __init__(self, whole: Snapshot, name: str, mean: tuple, std: tuple, precision: str = "fp32",
                 labels: list[str] | None = None) -> None:
        if len(whole.attention) < 2:                  # recognises a CNN without another pass
            raise NotAViT(f"{whole.name} shows no attention between patches")
        super().__init__(whole, name, mean, std, precision, labels)
        if precision == "fp16":
            raise UserError(f'precision "fp16" is for a CNN\'s features; gradients of attention vanish in '
                            f'it. Take "bf16" for {name}.')
        with rephrased(f"{whole.name} does not run with its attention recorded", kind=NotAViT):
            found = find(whole)
        whole.attention.clear()
        self.grid, self.block_of, self.heads = found.grid, found.block_of, found.heads
        patches = self.grid[0] * self.grid[1]
        prefix = len(found.read) - patches
        self.first = next((token for token in range(prefix) if found.read[token]), None)    # the class token
        self.pools = any(found.read[prefix:])
        self.contributions_at_zero: dict[tuple, Tensor] = {}             # see iia/vit_attribution.py
        self.passes = AnyPass(whole, found.blocks, found.block_of, len(found.read))
        self.by_rows = is_plain(whole.network) and (quick := RowPass(whole, found)).is_right()
        if self.by_rows:
            self.passes, self.network = quick, quick.whole.network
        else:
            self.passes.replays = self.passes.is_right()
        self.way = "rows" if self.by_rows else "skipping" if self.passes.replays else "whole"
        forget(whole.calls)

    def clear_caches(self) -> None:
        super().clear_caches()
        self.contributions_at_zero.clear()

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.passes.blocks)

    def start(self, like: Tensor) -> Tensor:
        """Where rollout starts: weights [N] of the last block's tokens, which sum to 1.

        All on the class token if the head reads it, else the patches alike.
        """
        weights, patches = like.new_zeros(like.shape[-1]), self.grid[0] * self.grid[1]
        if self.first is None:
            weights[-patches:] = 1 / patches
        else:
            weights[self.first] = 1
        return weights

    def cut(self, layer: int | str, of_map: bool = True) -> int:
        """IIA for ViTs always ends at the last block: the only layer is "last", or its number."""
        if layer not in ("last", len(self.blocks)):
            named = type(layer).__name__ if isinstance(layer, nn.Module) else repr(layer)
            raise UserError(f'layer {named}: a ViT is explained at its last block only ("last").')
        return len(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] -> logits [B, classes], by the network itself."""
        with ONE_AT_A_TIME, products(self.precision), self.casting(x):
            return self.whole(x).to(x.dtype)

    def casting(self, x: Tensor) -> torch.autocast:
        """bfloat16 inside the block where `precision` asks for it."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def is_plain(network: nn.Module) -> bool:
    """Whether it is timm's VisionTransformer of plain blocks, unmodified, and runs as timm's does."""
    own = type(network)
    plain = isinstance(network, VisionTransformer) and own.forward is VisionTransformer.forward \
        and own.forward_features is VisionTransformer.forward_features and len(network.blocks) > 2 and all(
        type(block) is Block and type(block.attn) is Attention and type(block.attn.qkv) is nn.Linear
        and block.attn.gate is None for block in network.blocks)
    parts = [network, *network.blocks.modules()] if plain else []
    return plain and not any("forward" in vars(part) or getattr(part, kind)
                             for part in parts for kind in HOOKS)


class RowPass(AnyPass):
    """Passes of timm's plain blocks, whose last ones are taken apart by the rows of their weights.

    The logits depend on the last block only through the tokens that the head reads, none behind the first
    `read`. So it is computed for those rows alone.
    """

    def __init__(self, whole: Snapshot, found: Found) -> None:
        forget(whole.calls)
        whole = frozen_copy(whole)
        super().__init__(whole, with_token_linears(whole.network.blocks), found.block_of, len(found.read))
        prefix = len(found.read) - found.grid[0] * found.grid[1]
        last = max(token for token, read in enumerate(found.read) if read) + 1
        self.read = last if last <= prefix else len(found.read)     # a maximum takes any patch

    def own_attention(self, at: Passed) -> list[Tensor]:
        rows = self.read if at.blocks == len(self.blocks) - 1 else self.tokens
        return [self.attention(self.blocks[at.blocks], at.kept[-1].detach(), rows)]

    def through(self, at: Passed, attention: list[Tensor]) -> Passed:
        tokens = self.behind(self.blocks[at.blocks], at.kept[-1], attention[0])
        return Passed(at.x, at.blocks + 1, at.recorded + attention, [tokens])

    def finish(self, at: Passed, attention: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        attention = attention or [self.attention(self.blocks[at.blocks], at.kept[-1], self.read)]
        at = self.through(at, attention)
        return self.head(at.kept[-1]), at.recorded

    def head(self, tokens: Tensor) -> Tensor:
        """The last block's tokens, at least those that are read [B, >= read, D] -> logits [B, classes]."""
        return self.whole.network.forward_head(self.whole.network.norm(tokens[:, :self.read]))

    def attention(self, block: Block, tokens: Tensor, rows: int) -> Tensor:
        """The block's attention after softmax, for the first `rows` queries: [B, heads, rows, N]."""
        part, normed = block.attn, block.norm1(tokens)
        q = part.q_norm(project(part, normed[:, :rows], 0))
        k = part.k_norm(project(part, normed, 1))
        return (q * part.scale @ k.transpose(-2, -1)).softmax(-1)

    def behind(self, block: Block, tokens: Tensor, attention: Tensor) -> Tensor:
        """The block's output with `attention` [B, heads, rows, N] in place of its own: [B, rows, D]."""
        part, rows = block.attn, tokens[:, :attention.shape[2]]
        rows = rows + block.ls1(part.proj(part.norm(mix(part, attention, block.norm1(tokens)))))
        return rows + block.ls2(block.mlp(block.norm2(rows)))


def mix(part: Attention, attention: Tensor, normed: Tensor) -> Tensor:
    """What attention [B, heads, rows, N] makes of the tokens' values: [B, N, D] -> [B, rows, heads·d].

    Few rows weigh and sum the tokens first and project their sums, not all tokens: the same product of
    three matrices, from the other end.
    """
    heads, rows = attention.shape[1:3]
    if heads * rows >= normed.shape[-1]:
        return (attention @ project(part, normed, 2)).transpose(1, 2).flatten(2)
    weight, bias = projection(part, 2)
    sums = (attention.flatten(1, 2) @ normed).unflatten(1, (heads, rows))               # [B, heads, rows, D]
    mixed = torch.einsum("bhrc,hdc->brhd", sums, weight.unflatten(0, (heads, -1)))
    if bias is not None:
        mixed = mixed + attention.sum(-1).transpose(1, 2)[..., None] * bias.unflatten(0, (heads, -1))
    return mixed.flatten(2)


def project(part: Attention, normed: Tensor, which: int) -> Tensor:
    """Queries (0), keys (1) or values (2): [B, N, D] -> [B, heads, N, d]."""
    return linear(normed, *projection(part, which)).unflatten(-1, (part.num_heads, -1)).transpose(1, 2)


def projection(part: Attention, which: int) -> tuple[Tensor, Tensor | None]:
    """The weight [heads·d, D] and the bias [heads·d] of queries (0), keys (1) or values (2)."""
    bias = None if part.qkv.bias is None else part.qkv.bias.chunk(3)[which]
    return part.qkv.weight.chunk(3)[which], bias
