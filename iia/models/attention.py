"""Passes whose attention is recorded and replaced, of any network (METHOD.md, section 6)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import UserError, lacks_memory
from .calls import Left, answering
from .proof import same
from .recorder import Recorder, by_heads
from .snapshot import Snapshot


@dataclass
class Passed:
    """A pass that has come through `blocks` blocks.

    recorded: their attention [B, heads, N, N], in the graph of `kept`, their outputs. put: what takes the
    place of attention where the pass is rerun from the start.
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

    def __init__(self, whole: Snapshot, blocks: Sequence[nn.Module], block_of: list[int],
                 tokens: int) -> None:
        self.whole, self.blocks, self.block_of, self.tokens = whole, blocks, block_of, tokens

    @torch.no_grad()
    def is_right(self) -> bool:
        """Whether passes that are left and gone on with give the network's logits."""
        try:
            return all(same(found, wanted) for found, wanted in self.proofs())
        except Exception as why:              # blocks that are such in name only, whatever they raise
            if lacks_memory(why):
                raise
            return False

    def proofs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What must be the same."""
        rows = slice(-1 if self.whole.alone else -2, None)
        probe, wanted = self.whole.probe[rows], self.whole.logits[rows]
        logits, kept, A = self.run(probe)
        yield logits, wanted
        at = Passed(probe, len(self.blocks) - 2, kept=kept[:-2])
        for _ in range(2):                    # the second finds what the first wrote to
            last = self.own_attention(behind := self.through(at, self.own_attention(at)))
            yield last[-1], A[-1][:, :, :last[-1].shape[2]]
            yield self.finish(behind, last)[0], wanted

    def record(self, x: Tensor, stop: int) -> Passed:
        """Pictures through the first `stop` blocks."""
        _, kept, seen = self.run(x, stop=stop) if self.replays and stop else (None, [], [])
        return Passed(x, stop, seen, kept)

    @torch.no_grad()
    def own_attention(self, at: Passed) -> list[Tensor]:
        """The next block's own attention, a matrix [B, heads, N, N] for each parallel part."""
        return self.run(at.x, at.kept, at.put, at.blocks + 1)[2][-self.block_of.count(at.blocks):]

    def through(self, at: Passed, attention: list[Tensor]) -> Passed:
        """One block further, `attention` in place of the block's own."""
        put = at.put | dict(enumerate(attention, self.block_of.index(at.blocks)))
        if not self.replays:
            return Passed(at.x, at.blocks + 1, put=put)
        _, kept, seen = self.run(at.x, at.kept, put, at.blocks + 1)
        return Passed(at.x, at.blocks + 1, at.recorded + seen, kept)

    def finish(self, at: Passed, attention: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """The logits with `attention` in place of the next block's own (None: its own, in the graph), and all
        matrices behind them."""
        put = at.put | dict(enumerate(attention or [], self.block_of.index(at.blocks)))
        logits, _, seen = self.run(at.x, at.kept, put)
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
            matrix, number = by_heads(A, len(x)), first + len(seen)
            if matrix is None or matrix.shape[-1] != self.tokens or number >= len(self.block_of):
                return A
            matrix = put.get(number, matrix)
            starts = torch.is_grad_enabled() and not matrix.requires_grad
            seen.append(matrix.detach().requires_grad_() if starts else matrix)
            return seen[-1].reshape(A.shape)

        def answer(number: int, call: Callable, *args: object, **kwargs: object) -> object:
            if number < len(kept):
                return own_memory(kept[number])
            if number != len(outputs):
                raise UserError(f"{self.whole.name} leaves out a block for such a picture, which has no map.")
            output = call(*args, **kwargs)
            outputs.append(own_memory(output))
            if number + 1 == stop:
                raise Left
            return output

        logits = None
        with answering({block: partial(answer, k) for k, block in enumerate(self.blocks)}), Recorder(see):
            with contextlib.suppress(Left):
                logits = self.whole(x)
        wanted = sum(block < (len(self.blocks) if stop is None else stop) for block in self.block_of) - first
        if len(seen) != wanted:
            raise UserError(f"{self.whole.name}: {wanted - len(seen)} of {wanted} attention matrices "
                            "did not show.")
        return logits, outputs, seen


def own_memory(output: object) -> object:
    """A copy of what a block returned, so that later in-place writes cannot change it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
