"""IIA for vision transformers, its ablations, and gradient rollout (METHOD.md, section 6).

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, grid, grid] out. A_b is block b's attention after softmax, G_b = ∂f_y/∂A_b.

What makes it fast: blocks before the last do not depend on the attention step, so they run forward
once; the last block is computed for the class token's row only; no gradient of weights; the picture 0
is the same for all pictures, so its contributions are computed once for each class.
"""

import torch
from torch import Tensor

from .options import IIAOptions
from .integration import chunks, input_points, path_points
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
            tokens, recorded = model.record(x[rows], len(model.blocks) - 1)
            last = model.attention(model.blocks[-1], tokens.detach(), model.read(tokens)).requires_grad_()
            score = class_score(model, tokens, last, y[rows], options.target)
            g, = torch.autograd.grad(score, last, retain_graph=True)
            c = last_block_path(model, tokens, recorded, y[rows], options.steps, (last * g).relu().detach(),
                                options.target)
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
        tokens, recorded = model.record(x, len(model.blocks) - levels + 1)
        if levels == 2:
            return last_block_path(model, tokens, recorded, y, n, target=target)
        block = model.blocks[-2]
        whole = model.attention(block, tokens.detach(), tokens.shape[1])      # A_{L−1}: [P, heads, N, N]
        total = 0
        for a in path_points(n, x):
            part = (a * whole).requires_grad_()
            behind = model.through(block, tokens, part)
            total = total + last_block_path(model, behind, [*recorded, part], y, n, target=target)
        return total


def last_block_path(model: ViT, tokens: Tensor, recorded: list[Tensor], y: Tensor, n: int,
                    end: Tensor | None = None, target: Target | None = None) -> Tensor:
    """C averaged over heads, summed over the path (j/n)·A_L of the last block's attention.

    Args:
        tokens: what enters the last block, [P, N, D], in the graph of the recorded attention.
        recorded: A_0 .. A_{L−1}, [P, heads, N, N] each.
        end: the path's end, [P, heads, read, N]; None for the last block's own attention A_L.

    Returns:
        [P, blocks, N, N].
    """
    block = model.blocks[-1]
    end = model.attention(block, tokens.detach(), model.read(tokens)) if end is None else end
    total = tokens.new_zeros(len(tokens), len(recorded) + 1, tokens.shape[1], tokens.shape[1],
                             dtype=sum_dtype(tokens))
    for a in path_points(n, end):
        last = (a * end).detach().requires_grad_()
        matrices = [*recorded, last]
        score = class_score(model, tokens, last, y, target)
        for b, (A, G) in enumerate(zip(matrices, torch.autograd.grad(score, matrices, retain_graph=True),
                                       strict=True)):
            total[:, b, :A.shape[2]] += G.mul_(A.detach()).relu_().mean(1)
    return total


def sum_dtype(tokens: Tensor) -> torch.dtype:
    """Contributions are summed in float32 at least."""
    return torch.promote_types(tokens.dtype, torch.float32)


def class_score(model: ViT, tokens: Tensor, last: Tensor, y: Tensor, target: Target | None = None) -> Tensor:
    """Σ f_y (or of the target function) with the last block's attention replaced by `last`
    [P, heads, read, N]."""
    return class_or_target(model.head(model.through(model.blocks[-1], tokens, last)), y, target).sum()


def plain_run(model: ViT, x: Tensor, y: Tensor,
              target: Target | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Every block's attention and its gradient, A and G: [P, heads, N, N] each."""
    with model.casting(x), torch.enable_grad():
        tokens, A = model.record(x, len(model.blocks))
        score = class_or_target(model.head(tokens), y, target).sum()
        G = torch.autograd.grad(score, A)
    return [a.detach() for a in A], list(G)


def gradients_along_input(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """max(0, G) averaged over heads and over the input's path: [B, blocks, N, N]."""
    n, count, total = options.steps, len(x), 0
    for points, owner in input_points(x, n, options.batch_size, first=0):
        _, G = plain_run(model, points, y[owner], options.target)
        c = torch.stack([g.relu().mean(1) for g in G], 1)
        total = (c.new_zeros(count, *c.shape[1:])
                 if isinstance(total, int) else total).index_add_(0, owner, c)
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

    It is the class token's; where the head pools the patches, the mean of their rows.
    """
    patches = model.grid[0] * model.grid[1]
    row = factors[:, -1, -patches:].mean(1, keepdim=True) if model.pools else factors[:, -1, :1]  # [B, 1, N]
    for b in range(factors.shape[1] - 2, -1, -1):
        row = row @ factors[:, b]
    return row[:, 0, -patches:].unflatten(-1, model.grid)
