"""Attention recorded and replaced where a pass computes it, whatever network it is of (METHOD.md, section 6)."""

import contextlib
import math
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import UserError
from .cut import Left
from .proof import same
from .snapshot import ONE_AT_A_TIME, Snapshot

PREFIX = 32      # the most tokens before the patches: of classes, of distillation, registers


class NotAViT(UserError):
    """The network has no attention over patches that can be recorded and replaced; perhaps it is a CNN."""


class Recorder(TorchFunctionMode):
    """Hands every attention matrix after softmax to `see`, in this thread, and goes on with what `see` returns.

    Fused attention is written out; an explicit softmax over the last of three or more dimensions counts as one.
    torch's own quick ways around both are not taken while such a mode is on.
    """

    def __init__(self, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs, name = kwargs or {}, getattr(func, "__name__", None)
        if name == "scaled_dot_product_attention":
            return self.attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:                        # what it calls is seen too
                return written_out(*args, **kwargs)
        output = func(*args, **kwargs)
        if name != "softmax" or output.ndim < 3:
            return output
        return self.see(output) if kwargs.get("dim", args[-1]) in (-1, output.ndim - 1) else output

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:
        """torch's scaled_dot_product_attention, without its dropout: networks are in eval mode."""
        if enable_gqa:
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self.see(scores.softmax(-1)) @ value


# torch's function, but for its first question, whether a mode should do it all.
written_out = types.FunctionType(F.multi_head_attention_forward.__code__, vars(F) | {"has_torch_function": lambda _: False},
                                 argdefs=F.multi_head_attention_forward.__defaults__)


def by_heads(A: Tensor, pictures: int) -> Tensor | None:
    """An attention matrix as [B, heads, N, N]; None where it is not between all tokens of each picture."""
    per_picture = len(A) == pictures or A.ndim == 3 and len(A) % pictures == 0
    return A.reshape(pictures, -1, *A.shape[-2:]) if per_picture and A.shape[-1] == A.shape[-2] else None


# --------------------------------------------------------------------------------- what is a ViT

@dataclass
class Found:
    """A network's attention over patches.

    blocks: the modules that hold it, in their order. block_of: of each attention matrix of a pass, its block's number.
    heads: of each block. grid: (h, w) of the patches. read: which of the N tokens the logits read behind the last block.
    """
    blocks: list[nn.Module]
    block_of: list[int]
    heads: list[int]
    grid: tuple[int, int]
    read: list[bool]


@dataclass
class Call:
    """One attention matrix of a pass, [B, heads, N, N] or None, and each module around it with the tensor that it read."""
    A: Tensor | None
    around: list[tuple[nn.Module, Tensor | None]]


def find(whole: Snapshot) -> Found:
    """The attention over patches, as a pass of the probe shows it.

    Raises:
        NotAViT: there is none, or the pass in which it is written out gives other logits.
    """
    x, around, calls, grids = whole.probe, [], [], []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        around.append((module, first_tensor(args, kwargs)))

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        around.pop()
        if isinstance(module, nn.Conv2d) and not calls:
            grids.append(tuple(output.shape[-2:]))

    def see(A: Tensor) -> Tensor:
        own = by_heads(A, len(x))
        own = own if own is None else own.detach().requires_grad_()
        calls.append(Call(own, list(around)))
        return A if own is None else own.reshape(A.shape)

    modules = list(whole.network.modules())
    with ONE_AT_A_TIME, torch.enable_grad(), Recorder(see), contextlib.ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        logits = whole(x)
    sizes = [0 if call.A is None else call.A.shape[-1] for call in calls]
    main = list(takewhile(lambda size: size == sizes[0] > 1, sizes))
    if len(main) < 2 or any(size > 1 for size in sizes[len(main):]):
        raise NotAViT(f"{whole.name} shows no attention between all its patches in {'every' if calls else 'any'} block")
    tokens, calls = main[0], calls[:len(main)]
    if not same(logits.detach(), whole.logits):
        raise NotAViT(f"{whole.name} computes something else when its attention is written out")
    blocks, block_of = blocks_of(calls, tokens)
    if len(blocks) < 2:
        raise NotAViT(f"{whole.name} has attention, but no row of blocks, each with attention of its own over tokens")
    grid = grid_of(tokens, grids, tuple(x.shape[-2:]))
    if grid is None or not in_place(whole, blocks[0], tokens, grid):
        raise NotAViT(f"{whole.name} has attention between {tokens} tokens that do not lie as the picture's patches do")
    ends = [call.A for call, block in zip(calls, block_of) if block == len(blocks) - 1]
    weights = torch.arange(logits.shape[1], device=x.device).cos() + 2           # so that no sum over classes is constant
    rows = torch.cat(torch.autograd.grad((logits * weights).sum(), ends), 1).abs().amax((0, 1, 3))
    heads = [sum(call.A.shape[1] for call, own in zip(calls, block_of) if own == block) for block in range(len(blocks))]
    return Found(blocks, block_of, heads, grid, (rows > 0).tolist())


def blocks_of(calls: list[Call], tokens: int) -> tuple[list[nn.Module], list[int]]:
    """The outermost modules with one attention each, and each call's block. Those that read the very same tensor are
    parallel: one block. No blocks where a module attends twice, or reads no tokens [B, N, D] or [N, B, D]."""
    held = [module for call in calls for module, _ in call.around]
    block_of, before, blocks = [], None, []
    for call in calls:
        own = next(((module, read) for module, read in call.around if held.count(module) == 1), None)
        if own is None or own[1] is None or own[1].ndim != 3 or tokens not in own[1].shape[:2]:
            return [], []
        block_of.append(block_of[-1] + (own[1] is not before) if block_of else 0)
        before = own[1]
    for block in range(block_of[-1] + 1):
        size, call = block_of.count(block), calls[block_of.index(block)]
        blocks.append(next((module for module, _ in call.around if held.count(module) == size), None))
    return ([], []) if None in blocks else (blocks, block_of)


def grid_of(tokens: int, grids: list[tuple[int, int]], size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w): the last convolution's before the blocks that leaves at most PREFIX other tokens, else of the picture's shape."""
    H, W = size
    for patches in range(tokens, max(1, tokens - PREFIX - 1), -1):
        h = max(1, round((patches * H / W) ** 0.5))
        w = patches // h
        if h * w == patches and abs(h * W - w * H) < max(H, W):
            grids = [(h, w), *grids] if not any(0 <= tokens - a * b <= PREFIX for a, b in grids[:1]) else grids
            break
    return next(((h, w) for h, w in reversed(grids) if 0 <= tokens - h * w <= PREFIX and h * w > 1), None)


@torch.no_grad()
def in_place(whole: Snapshot, first: nn.Module, tokens: int, grid: tuple[int, int]) -> bool:
    """Whether a change of a cell of the picture changes its own patch most, of the tokens that the first block reads."""
    (h, w), (H, W) = grid, whole.probe.shape[-2:]
    cells = [(0, w - 1), (h - 1, 0), (h // 2, w // 3), (h // 3, w // 2)]
    x = whole.probe[:1].repeat(1 + len(cells), 1, 1, 1)
    for picture, (i, j) in zip(x[1:], cells):
        picture[:, i * H // h:(i + 1) * H // h, j * W // w:(j + 1) * W // w].mul_(-2).add_(1)
    read = tokens_into(whole, first, x)
    read = read if read.shape[1] == tokens else read.transpose(0, 1)
    change = (read[1:] - read[:1])[:, -h * w:].abs().sum(2)                            # [cells, patches]
    told = [row.argmax() == i * w + j for row, (i, j) in zip(change, cells) if row.any()]
    return sum(told) >= len(told) - 1


def tokens_into(whole: Snapshot, block: nn.Module, x: Tensor) -> Tensor:
    """What the block reads, [B, N, D]: the network runs until it comes there."""
    found: list[Tensor] = []

    def leave(*args: object, **kwargs: object) -> None:
        found.append(first_tensor(args, kwargs))
        raise Left

    with contextlib.suppress(Left), forwards({block: leave}):
        whole(x)
    return found[0]


def first_tensor(args: tuple, kwargs: dict) -> Tensor | None:
    return next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)


# --------------------------------------------------------------------------------- passes

@dataclass
class Passed:
    """A pass that has come through `blocks` blocks.

    recorded: their attention [B, heads, N, N], in the graph of `kept`, their outputs. put: what takes the place of
    attention where the pass is not gone on with, but made anew.
    """
    x: Tensor
    blocks: int
    recorded: list[Tensor] = field(default_factory=list)
    kept: Sequence = ()
    put: dict[int, Tensor] = field(default_factory=dict)


class AnyPass:
    """Passes of any network: it runs whole, but blocks that it has come through answer what they answered.

    Where that is not the network's answer (`replays` False) they run again, each time.
    The graph begins at the first block's attention: nothing before it has a gradient.
    """

    replays = True

    def __init__(self, whole: Snapshot, blocks: Sequence[nn.Module], block_of: list[int], tokens: int) -> None:
        self.whole, self.blocks, self.block_of, self.tokens = whole, blocks, block_of, tokens

    @torch.no_grad()
    def is_right(self) -> bool:
        """Whether passes that are left and gone on with give the network's logits."""
        try:
            return all(same(found, wanted) for found, wanted in self.proofs())
        except Exception:                     # blocks that are such in name only, whatever they raise
            return False

    def proofs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What must be the same."""
        logits, kept, A = self.run(self.whole.probe)
        yield logits, self.whole.logits
        at = Passed(self.whole.probe, len(self.blocks) - 2, kept=kept[:-2])
        for _ in range(2):                    # the second finds what the first wrote to
            last = self.own(behind := self.through(at, self.own(at)))
            yield last[-1], A[-1][:, :, :last[-1].shape[2]]
            yield self.finish(behind, last)[0], self.whole.logits

    def record(self, x: Tensor, stop: int) -> Passed:
        """Pictures through the first `stop` blocks."""
        _, kept, seen = self.run(x, stop=stop) if self.replays and stop else (None, [], [])
        return Passed(x, stop, seen, kept)

    @torch.no_grad()
    def own(self, at: Passed) -> list[Tensor]:
        """The next block's own attention, a matrix [B, heads, N, N] for each parallel part."""
        return self.run(at.x, at.kept, at.put, at.blocks + 1)[2][-self.block_of.count(at.blocks):]

    def through(self, at: Passed, attention: list[Tensor]) -> Passed:
        """One block further, `attention` in place of the block's own."""
        put = at.put | dict(enumerate(attention, self.block_of.index(at.blocks)))
        if not self.replays:
            return Passed(at.x, at.blocks + 1, put=put)
        _, kept, seen = self.run(at.x, at.kept, put, at.blocks + 1)
        return Passed(at.x, at.blocks + 1, at.recorded + seen, kept)

    def finish(self, at: Passed, attention: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits with `attention` in place of the next block's own, and all matrices that they come from."""
        logits, _, seen = self.run(at.x, at.kept, at.put | dict(enumerate(attention, self.block_of.index(at.blocks))))
        return logits, at.recorded + seen

    def plain(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and all attention matrices."""
        logits, _, seen = self.run(x)
        return logits, seen

    def run(self, x: Tensor, kept: Sequence = (), put: dict | None = None, stop: int | None = None) -> tuple:
        """A pass from behind the blocks that are kept, through `stop` blocks or to the logits.

        Returns:
            The logits or None, the outputs of all blocks so far, and the attention seen.
        """
        outputs, seen, put = list(kept), [], put or {}
        first = sum(block < len(outputs) for block in self.block_of)

        def see(A: Tensor) -> Tensor:
            own, number = by_heads(A, len(x)), first + len(seen)
            if own is None or own.shape[-1] != self.tokens or number >= len(self.block_of):
                return A
            own = put.get(number, own)
            seen.append(own if own.requires_grad or not torch.is_grad_enabled() else own.detach().requires_grad_())
            return seen[-1].reshape(A.shape)

        def answer(number: int, forward: Callable) -> Callable:
            def run(*args: object, **kwargs: object) -> object:
                if number < len(kept):
                    return own_memory(kept[number])
                output = forward(*args, **kwargs)
                outputs.append(own_memory(output))
                if number + 1 == stop:
                    raise Left
                return output
            return run

        logits = None
        with forwards({block: answer(k, block.forward) for k, block in enumerate(self.blocks)}), Recorder(see):
            with contextlib.suppress(Left):
                logits = self.whole(x)
        wanted = sum(block < (len(self.blocks) if stop is None else stop) for block in self.block_of) - first
        if len(seen) != wanted:
            raise UserError(f"{self.whole.name}: {wanted - len(seen)} of {wanted} attention matrices did not show.")
        return logits, outputs, seen


def own_memory(output: object) -> object:
    """What a block returned, so that nobody writes to it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)


@contextlib.contextmanager
def forwards(instead: dict[nn.Module, Callable]) -> Iterator[None]:
    """The modules compute by other functions within the block, for one thread at a time."""
    with ONE_AT_A_TIME:
        before = {module: vars(module).get("forward") for module in instead}
        try:
            for module, function in instead.items():
                vars(module)["forward"] = function
            yield
        finally:
            for module, function in before.items():
                vars(module).pop("forward") if function is None else vars(module).update(forward=function)
