"""Transformer Attribution (Chefer et al., CVPR 2021): relevance of the attention times its gradient.

The relevance follows deep-Taylor rules (METHOD.md, section 7) from the class's one-hot output back to
the attention matrices. Every rule takes the relevance R of an operation's output and gives that of
its inputs; all of them keep the total. GELU, softmax, LayerNorm and scalings pass relevance unchanged.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..options import IIAOptions
from ..errors import UserError
from ..integration import chunks
from ..models.proof import same
from ..models.token_order import tokens_into
from ..models.vit import ViT
from ..vit_attribution import gradient_rollout, plain_run


def t_attr(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """C_b = mean_heads(max(0, Rel(A_b) ∘ G_b)); the class token's row of Π (C_b + I), b from 1.

    x [B, 3, H, W] -> [B, h, w]. In the release the final LayerNorm has eps 1e-5.
    """
    if options.target is not None or model.pools or not model.by_rows:
        raise UserError("t-attr follows a class back to the class token through the blocks of timm's "
                        "VisionTransformer; take another operation for a target function or another "
                        "network.")
    eps = 1e-5 if options.definition == "release" else None
    maps = []
    for rows in chunks(len(x), options.batch_size):
        _, G = plain_run(model, x[rows], y[rows])
        relevance = attention_relevance(model, x[rows], y[rows], eps)
        C = [(r * g).relu().mean(1) for r, g in zip(relevance[1:], G[1:], strict=True)]
        maps.append(gradient_rollout(model, C, normalise=False))
    return torch.cat(maps)


@torch.no_grad()
def attention_relevance(model: ViT, x: Tensor, y: Tensor, eps: float | None = None,
                        trace: list[Tensor] | None = None) -> list[Tensor]:
    """Rel(A_b) of every block, [P, heads, N, N] each.

    `trace`, if given, receives the relevance of the tokens behind each block, last block first.

    Raises:
        UserError: a block's MLP has no known rule.
    """
    tokens, passes = tokens_into(model.passes.whole, model.blocks[0], x), []
    for number, block in enumerate(model.blocks):
        if type(block.mlp) is not Mlp:
            raise UserError(f"t-attr has no rule for the MLP of block {number} ({type(block.mlp).__name__}).")
        passes.append(BlockPass.run(block, tokens))
        tokens = passes[-1].out
    relevance, matrices = head_relevance(model, tokens, y, eps), []
    for block, done in zip(reversed(model.blocks), reversed(passes), strict=True):
        if trace is not None:
            trace.append(relevance)
        matrix, relevance = block_relevance(block, done, relevance)
        matrices.insert(0, matrix)
    return matrices


@dataclass
class BlockPass:
    """What a forward pass of one block leaves for the way back; [P, N, D] where nothing else is said."""
    tokens: Tensor      # the block's input
    normed1: Tensor
    q: Tensor           # q, k, v: [P, heads, N, d]
    k: Tensor
    v: Tensor
    A: Tensor           # [P, heads, N, N]
    mixed: Tensor       # the heads' outputs side by side
    branch1: Tensor     # the attention's branch, as it is added
    middle: Tensor
    normed2: Tensor
    hidden: Tensor      # behind the GELU, [P, N, 4 D]
    branch2: Tensor     # the MLP's branch, as it is added
    out: Tensor

    @classmethod
    def run(cls, block: Block, tokens: Tensor) -> "BlockPass":
        part, mlp = block.attn, block.mlp
        normed1 = block.norm1(tokens)
        q, k, v = part.qkv(normed1).unflatten(-1, (3, part.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = part.q_norm(q), part.k_norm(k)
        A = (q * part.scale @ k.transpose(-2, -1)).softmax(-1)
        mixed = part.norm((A @ v).transpose(1, 2).flatten(2))
        branch1 = block.ls1(part.proj(mixed))
        middle = tokens + branch1
        normed2 = block.norm2(middle)
        hidden = mlp.norm(mlp.act(mlp.fc1(normed2)))
        branch2 = block.ls2(mlp.fc2(hidden))
        return cls(tokens, normed1, q, k, v, A, mixed, branch1, middle, normed2, hidden, branch2,
                   middle + branch2)


def head_relevance(model: ViT, tokens: Tensor, y: Tensor, eps: float | None) -> Tensor:
    """The relevance of the last block's output tokens: all of it is on the tokens that the head reads.

    Raises:
        UserError: the head has other parts than the rules know, or hooks that change them.
    """
    net, norm, count = model.network, model.network.norm, model.passes.read
    heads = [net.head] if count == 1 else [net.head, net.head_dist]

    def known(eps: float | None) -> tuple[Tensor, list[Tensor]]:
        read = tokens[:, :count]
        read = F.layer_norm(read, norm.normalized_shape, norm.weight, norm.bias, eps or norm.eps) \
            if isinstance(norm, nn.LayerNorm) else norm(read)
        read = net.fc_norm(read)
        return read, [F.linear(read[:, i], head.weight, head.bias) for i, head in enumerate(heads)]

    if not all(isinstance(head, nn.Linear) for head in heads) \
            or not same(sum(known(None)[1]) / len(heads), model.passes.head(tokens)):
        raise UserError("t-attr has no rules for this network's head; take another operation.")
    read, logits = known(eps)
    one_hot = F.one_hot(y, logits[0].shape[-1]).to(tokens.dtype)
    shares = [one_hot] if len(heads) == 1 else sum_rule(*logits, one_hot)
    relevance = torch.zeros_like(tokens)
    for i, (head, share) in enumerate(zip(heads, shares, strict=True)):
        relevance[:, i] = linear_rule(head, read[:, i], share)
    return relevance


def block_relevance(block: Block, done: BlockPass, R: Tensor) -> tuple[Tensor, Tensor]:
    """From the relevance of a block's output to that of its attention matrix and of its input tokens."""
    R, R_branch = sum_rule(done.middle, done.branch2, R)
    R_branch = linear_rule(block.mlp.fc2, done.hidden, R_branch)
    R = R + linear_rule(block.mlp.fc1, done.normed2, R_branch)
    R, R_branch = sum_rule(done.tokens, done.branch1, R)
    R_mixed = linear_rule(block.attn.proj, done.mixed, R_branch)
    heads = R_mixed.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)            # [P, heads, N, d]
    R_A, R_v = product_rule(done.A, done.v, heads)
    R_q, R_kT = product_rule(done.q, done.k.transpose(-2, -1), R_A)
    R_qkv = torch.stack([R_q, R_kT.transpose(-2, -1), R_v]).permute(1, 3, 0, 2, 4).flatten(2)    # [P, N, 3 D]
    return R_A, R + linear_rule(block.attn.qkv, done.normed1, R_qkv)


