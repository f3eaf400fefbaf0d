"""A timm ViT whose attention can be recorded and replaced (METHOD.md, section 6).

The score depends on the last block only through the tokens that the head reads: the class token (and
DeiT's distillation token). So the last block is computed for those rows alone.
"""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ..errors import UserError, unknown
from .frozen import frozen_copy, moment
from .linear import linear, with_token_linears
from .weights import Source


class ViT(nn.Module):
    """A frozen vision transformer.

    Args:
        network: a timm VisionTransformer that reads a class token; it is left as it is, what is
            explained is a copy of its structure that shares its weights.
        name: what files and figures call it.
        mean, std: the normalisation of its pictures; None for what timm says of the network.
        precision: "fp32", or "bf16" for autocast to bfloat16.

    Raises:
        UserError: the network has no class token to explain, or its attention cannot be recorded.
    """

    upsampling = "bilinear"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = 5           # n, as in the release

    def __init__(self, network: VisionTransformer, name: str = "vit", mean: tuple | None = None,
                 std: tuple | None = None, precision: str = "fp32") -> None:
        super().__init__()
        check_explainable(network)
        config = getattr(network, "pretrained_cfg", None) or {}
        self.name, self.label, self.precision = name, name, precision
        self.mean = tuple(mean or config.get("mean", (0.5, 0.5, 0.5)))
        self.std = tuple(std or config.get("std", (0.5, 0.5, 0.5)))
        self.network = frozen_copy(network)
        with_token_linears(self.network.blocks)
        self.grid = tuple(network.patch_embed.grid_size)
        self.size = network.patch_embed.img_size[0]
        self.read = 2 if isinstance(network, VisionTransformerDistilled) else 1    # tokens the head reads
        self.contributions_at_zero: dict[tuple, Tensor] = {}                       # see iia/vit.py
        self._moment = moment(self.network)

    def refresh(self) -> None:
        """Forget what was computed with weights that were written to since."""
        if self._moment != (now := moment(self.network)):
            self._moment, self.contributions_at_zero = now, {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def classes(self) -> int | None:
        """How many classes the network tells apart; None where its head does not say."""
        return getattr(self.network.head, "out_features", None)

    @property
    def blocks(self) -> nn.Sequential:
        return self.network.blocks

    def cut(self, layer: int | str) -> int:
        """IIA for ViTs always ends at the last block: the only layer is "last", or its number."""
        if layer not in ("last", len(self.blocks)):
            raise UserError(f'layer {layer!r}: a ViT is explained at its last block only ("last").')
        return len(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> logits [B, classes], by the network itself."""
        with self.casting(x):
            return self.network(x).to(x.dtype)

    def casting(self, x: Tensor) -> torch.autocast:
        """bfloat16 inside the block where `precision` asks for it."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # ------------------------------------------------------------------------- the parts of a pass

    def embed(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> the tokens that enter block 0, [B, N, D]."""
        net = self.network
        return net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))

    def head(self, tokens: Tensor) -> Tensor:
        """The last block's tokens, at least those that are read [B, >= read, D] -> logits [B, classes]."""
        return self.network.forward_head(self.network.norm(tokens[:, :self.read]))

    def record(self, x: Tensor, stop: int) -> tuple[Tensor, list[Tensor]]:
        """Run blocks 0..stop-1 and keep their attention in the autograd graph.

        Returns:
            The tokens [B, N, D] behind them, and each block's attention after softmax [B, heads, N, N].
            The graph begins at block 0's attention: nothing before it has a gradient.

        Raises:
            UserError: a block showed no attention.
        """
        with self._recording(stop) as attention:
            tokens = self.embed(x)
            for block in self.blocks[:stop]:
                tokens = block(tokens)
        if len(attention) != stop:
            raise UserError(f"{self.name}: {stop - len(attention)} of {stop} blocks showed no attention matrix.")
        return tokens, attention

    @contextlib.contextmanager
    def _recording(self, stop: int) -> Iterator[list[Tensor]]:
        """Unfuse the attention of the first blocks and collect it; all is as before afterwards."""
        attention: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            output = output if attention else output.detach().requires_grad_()
            attention.append(output)
            return output

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
        if heads * rows >= normed.shape[-1]:
            return (attention @ self._project(part, normed, 2)).transpose(1, 2).flatten(2)
        weight, bias = self._projection(part, 2)
        sums = (attention.flatten(1, 2) @ normed).unflatten(1, (heads, rows))               # [B, heads, rows, D]
        mixed = torch.einsum("bhrc,hdc->brhd", sums, weight.unflatten(0, (heads, -1)))
        if bias is not None:
            mixed = mixed + attention.sum(-1).transpose(1, 2)[..., None] * bias.unflatten(0, (heads, -1))
        return mixed.flatten(2)

    def _project(self, part: Attention, normed: Tensor, which: int) -> Tensor:
        """Queries (0), keys (1) or values (2): [B, N, D] -> [B, heads, N, d]."""
        return linear(normed, *self._projection(part, which)).unflatten(-1, (part.num_heads, -1)).transpose(1, 2)

    @staticmethod
    def _projection(part: Attention, which: int) -> tuple[Tensor, Tensor | None]:
        """The weight [heads·d, D] and the bias [heads·d] of queries (0), keys (1) or values (2)."""
        bias = None if part.qkv.bias is None else part.qkv.bias.chunk(3)[which]
        return part.qkv.weight.chunk(3)[which], bias


def check_explainable(network: nn.Module) -> None:
    """Raise UserError, saying which and why, for a network that IIA for ViTs cannot explain."""
    kind = type(network).__name__
    if not isinstance(network, VisionTransformer):
        raise UserError(f"{kind} is no timm VisionTransformer; its attention cannot be recorded.")
    pooling = getattr(network, "global_pool", "token")
    if network.cls_token is None or pooling != "token" or getattr(network, "attn_pool", None) is not None:
        raise UserError(f"{kind} pools its tokens ({pooling or 'none'}) instead of reading a class token; "
                        "there is no class token's row to explain.")
    grid = network.patch_embed.grid_size
    if grid is None or grid[0] != grid[1]:
        raise UserError(f"{kind} has a grid of {grid} patches; only square ones are explained.")
    for number, block in enumerate(network.blocks):
        if type(block) is not Block or not isinstance(block.attn, Attention) or getattr(block.attn, "gate", None) is not None:
            raise UserError(f"{kind}: the attention of block {number} ({type(block).__name__} with "
                            f"{type(getattr(block, 'attn', None)).__name__}) cannot be recorded.")


# ----------------------------------------------------------------------------------- the table

@dataclass(frozen=True)
class Network:
    """A row: timm's name of the network, and the file names of its weights beside timm's own."""
    timm_name: str
    files: tuple[str, ...] = ()


NETWORKS: dict[str, Network] = {
    "vit-base": Network("vit_base_patch16_224.orig_in21k_ft_in1k", ("jx_vit_base_p16_224-80ecf9dd.pth",)),
    "vit-small": Network("vit_small_patch16_224.augreg_in21k_ft_in1k", ("vit_small_p16_224-15ec54c9.pth",)),
    "vit-tiny": Network("vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
}


def build(name: str) -> VisionTransformer:
    """A network of the table, or any of timm's by its timm name, with random weights.

    Raises:
        UserError: an unknown name, or a network that timm cannot build.
    """
    timm_name = timm_name_of(name)
    if not timm.is_model(timm_name):
        near = [known for known in timm.list_models(["vit_*", "deit*"]) if known.startswith(name[:4])]
        raise unknown("model_name", name, [*NETWORKS, *difflib.get_close_matches(name, near, n=3)],
                      more="any ViT by its name in timm")
    try:
        return timm.create_model(timm_name)
    except Exception as why:      # timm raises what its builders raise
        raise UserError(f"timm cannot build {timm_name!r} ({why}).") from why


def timm_name_of(name: str) -> str:
    return NETWORKS[name].timm_name if name in NETWORKS else name


def source(name: str) -> Source:
    """Where timm's weights of a network are."""
    config = timm.get_pretrained_cfg(timm_name_of(name))
    files = NETWORKS[name].files if name in NETWORKS else ()
    url = config.url if config and (config.url or "").endswith((".pth", ".pt", ".safetensors")) else None
    return Source(url=url, hub=config.hf_hub_id if config else None, more_names=files)


def old_vit_small() -> VisionTransformer:
    """The network of the file `vit_small_p16_224-15ec54c9.pth`, which is not timm's ViT-S of today.

    Embedding 768, 8 blocks, 8 heads, MLP ratio 3, qkv without bias, attention scale 768^-0.5.
    """
    network = VisionTransformer(embed_dim=768, depth=8, num_heads=8, mlp_ratio=3.0, qkv_bias=False)
    for block in network.blocks:
        block.attn.scale = 768 ** -0.5
        block.attn.fused_attn = False          # the fused kernel knows only its own scale
    return network


def is_old_vit_small(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the tensors of `old_vit_small`, by their shapes."""
    qkv = state.get("blocks.0.attn.qkv.weight")
    return (qkv is not None and qkv.shape == (3 * 768, 768) and "blocks.0.attn.qkv.bias" not in state
            and "blocks.7.norm1.weight" in state and "blocks.8.norm1.weight" not in state)
