"""A part of a network, from one layer to another."""

from collections import deque
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, first_line, lacks_memory
from .calls import Call, Left, answering, logits_of, with_first
from .layers import Layer
from .proof import same
from .snapshot import Snapshot


class Segment(nn.Module):
    """The part of a network between two layers (None: the pictures, the logits), [N, C, h, w] in and out.

    The network's own forward runs, with u in place of what layer `start` returned. Where it `skips`, the
    calls before that layer are not made and answer zeros of the right shape; else they are made, for a black
    picture. Either way nothing behind the layer may depend on them, which the caller proves.

    Args:
        calls: of a pass of one picture, and of one of two pictures, as `trace` found them.
    """

    def __init__(self, whole: Snapshot, start: Layer | None, stop: Layer | None,
                 calls: tuple[list[Call], list[Call]], skips: bool = True) -> None:
        super().__init__()
        self.whole, self.start, self.stop, self.skips = whole, start, stop, skips
        self.shape = tuple(whole.probe.shape[1:])
        ones, twos = calls
        own = None if start is None else [call for call in twos if call.name == start.name][start.call - 1]
        begin = -1 if own is None else own.end
        self.ends = sum(call.name == stop.name and call.end > begin for call in twos) if stop else 0
        self.waiting: list[tuple[str, Callable | None]] = []
        if own is not None and skips:
            if [call.name for call in ones] != [call.name for call in twos]:
                raise ValueError("one picture takes another way than two")
            skipped = set(skippable(own, twos))
            self.waiting = [(one.name, partial(one.shapes.filled, two.shapes))
                            for one, two in zip(ones, twos) if two in skipped]
        elif own is not None:
            self.waiting = [(start.name, None)] * start.call

    def forward(self, u: Tensor, instead: dict[nn.Module, Callable] | None = None) -> Tensor:
        """`instead`: what modules behind the layer compute instead, as `answering` has it."""
        return self.whole.row_by_row(lambda rows: self._run(rows, instead or {}), u)

    def _run(self, u: Tensor, instead: dict[nn.Module, Callable]) -> Tensor:
        module_of, ends = self.whole.network.get_submodule, []
        waiting = deque((module_of(name), fill) for name, fill in self.waiting)
        stop = module_of(self.stop.name) if self.stop else None

        def answer(module: nn.Module, call: Callable, *args: object, **kwargs: object) -> object:
            if waiting and module is waiting[0][0]:
                fill = waiting[0][1]
                output = call(*args, **kwargs) if fill is None else fill(u)
                waiting.popleft()
                return output if waiting else with_first(output, self.start.from_grid(u).clone())
            output = call(*args, **kwargs)
            if module is stop and not waiting:
                ends.append(module)
                if len(ends) == self.ends:
                    raise Left(output)
            return output

        x = u if self.start is None else u.new_zeros(1, *self.shape).expand(len(u), *self.shape)
        x = x if self.waiting and self.skips else x.clone()                # the network may write to it
        modules = {module for module, _ in waiting} | ({stop} if self.stop else set())
        with answering({module: partial(answer, module) for module in modules} | instead):
            try:
                found, left = logits_of(self.whole.network(x)), self.stop is None
            except Left as stopped:
                found, left = self.stop.to_grid(stopped.args[0], self.shape[-2] / self.shape[-1]), True
        if waiting or not left or len(found) != len(u):
            raise UserError(f"{self.whole.name} takes another way for these {len(u)} pictures than for the "
                            "two of its proof; give a smaller batch_size.")
        return found


def skippable(own: Call, calls: list[Call]) -> list[Call]:
    """The calls that need not be made where `own` is answered, and `own`: the outermost that end no later."""
    around, call = [None], own.parent
    while call is not None:
        around.append(call)
        call = call.parent
    return [call for call in calls if call.end <= own.end and call.parent in around]


def passing(whole: Snapshot, layer: Layer | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures x at a layer (None: themselves), [N, C, h, w], and their logits, by one pass."""
    seen: list[Tensor] = []

    def see(call: Callable, *args: object, **kwargs: object) -> object:
        output = call(*args, **kwargs)
        seen.append(layer.to_grid(output, x.shape[-2] / x.shape[-1]).clone())
        return output

    with answering({whole.network.get_submodule(layer.name): see} if layer else {}):
        logits = whole(x)
    return torch.cat(seen[layer.call - 1::layer.call]) if layer else x, logits


class NoGradient(UserError):
    """A network's logits have no gradient with respect to a layer."""


@torch.enable_grad()
def check_gradient(tail: Segment, u: Tensor) -> None:
    """Raise NoGradient where the logits have no gradient at u."""
    u = u.detach().requires_grad_()
    try:
        torch.autograd.grad(tail(u).sum(), u)
    except (RuntimeError, NotImplementedError) as why:
        if lacks_memory(why):
            raise
        raise NoGradient(f"{tail.whole.name} has no gradient from its logits to "
                         f"{tail.start.name if tail.start else 'its pictures'} ({first_line(why)}); give a "
                         "network in floating point that does not detach or overwrite what its gradient "
                         "needs.") from why


@torch.no_grad()
def by_rows_of(tail: nn.Sequential, head: str, u: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The classes' logits (u, y) -> f_y [N] by their rows of the last linear layer, named `head`.

    None where the tail's logits are not that layer's, which is seen on u: all of them are compared.
    """
    *first, part = tail
    last = part.whole.network.get_submodule(head)

    def rows(u: Tensor, y: Tensor) -> Tensor:
        def of_classes(call: Callable, read: Tensor) -> Tensor:
            f = (read * last.weight[y]).sum(1, keepdim=True)
            return f if last.bias is None else f + last.bias[y, None]

        return part(nn.Sequential(*first)(u), {last: of_classes})[:, 0]

    reads: list[Tensor] = []

    def note(call: Callable, read: Tensor) -> Tensor:
        reads.append(read.clone())
        return call(read)

    try:
        logits = part(nn.Sequential(*first)(u), {last: note})
        y = torch.arange(len(u), device=u.device) % logits.shape[1]
        every = F.linear(reads[-1], last.weight, last.bias)
        right = same(every, logits) and same(rows(u, y)[:, None], logits.gather(1, y[:, None]))
        return rows if right else None
    except Exception:                          # a head that is called in another way
        return None