# ------------------------------------------------------------------------------------- the rules

def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where |b| < 1e-9."""
    small = b.abs() < 1e-9
    return torch.where(small, 0, a / torch.where(small, 1, b))


def linear_rule(layer: nn.Linear, x: Tensor, R: Tensor) -> Tensor:
    """α = 1, β = 0: x⁺ (w⁺ᵀ S) + x⁻ (w⁻ᵀ S), S = R / (x⁺w⁺ + x⁻w⁻), without the bias."""
    w_plus, w_minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    x_plus, x_minus = x.clamp(min=0), x.clamp(max=0)
    S = divide(R, x_plus @ w_plus.T + x_minus @ w_minus.T)
    return x_plus * (S @ w_plus) + x_minus * (S @ w_minus)


def product_rule(a: Tensor, b: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix product a @ b: each factor gets factor ∘ (∂Z/∂factor · R/Z), halved."""
    S = divide(R, a @ b)
    return a * (S @ b.transpose(-2, -1)) / 2, b * (a.transpose(-2, -1) @ S) / 2


def sum_rule(a: Tensor, b: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """A sum a + b: a ∘ R/Z and b ∘ R/Z, rescaled so that their totals share ΣR as |Σ| of each."""
    S = divide(R, a + b)
    parts = [a * S, b * S]
    dims = tuple(range(1, R.ndim))
    sums = [part.sum(dims, keepdim=True) for part in parts]
    whole, size = R.sum(dims, keepdim=True), sums[0].abs() + sums[1].abs()
    ra, rb = (part * divide(divide(s.abs(), size) * whole, s) for part, s in zip(parts, sums, strict=True))
    return ra, rb
