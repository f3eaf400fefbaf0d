"""IIA for vision transformers, its ablations, and gradient rollout (METHOD.md, section 6).

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, h, w] out. A_b is block b's attention after softmax, G_b = ∂f_y/∂A_b.

What makes it fast: blocks before the last do not depend on the attention step, so they run forward
once; the last block is computed for the rows that are read only; no gradient of weights; the picture 0
is the same for all pictures, so its contributions are computed once for each class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .options import IIAOptions
from .integration import chunks, input_points, path_points
from .models.attention import Passed
from .models.model import Target, class_or_target
from .models.vit import ViT

ZERO_CLASSES = 64      # for how many classes the picture 0's contributions are kept


def iia2(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2: C_b = max(0, A_b ∘ G_b), averaged over the input's path, the path of the last block's
    attention (j/n)·A_L(x_i), and the heads; then gradient rollout."""
    return gradient_rollout(model, path_contributions(model, x, y, options, levels=2))


def iia3(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA3: the attention of the block before the last has a path (k/n)·A_{L−1} too, and A_L is what
    the last block computes behind it."""
    return gradient_rollout(model, path_contributions(model, x, y, options, levels=3))


def ablation_image(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The input's path only: C_b = max(0, G_b), averaged over heads and path points; then rollout."""
    return gradient_rollout(model, gradients_along_input(model, x, y, options))


def released_ablation_image(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """As the release: each matrix is replaced by its mean over the queries (a sum over the wrong axis)."""
    c = gradients_along_input(model, x, y, options)
    return gradient_rollout(model, c.mean(-2, keepdim=True).expand_as(c))


def ablation_attention(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The picture alone: C_L = max(0, A_L ∘ G_L) of the plain run, then the last block's attention is
    replaced by (j/n)·C_L (drawn from C_L, not from A_L, as the release does it)."""
    maps = []
    for rows in chunks(len(x), options.batch_size):
        with model.casting(x), torch.enable_grad():
            at = model.passes.record(x[rows], len(model.blocks) - 1)
            last = [A.detach().requires_grad_() for A in model.passes.own(at)]
            score, _ = class_score(model, at, last, y[rows], options.target)
            G = torch.autograd.grad(score, last, retain_graph=True)
            end = [(A * g).relu().detach() for A, g in zip(last, G, strict=True)]
            c = last_block_path(model, at, y[rows], options.steps, end, options.target)
        maps.append(gradient_rollout(model, c / (options.steps + 1)))
    return torch.cat(maps)


# ----------------------------------------------------------------------- contributions C along the paths

def path_contributions(model: ViT, x: Tensor, y: Tensor, options: IIAOptions, levels: int) -> Tensor:
    """C averaged over heads and over all points of the `levels` paths: [B, blocks, N, N]."""
    n = options.steps
    total = zero_contributions(model, x, y, n, levels, options)
    for points, owner in input_points(x, n, options.batch_size):
        total.index_add_(0, owner, attention_paths(model, points, y[owner], n, levels, options.target))
    return total / (n + 1) ** levels


def zero_contributions(model: ViT, x: Tensor, y: Tensor, n: int, levels: int, options: IIAOptions) -> Tensor:
    """What the picture 0 contributes for each class of y: [B, blocks, N, N], computed once a class."""
    kept = model.contributions_at_zero if options.target is None else {}
    about = (n, levels, x.shape[1:], x.dtype, x.device)
    wanted = y.unique()
    found = {c: kept[c, about] for c in wanted.tolist() if (c, about) in kept}
    missing = torch.tensor([c for c in wanted.tolist() if c not in found], dtype=y.dtype, device=y.device)
    for rows in chunks(len(missing), options.batch_size):
        classes = missing[rows]
        zero = x.new_zeros(len(classes), *x.shape[1:])
        new = attention_paths(model, zero, classes, n, levels, options.target)
        found |= dict(zip(classes.tolist(), new, strict=True))
    for c in found:
        kept[c, about] = found[c]
    while len(kept) > ZERO_CLASSES:
        kept.pop(next(iter(kept)))
    return torch.stack([found[c] for c in y.tolist()])


def attention_paths(model: ViT, x: Tensor, y: Tensor, n: int, levels: int,
                    target: Target | None = None) -> Tensor:
    """C for input points x [P, 3, H, W], averaged over heads, summed over the attention's paths:
    [P, blocks, N, N]."""
    with model.casting(x), torch.enable_grad():
        at = model.passes.record(x, len(model.blocks) - levels + 1)
        if levels == 2:
            return last_block_path(model, at, y, n, target=target)
        whole, total = model.passes.own(at), 0                  # A_{L−1}: [P, heads, N, N]
        for a in path_points(n, x):
            behind = model.passes.through(at, [(a * A).detach().requires_grad_() for A in whole])
            total = total + last_block_path(model, behind, y, n, target=target)
        return total


def last_block_path(model: ViT, at: Passed, y: Tensor, n: int, end: list[Tensor] | None = None,
                    target: Target | None = None) -> Tensor:
    """C averaged over heads, summed over the path (j/n)·A_L of the last block's attention.

    Args:
        at: a pass of P rows that has come to the last block.
        end: the path's end, [P, heads, read, N] of each parallel part; None for the last block's own A_L.

    Returns:
        [P, blocks, N, N].
    """
    end, total = model.passes.own(at) if end is None else end, 0
    for a in path_points(n, end[0]):
        score, matrices = class_score(model, at, [(a * A).detach().requires_grad_() for A in end], y, target)
        G = torch.autograd.grad(score, matrices, retain_graph=True)
        if isinstance(total, int):
            N = matrices[0].shape[-1]
            total = at.x.new_zeros(len(y), len(model.blocks), N, N, dtype=sum_dtype(at.x))
        for A, g, b in zip(matrices, G, model.block_of, strict=True):
            total[:, b, :A.shape[2]] += g.mul_(A.detach()).relu_().sum(1).div_(model.heads[b])
    return total


def sum_dtype(x: Tensor) -> torch.dtype:
    """Contributions are summed in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def class_score(model: ViT, at: Passed, last: list[Tensor], y: Tensor,
                target: Target | None = None) -> tuple[Tensor, list[Tensor]]:
    """Σ f_y (or of the target function) with the last block's attention replaced by `last`
    [P, heads, read, N], and all matrices that it comes from."""
    logits, matrices = model.passes.finish(at, last)
    return class_or_target(logits, y, target).sum(), matrices


def plain_run(model: ViT, x: Tensor, y: Tensor,
              target: Target | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Every block's attention and its gradient, A and G: [P, heads, N, N] each."""
    with model.casting(x), torch.enable_grad():
        logits, A = model.passes.plain(x)
        G = torch.autograd.grad(class_or_target(logits, y, target).sum(), A)
    return by_block(model, [a.detach() for a in A]), by_block(model, G)


def by_block(model: ViT, matrices: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of a block's parallel parts as more heads of that block."""
    return [torch.cat([m for m, own in zip(matrices, model.block_of, strict=True) if own == b], 1)
            for b in range(len(model.blocks))]


def gradients_along_input(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """max(0, G) averaged over heads and over the input's path: [B, blocks, N, N]."""
    n, count, total = options.steps, len(x), 0
    for points, owner in input_points(x, n, options.batch_size, first=0):
        _, G = plain_run(model, points, y[owner], options.target)
        c = torch.stack([g.relu().mean(1) for g in G], 1)
        total = c.new_zeros(count, *c.shape[1:]) if isinstance(total, int) else total
        total.index_add_(0, owner, c)
    return total / (n + 1)


# ---------------------------------------------------------------------------------------------- rollout

def gradient_rollout(model: ViT, c: Tensor) -> Tensor:
    """R = Π_b rownorm(C_b + I), later blocks from the left; the row of what is read as a map.

    [B, blocks, N, N] -> [B, h, w]. Only that row is carried through the product.
    """
    c = c + torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    return read_row(model, c / c.sum(-1, keepdim=True))


def read_row(model: ViT, factors: Tensor) -> Tensor:
    """The row of factors[:, -1] ··· factors[:, 0] that is read, patches only: [B, h, w].

    It is the class token's; where the head does not read it, the mean of the patches' rows.
    """
    row = model.start(factors) @ factors[:, -1]                     # [B, N]
    for b in range(factors.shape[1] - 2, -1, -1):
        row = (row[:, None] @ factors[:, b])[:, 0]
    return row[:, -model.grid[0] * model.grid[1]:].unflatten(-1, model.grid)
