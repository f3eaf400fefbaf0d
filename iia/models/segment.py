"""A part of a network, from one layer to another."""

from collections import deque
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from .calls import Call, Left, answering, logits_of, with_first
from .layers import Layer
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
            self.waiting = [(one.name, partial(one.shapes.filled, two.shapes))
                            for one, two in zip(ones, twos) if two in before(own, twos)]
        elif own is not None:
            self.waiting = [(start.name, None)] * start.call

    def forward(self, u: Tensor, instead: dict[nn.Module, Callable] | None = None) -> Tensor:
        """`instead`: what modules behind the layer compute instead, as `answering` has it."""
        return self.whole.by_rows(lambda rows: self._run(rows, instead or {}), u)

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
        modules = {module for module, _ in waiting} | ({stop} if self.stop else set())
        with answering({module: partial(answer, module) for module in modules} | instead):
            try:
                logits = logits_of(self.whole.network(x))
            except Left as left:
                return self.stop.to_grid(left.args[0], self.shape[-2] / self.shape[-1])
        if waiting or self.stop:
            raise RuntimeError("the pass took another way than the one that was traced")
        return logits


def before(own: Call, calls: list[Call]) -> list[Call]:
    """The calls that need not be made where `own` is answered, and `own`: the outermost that end no later."""
    around, call = [None], own.parent
    while call is not None:
        around.append(call)
        call = call.parent
    return [call for call in calls if call.end <= own.end and call.parent in around]
