"""A ViT whose attention can be recorded and replaced (METHOD.md, section 6).

The score depends on the last block only through the tokens that the head reads: the class token (and
DeiT's distillation token), or all of them where it pools. So the last block is computed for those rows alone.
"""

import contextlib
from collections.abc import Iterator

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ..errors import UserError
from .cut import Left
from .fast_cpu import linear, with_token_linears
from .model import Model
from .proof import same
from .quick import frozen_copy
from .snapshot import ONE_AT_A_TIME, Snapshot


class NotAViT(UserError):
    """The network has no attention over patches that can be recorded and replaced; perhaps it is a CNN."""


class ViT(Model):
    """A timm VisionTransformer of plain blocks, whatever its head reads.

    Its blocks are taken apart in one of two ways, the first that answers as the network does: by the rows of
    their weights, which is quick, or by calling their modules, which may be of the user's own (LoRA).

    Raises:
        NotAViT: the network is of another kind, or no way reproduces it.
    """

    upsampling = "bilinear"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = 5           # n, as in the release
    way = "attention"

    def __init__(self, whole: Snapshot, name: str, mean: tuple, std: tuple, precision: str = "fp32",
                 labels: list[str] | None = None) -> None:
        net = whole.network
        check_explainable(net)
        super().__init__(whole, name, mean, std, precision, labels)
        self.grid = grid_of(net, self.size)
        self.pools = getattr(net, "global_pool", "token") != "token" \
            or getattr(net, "attn_pool", None) is not None
        self.contributions_at_zero: dict[tuple, Tensor] = {}                       # see iia/vit_attribution.py
        self.by_rows = True
        self.network = frozen_copy(net)
        with_token_linears(self.network.blocks)
        self._read = 2 if isinstance(net, VisionTransformerDistilled) else 1
        if not self._is_right():
            self.by_rows, self.network = False, net
        if not self.by_rows and not self._is_right():
            raise NotAViT(f"{whole.name} computes something else than its blocks show: a hook or a forward "
                          "of its own stands between them")

    def _is_right(self) -> bool:
        """Whether the passes from which attention is taken give the network's logits."""
        x, wanted = self.whole.probe, self.whole.logits
        try:
            with torch.no_grad():
                tokens, A = self.record(x, len(self.blocks))
                before, _ = self.record(x, len(self.blocks) - 1)
                rows = self.attention(self.blocks[-1], before, self.read(before))
                every = self.attention(self.blocks[-1], before, before.shape[1])
                first, _ = self.record(x, len(self.blocks) - 2)
                behind = self.through(self.blocks[-2], first,
                                      self.attention(self.blocks[-2], first, first.shape[1]))
                own_rows = self.attention(self.blocks[-1], behind, self.read(behind))
                found = [self.head(self.through(self.blocks[-1], behind, own_rows)),
                         self.network.forward_head(self.network.norm(tokens)),
                         self.head(self.through(self.blocks[-1], before, rows)),
                         self.head(self.through(self.blocks[-1], before, every))]
            return all(same(logits, wanted) for logits in found) and same(every, A[-1])
        except (RuntimeError, TypeError, AttributeError, IndexError, ValueError, UserError):
            return False                                       # blocks that are plain in name only

    @property
    def blocks(self) -> nn.Sequential:
        return self.network.blocks

    def read(self, tokens: Tensor) -> int:
        """How many of the last block's tokens [B, N, D] the head reads, from the first."""
        return tokens.shape[1] if self.pools else self._read

    def cut(self, layer: int | str, of_map: bool = True) -> int:
        """IIA for ViTs always ends at the last block: the only layer is "last", or its number."""
        if layer not in ("last", len(self.blocks)):
            raise UserError(f'layer {layer!r}: a ViT is explained at its last block only ("last").')
        return len(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] -> logits [B, classes], by the network itself."""
        with ONE_AT_A_TIME, self.casting(x):
            return self.whole(x).to(x.dtype)

    def casting(self, x: Tensor) -> torch.autocast:
        """bfloat16 inside the block where `precision` asks for it."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # ------------------------------------------------------------------------- the parts of a pass

    def embed(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] -> the tokens that enter block 0, [B, N, D]:
        the network runs until it comes there."""
        found: list[Tensor] = []

        def leave(block: nn.Module, inputs: tuple) -> None:
            found.append(inputs[0])
            raise Left

        with ONE_AT_A_TIME:
            hook = self.whole.network.blocks[0].register_forward_pre_hook(leave)
            try:
                self.whole(x)
            except Left:
                pass
            finally:
                hook.remove()
        return found[0]

    def head(self, tokens: Tensor) -> Tensor:
        """The last block's tokens, at least those that are read [B, >= read, D] -> logits [B, classes]."""
        return self.network.forward_head(self.network.norm(tokens[:, :self.read(tokens)]))

    def record(self, x: Tensor, stop: int) -> tuple[Tensor, list[Tensor]]:
        """Run blocks 0..stop-1 and keep their attention in the autograd graph.

        Returns:
            The tokens [B, N, D] behind them, and each block's attention after softmax [B, heads, N, N].
            The graph begins at block 0's attention: nothing before it has a gradient.

        Raises:
            UserError: a block showed no attention.
        """
        tokens = self.embed(x)
        with self._recording(stop) as attention:
            for block in self.blocks[:stop]:
                tokens = block(tokens)
        if len(attention) != stop:
            raise UserError(f"{self.name}: {stop - len(attention)} of {stop} blocks showed "
                            "no attention matrix.")
        return tokens, attention

    @contextlib.contextmanager
    def _recording(self, stop: int) -> Iterator[list[Tensor]]:
        """Unfuse the attention of the first blocks and collect it; all is as before afterwards."""
        attention: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            output = output if attention else output.detach().requires_grad_()
            attention.append(output)
            return output

        ONE_AT_A_TIME.acquire()       # hooks and flags are the model's, which other threads may explain with
        parts = [block.attn for block in self.blocks[:stop]]
        fused = [part.fused_attn for part in parts]
        hooks = [part.attn_drop.register_forward_hook(keep) for part in parts]
        try:
            for part in parts:
                part.fused_attn = False
            yield attention
        finally:
            for part, was in zip(parts, fused, strict=True):
                part.fused_attn = was
            for hook in hooks:
                hook.remove()
            ONE_AT_A_TIME.release()

    # ------------------------------------------------- a block with its attention taken out of it

    def attention(self, block: Block, tokens: Tensor, rows: int) -> Tensor:
        """The block's attention after softmax, for the first `rows` queries: [B, heads, rows, N]."""
        part, normed = block.attn, block.norm1(tokens)
        q = part.q_norm(self._project(part, normed[:, :rows], 0))
        k = part.k_norm(self._project(part, normed, 1))
        return (q * part.scale @ k.transpose(-2, -1)).softmax(-1)

    def through(self, block: Block, tokens: Tensor, attention: Tensor) -> Tensor:
        """The block's output with `attention` [B, heads, rows, N] in place of its own: [B, rows, D]."""
        part, rows = block.attn, tokens[:, :attention.shape[2]]
        rows = rows + block.ls1(part.proj(part.norm(self._mix(part, attention, block.norm1(tokens)))))
        return rows + block.ls2(block.mlp(block.norm2(rows)))

    def _mix(self, part: Attention, attention: Tensor, normed: Tensor) -> Tensor:
        """What attention [B, heads, rows, N] makes of the tokens' values: [B, N, D] -> [B, rows, heads·d].

        Few rows weigh and sum the tokens first and project their sums, not all tokens: the same product of
        three matrices, from the other end.
        """
        heads, rows = attention.shape[1:3]
        if heads * rows >= normed.shape[-1] or not self.by_rows:
            return (attention @ self._project(part, normed, 2)).transpose(1, 2).flatten(2)
        weight, bias = self._projection(part, 2)
        sums = (attention.flatten(1, 2) @ normed).unflatten(1, (heads, rows))           # [B, heads, rows, D]
        mixed = torch.einsum("bhrc,hdc->brhd", sums, weight.unflatten(0, (heads, -1)))
        if bias is not None:
            mixed = mixed + attention.sum(-1).transpose(1, 2)[..., None] * bias.unflatten(0, (heads, -1))
        return mixed.flatten(2)

    def _project(self, part: Attention, normed: Tensor, which: int) -> Tensor:
        """Queries (0), keys (1) or values (2): [B, N, D] -> [B, heads, N, d]."""
        if not self.by_rows:
            return part.qkv(normed).chunk(3, -1)[which].unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
        return linear(normed, *self._projection(part, which)).unflatten(
            -1, (part.num_heads, -1)).transpose(1, 2)

    @staticmethod
    def _projection(part: Attention, which: int) -> tuple[Tensor, Tensor | None]:
        """The weight [heads·d, D] and the bias [heads·d] of queries (0), keys (1) or values (2)."""
        bias = None if part.qkv.bias is None else part.qkv.bias.chunk(3)[which]
        return part.qkv.weight.chunk(3)[which], bias


def check_explainable(network: nn.Module) -> None:
    """Raise NotAViT, saying why, for a network whose attention cannot be recorded and replaced."""
    kind = type(network).__name__
    if not isinstance(network, VisionTransformer):
        raise NotAViT(f"{kind} is no timm VisionTransformer either")
    for number, block in enumerate(network.blocks):
        attention = getattr(block, "attn", None)
        if type(block) is not Block or not isinstance(attention, Attention) \
                or getattr(attention, "gate", None) is not None:
            raise NotAViT(f"the attention of block {number} ({type(block).__name__} with "
                          f"{type(attention).__name__}) cannot be recorded either")


def grid_of(network: VisionTransformer, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w): how many patches a picture of `size` has."""
    dynamic = getattr(network, "dynamic_img_size", False) or network.patch_embed.grid_size is None
    return tuple(network.patch_embed.dynamic_feat_size(size) if dynamic else network.patch_embed.grid_size)
