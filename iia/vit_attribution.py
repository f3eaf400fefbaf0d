"""IIA for vision transformers, its ablations, and gradient rollout (METHOD.md, section 6).

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, h, w] out ([3, B, h, w] with two guesses of the limit). A_b is block b's attention
after softmax, G_b = ∂f_y/∂A_b, and C_b = max(0, A_b ∘ G_b) averaged over heads. In the paper rollout is made
at each point of the paths and the maps are averaged; in the release C is averaged, and one rollout is made.

What makes it fast: blocks before the last do not depend on the attention step, so they run forward
once; the last block is computed for the rows that are read only; no gradient of weights; the picture 0
is the same for all pictures, so what it adds is computed once for each class.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .integration import add_rows, chunks, input_points
from .models.attention import Passed
from .models.model import Target, class_or_target
from .models.vit import ViT
from .options import IIAOptions
from .quadrature import Rule

ZERO_CLASSES = 64      # for how many classes the picture 0's part is kept

AtPoint = Callable[[Sequence[Tensor]], Tensor]          # C of each block -> what is summed: [P, h, w]


def iia2(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2: the input's path, and at each of its points that of the last block's attention, a·A_L(x_i)."""
    return along_input(model, x, y, options, 1, last_block)


def iia3(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA3: the attention of the block before the last has a path a·A_{L−1} too, and A_L is what the last
    block computes behind it."""
    return along_input(model, x, y, options, 2, last_two_blocks)


def iia_previous(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2(L−1): the path is that of the block before the last, a·A_{L−1}(x_i), and the last is as it is."""
    return along_input(model, x, y, options, 2, block_before)


def ablation_image(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The input's path only: C_b = max(0, G_b), averaged over heads and path points; then rollout."""
    return gradient_rollout(model, gradients_along_input(model, x, y, options))


def released_ablation_image(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """As the release: each matrix is replaced by its mean over the queries (a sum over the wrong axis)."""
    C = gradients_along_input(model, x, y, options)
    return gradient_rollout(model, [c.mean(-2, keepdim=True).expand_as(c) for c in C])


def ablation_attention(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The picture alone: C_L = max(0, A_L ∘ G_L) of the plain run, then the last block's attention is
    replaced by a·C_L (drawn from C_L, not from A_L, as the release does it). C is averaged; then rollout."""
    maps, rule = [], options.layer_rule(x).average()
    for rows in chunks(len(x), options.batch_size):
        with model.casting(x), torch.enable_grad():
            at = model.passes.record(x[rows], len(model.blocks) - 1)
            last = [A.detach().requires_grad_() for A in model.passes.own_attention(at)]
            logits, _ = model.passes.finish(at, last)
            G = torch.autograd.grad(class_or_target(logits, y[rows], options.target).sum(), last,
                                    retain_graph=True)
            end = [(A * g).relu().detach() for A, g in zip(last, G, strict=True)]
            total = last_block(model, at, y[rows], rule, stacked, options.target, end)
        maps.append(gradient_rollout(model, unstacked(total)))
    return torch.cat(maps, -3)


# ------------------------------------------------------------------------------------------ the paths

def along_input(model: ViT, x: Tensor, y: Tensor, options: IIAOptions, before: int,
                follow: Callable[..., Tensor]) -> Tensor:
    """The average, over the input's path, of what `follow` sums over the paths of attention.

    follow: from a pass that has come to the last `before` blocks to [..., P, h, w].
    """
    paper, rule = options.definition == "paper", options.input_rule(x).average()
    at_point = partial(gradient_rollout, model) if paper else stacked

    def inner(points: Tensor, y: Tensor) -> Tensor:
        with model.casting(points), torch.enable_grad():
            at = model.passes.record(points, len(model.blocks) - before)
            return follow(model, at, y, options.layer_rule(x).average(), at_point, options.target)

    maps = 0
    if rule.starts_at_zero:
        maps = at_zero(model, x, y, options, follow, inner) * rule.w[..., :1, None, None]
    for points, owner, w in input_points(x, rule, options.batch_size, first=int(rule.starts_at_zero)):
        maps = add_rows(maps, inner(points, y[owner]) * w[..., None, None], owner, len(x))
    return maps if paper else gradient_rollout(model, unstacked(maps))


def at_zero(model: ViT, x: Tensor, y: Tensor, options: IIAOptions, follow: Callable[..., Tensor],
            inner: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `inner` makes of the picture 0 for each class of y, [..., B, h, w], computed once a class."""
    kept = model.contributions_at_zero if options.target is None else {}
    about = follow, replace(options, batch_size=0, target=None)
    wanted = y.unique()
    found = {c: kept[c, about] for c in wanted.tolist() if (c, about) in kept}
    missing = torch.tensor([c for c in wanted.tolist() if c not in found], dtype=y.dtype, device=y.device)
    for rows in chunks(len(missing), options.batch_size):
        classes = missing[rows]
        new = inner(x.new_zeros(len(classes), *x.shape[1:]), classes)
        found |= dict(zip(classes.tolist(), new.unbind(-3), strict=True))
    for c in found:
        kept[c, about] = found[c]
    while len(kept) > ZERO_CLASSES:
        kept.pop(next(iter(kept)))
    return torch.stack([found[c] for c in y.tolist()], -3)


def last_block(model: ViT, at: Passed, y: Tensor, rule: Rule, at_point: AtPoint,
               target: Target | None = None, end: list[Tensor] | None = None) -> Tensor:
    """Σ_j w_j of what `at_point` makes of C, where the last block's attention is a_j·A_L.

    Args:
        at: a pass of P rows that has come to the last block.
        end: the path's end, [P, heads, read, N] of each parallel part; None for the last block's own A_L.

    Returns:
        [..., P, h, w].
    """
    end, total = model.passes.own_attention(at) if end is None else end, 0
    for a, w in rule:
        total = total + w * at_point(contributions(model, at, scaled(a, end), y, target))
    return total


def last_two_blocks(model: ViT, at: Passed, y: Tensor, rule: Rule, at_point: AtPoint,
                    target: Target | None = None) -> Tensor:
    """Σ_k w_k over the path a_k·A_{L−1} of what `last_block` sums behind it."""
    return sum(w * last_block(model, behind, y, rule, at_point, target)
               for behind, w in through_block(model, at, rule))


def block_before(model: ViT, at: Passed, y: Tensor, rule: Rule, at_point: AtPoint,
                 target: Target | None = None) -> Tensor:
    """Σ_k w_k over the path a_k·A_{L−1} of what `at_point` makes of C, the last block as it is."""
    return sum(w * at_point(contributions(model, behind, None, y, target))
               for behind, w in through_block(model, at, rule))


def through_block(model: ViT, at: Passed, rule: Rule) -> Iterator[tuple[Passed, Tensor]]:
    """The pass behind its next block, at each point of that block's path, and the point's weight."""
    end = model.passes.own_attention(at)
    for a, w in rule:
        yield model.passes.through(at, scaled(a, end)), w


def scaled(a: Tensor, attention: Iterable[Tensor]) -> list[Tensor]:
    """A point of attention's path, where a graph begins."""
    return [(a * A).detach().requires_grad_() for A in attention]


def contributions(model: ViT, at: Passed, attention: list[Tensor] | None, y: Tensor,
                  target: Target | None) -> list[Tensor]:
    """Each block's C, [P, N, N], of a pass that ends with `attention` in the last block (None: its own).

    Of the last block there may be the first rows alone: the others are zero.
    """
    logits, A = model.passes.finish(at, attention)
    in_single = torch.promote_types(at.x.dtype, torch.float32)        # sums, where attention is in half
    G = torch.autograd.grad(class_or_target(logits, y, target).sum(), A, retain_graph=True)
    C = [0] * len(model.blocks)
    for a, g, b in zip(A, G, model.block_of, strict=True):            # parallel parts are more heads
        C[b] = C[b] + g.mul_(a.detach()).relu_().sum(1, dtype=in_single).div_(model.heads[b])
    return C


def stacked(C: Sequence[Tensor]) -> Tensor:
    """Each block's C as one tensor that can be averaged, [P, blocks, N·N]; rows that are missing are zero."""
    N = C[0].shape[-1]
    return torch.stack([torch.nn.functional.pad(c, (0, 0, 0, N - c.shape[-2])).flatten(-2) for c in C], -2)


def unstacked(C: Tensor) -> list[Tensor]:
    """[..., P, blocks, N·N] -> each block's C, [..., P, N, N]."""
    N = round(C.shape[-1] ** 0.5)
    return list(C.unflatten(-1, (N, N)).unbind(-3))


def plain_run(model: ViT, x: Tensor, y: Tensor,
              target: Target | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Every block's attention and its gradient, A and G: [P, heads, N, N] each."""
    with model.casting(x), torch.enable_grad():
        logits, A = model.passes.plain(x)
        G = torch.autograd.grad(class_or_target(logits, y, target).sum(), A)
    return by_block(model, [a.detach() for a in A]), by_block(model, G)


def by_block(model: ViT, matrices: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of a block's parallel parts as more heads of that block."""
    return [torch.cat([m for m, block in zip(matrices, model.block_of, strict=True) if block == b], 1)
            for b in range(len(model.blocks))]


def gradients_along_input(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> list[Tensor]:
    """max(0, G) averaged over heads and over the input's path, of each block: [..., B, N, N]."""
    total = 0
    for points, owner, w in input_points(x, options.input_rule(x).average(), options.batch_size):
        _, G = plain_run(model, points, y[owner], options.target)
        C = stacked([g.relu().mean(1) for g in G])
        total = add_rows(total, C * w[..., None, None], owner, len(x))
    return unstacked(total)


# ---------------------------------------------------------------------------------------------- rollout

def gradient_rollout(model: ViT, C: Sequence[Tensor], normalise: bool = True) -> Tensor:
    """R = Π_b rownorm(C_b + I), later blocks from the left; its row that is read, as a map [..., P, h, w].

    Only that row is carried through the product. It is the class token's; where the head does not read that,
    the mean of the patches' rows. C: of each block [..., P, N, N], or its first rows where others are zero.
    """
    with torch.autocast(C[0].device.type, enabled=False):
        row = model.start(C[-1]).expand(*C[-1].shape[:-2], -1)                       # [..., P, N]
        for c in reversed(C):
            some, rest = row[..., :c.shape[-2]], row[..., c.shape[-2]:]
            if normalise:
                some = some / (c.sum(-1) + 1)
            row = torch.cat([some, rest], -1) + (some[..., None, :] @ c)[..., 0, :]
    return row[..., -model.grid[0] * model.grid[1]:].unflatten(-1, model.grid)
