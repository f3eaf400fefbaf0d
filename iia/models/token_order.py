"""Whether a transformer's tokens lie as the picture's patches do, in each of its blocks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .calls import Left, answering, first_tensor
from .recorder import Recorder, by_heads
from .snapshot import Snapshot


@torch.no_grad()
def in_place(whole: Snapshot, first: nn.Module, tokens: int, grid: tuple[int, int]) -> bool:
    """Whether a change of a cell of the picture changes its own patch most, of what the first block reads."""
    (h, w), (H, W) = grid, whole.probe.shape[-2:]
    cells = [(0, w - 1), (h - 1, 0), (h // 2, w // 3), (h // 3, w // 2)]
    x = whole.probe[:1].repeat(1 + len(cells), 1, 1, 1)
    for picture, (i, j) in zip(x[1:], cells):
        picture[:, i * H // h:(i + 1) * H // h, j * W // w:(j + 1) * W // w].mul_(-2).add_(1)
    read = torch.cat([batch_first(tokens_into(whole, first, rows), tokens)
                      for rows in x.split(1 if whole.alone else len(x))])
    change = (read[1:] - read[:1])[:, -h * w:].abs().sum(2)                            # [cells, patches]
    told = [row.argmax() == i * w + j for row, (i, j) in zip(change, cells) if row.any()]
    return sum(told) >= len(told) - 1


def tokens_into(whole: Snapshot, block: nn.Module, x: Tensor) -> Tensor:
    """What the block reads, [B, N, D] or [N, B, D]: the network runs until it comes there."""
    def leave(call: Callable, *args: object, **kwargs: object) -> None:
        raise Left(first_tensor((*args, *kwargs.values())))

    with answering({block: leave}):
        try:
            return whole(x)
        except Left as left:
            return left.args[0]


def batch_first(read: Tensor, tokens: int) -> Tensor:
    """What a block reads, [B, N, D] or [N, B, D], as the former."""
    return read if read.shape[1] == tokens else read.transpose(0, 1)


@torch.no_grad()
def in_order(whole: Snapshot, blocks: list[nn.Module], reads: list[Tensor], matrices: list[Tensor],
             grid: tuple[int, int]) -> bool:
    """Whether every block has its tokens, and its attention, in the order of the first block.

    Each block reads some patches negated. Where it keeps the order, their rows of attention over the other
    tokens change most, and so does what the next block reads of them. Attention that does not change at all,
    as with queries of zeros, tells nothing.

    Args:
        reads, matrices: what each block read in a pass of the probe, [B, N, D] or [N, B, D], and all its
            attention, [B, heads, N, N].
    """
    tokens, patches = matrices[0].shape[-1], grid[0] * grid[1]
    reads, matrices = [batch_first(read, tokens)[-1] for read in reads], [A[-1] for A in matrices]
    few, passes = max(1, patches // 16), max(1, 256 // patches)
    some, hits = torch.randperm(patches, generator=torch.Generator().manual_seed(0)), []
    for turned in (some + tokens - patches).split(few)[:passes]:
        changes = changes_of(whole, blocks, reads, matrices, turned)
        if len(changes) != len(reads) - 1 + len(matrices):
            return False                          # a block was left out, or its attention did not show
        changes = torch.stack(changes)[:, -patches:].cpu()
        most = changes.topk(few).indices + tokens - patches
        found = torch.isin(most, turned).float().mean(1)              # of each block's reading or attention
        hits.append(found.masked_fill(~changes.any(1), 1))
    return bool((torch.stack(hits).mean(0) >= 0.75).all())


def changes_of(whole: Snapshot, blocks: list[nn.Module], reads: list[Tensor], matrices: list[Tensor],
               turned: Tensor) -> list[Tensor]:
    """How much each token [N] of every attention, and of what every block but the first reads, changes where
    each block is given `reads` [N, D] with the tokens `turned` negated."""
    changes, left, tokens = [], list(matrices), len(reads[0])

    def give(number: int, call: Callable, *args: object, **kwargs: object) -> object:
        own = first_tensor((*args, *kwargs.values()))
        if number:
            changes.append((batch_first(own, tokens)[0] - reads[number]).abs().sum(1))
        given = own.clone()
        batch_first(given, tokens)[0] = reads[number]
        batch_first(given, tokens)[0, turned] *= -1
        args, kwargs = tree_map(lambda leaf: given if leaf is own else leaf, (args, kwargs))
        return call(*args, **kwargs)

    def see(A: Tensor) -> Tensor:
        matrix = by_heads(A, 1)
        if left and matrix is not None and matrix.shape[-1] == tokens:
            change = over_others(matrix[0], turned) - over_others(left.pop(0), turned)
            changes.append(change.abs().sum((0, 2)))
        return A

    with Recorder(see), answering({block: partial(give, k) for k, block in enumerate(blocks)}):
        whole(whole.probe[-1:])
    return changes


def over_others(A: Tensor, turned: Tensor) -> Tensor:
    """Each token's attention [heads, N, N] over all but the tokens turned, [heads, N, others]."""
    kept = A[..., ~torch.isin(torch.arange(A.shape[-1]), turned)]
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-30)
