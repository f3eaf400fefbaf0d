"""The attention over patches that a network has, as one of its passes shows it (METHOD.md, section 6)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn

from ..errors import UserError
from .calls import answering, first_tensor
from .proof import same
from .recorder import Recorder, by_heads
from .snapshot import Snapshot
from .token_order import in_order, in_place

PREFIX = 32      # the most tokens before the patches: of classes, of distillation, registers


class NotAViT(UserError):
    """The network has no attention over patches that can be recorded and replaced; perhaps it is a CNN."""


@dataclass
class Found:
    """A network's attention over patches.

    blocks: the modules that hold it, in order. block_of: the number of the block of each matrix of a pass.
    heads: of each block. grid: (h, w) of the patches. read: which of the last N tokens the logits read.
    """
    blocks: list[nn.Module]
    block_of: list[int]
    heads: list[int]
    grid: tuple[int, int]
    read: list[bool]


@dataclass
class Matrix:
    """An attention matrix, [B, heads, N, N] or None, and the modules around it with what they read and, where
    that may be tokens, a copy of it; whether it depends on one before it."""
    A: Tensor | None
    around: list[tuple[nn.Module, Tensor | None, Tensor | None]]
    follows: bool


def find(whole: Snapshot) -> Found:
    """The attention over patches, as a pass of the probe shows it.

    Raises:
        NotAViT: there is none, or the pass in which it is written out gives other logits.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in whole.network.modules()):
        raise NotAViT(f"{whole.name} has parts scripted by torch.jit, in which attention does not show")
    x, around, calls, grids = whole.probe[-1:] if whole.alone else whole.probe, [], [], []

    def inside(module: nn.Module, call: Callable, *args: object, **kwargs: object) -> object:
        around.append((module, first_tensor((*args, *kwargs.values()))))
        try:
            output = call(*args, **kwargs)
        finally:
            around.pop()
        if isinstance(module, nn.Conv2d) and not calls:
            grids.append(tuple(output.shape[-2:]))
        return output

    def see(A: Tensor) -> Tensor:
        matrix = by_heads(A, len(x))
        matrix = matrix if matrix is None else matrix.detach().requires_grad_()
        calls.append(Matrix(matrix, [(*each, tokens_copied(each[1])) for each in around], A.requires_grad))
        return A if matrix is None else matrix.reshape(A.shape)

    answers = {module: partial(inside, module) for module in whole.network.modules()}
    with torch.enable_grad(), Recorder(see), answering(answers):
        logits = whole(x)
    sizes = [0 if call.A is None else call.A.shape[-1] for call in calls]
    main = list(takewhile(lambda size: size == sizes[0] > 1, sizes))
    if len(main) < 2 or any(size > 1 for size in sizes[len(main):]):
        raise NotAViT(f"{whole.name} shows no attention between all its patches in "
                      f"{'every' if calls else 'any'} block")
    tokens, calls = main[0], calls[:len(main)]
    if not same(logits.detach(), whole.logits[-len(x):]):
        raise NotAViT(f"{whole.name} computes something else when its attention is written out")
    if not all(same(call.A.detach()[-1].sum(0), A) for call, A in zip(calls, whole.attention)):
        raise NotAViT(f"{whole.name} has the attention of several pictures in another order")
    blocks, block_of = blocks_of(calls, tokens)
    if len(blocks) < 2 or not all(call.follows for call, block in zip(calls, block_of) if block):
        raise NotAViT(f"{whole.name} has attention, but no row of blocks, each with its own over tokens")
    grid = grid_of(tokens, grids, tuple(x.shape[-2:]))
    if grid is None or not in_place(whole, blocks[0], tokens, grid):
        raise NotAViT(f"{whole.name} attends between {tokens} tokens that do not lie as the "
                      "picture's patches do")
    reads = [next(copy for module, _, copy in calls[block_of.index(k)].around if module is block)
             for k, block in enumerate(blocks)]
    if not in_order(whole, blocks, reads, [call.A.detach() for call in calls], grid):
        raise NotAViT(f"{whole.name} has its tokens in another order in some of its blocks")
    ends = [call.A for call, block in zip(calls, block_of) if block == len(blocks) - 1]
    weights = torch.arange(logits.shape[1], device=x.device).cos() + 2    # no sum over classes is constant
    rows = torch.cat(torch.autograd.grad((logits * weights).sum(), ends), 1).abs().amax((0, 1, 3))
    heads = [sum(call.A.shape[1] for call, own in zip(calls, block_of) if own == block)
             for block in range(len(blocks))]
    return Found(blocks, block_of, heads, grid, (rows > 0).tolist())


def tokens_copied(read: Tensor | None) -> Tensor | None:
    """A copy, since a block may write to what it reads."""
    return read.detach().clone() if read is not None and read.ndim == 3 else None


def blocks_of(calls: list[Matrix], tokens: int) -> tuple[list[nn.Module], list[int]]:
    """The outermost modules with one attention each, and each matrix's block.

    Those that read the very same tensor are parallel: one block. There are no blocks where a module attends
    twice, or reads no tokens [B, N, D] or [N, B, D].
    """
    held = [module for call in calls for module, *_ in call.around]
    block_of, before, blocks = [], None, []
    for call in calls:
        own = next(((module, read) for module, read, _ in call.around if held.count(module) == 1), None)
        if own is None or own[1] is None or own[1].ndim != 3 or tokens not in own[1].shape[:2]:
            return [], []
        block_of.append(block_of[-1] + (own[1] is not before) if block_of else 0)
        before = own[1]
    for block in range(block_of[-1] + 1):
        size, call = block_of.count(block), calls[block_of.index(block)]
        blocks.append(next((module for module, *_ in call.around if held.count(module) == size), None))
    return ([], []) if None in blocks else (blocks, block_of)


def grid_of(tokens: int, grids: list[tuple[int, int]], size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w): the last convolution's before the blocks that leaves at most PREFIX other tokens, else of the
    picture's shape."""
    H, W = size
    for patches in range(tokens, max(1, tokens - PREFIX - 1), -1):
        h = max(1, round((patches * H / W) ** 0.5))
        w = patches // h
        if h * w == patches and abs(h * W - w * H) < max(H, W):
            if not any(0 <= tokens - a * b <= PREFIX for a, b in grids[:1]):
                grids = [(h, w), *grids]
            break
    return next(((h, w) for h, w in reversed(grids) if 0 <= tokens - h * w <= PREFIX and h * w > 1), None)
