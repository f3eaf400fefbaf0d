"""The calls of a network's modules, and passes in which some are answered by something else."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import UserError

ONE_AT_A_TIME = threading.RLock()          # answered calls would disturb the passes of other threads


class Left(BaseException):
    """Leaves a forward pass at a layer; no `except Exception` of a network's stops it."""


@contextlib.contextmanager
def answering(answers: dict[nn.Module, Callable]) -> Iterator[None]:
    """While the block runs, calling a module calls answers[module](call, *its arguments).

    `call` is the module itself, with its hooks. One thread at a time.
    """
    with ONE_AT_A_TIME, not_computed_again():
        before = {module: vars(module).get("_call_impl") for module in answers}
        for module, answer in answers.items():
            vars(module)["_call_impl"] = partial(answer, module._call_impl)
        try:
            yield
        finally:
            for module, own in before.items():
                vars(module).pop("_call_impl") if own is None else vars(module).update(_call_impl=own)


@contextlib.contextmanager
def not_computed_again() -> Iterator[None]:
    """While the block runs, torch's checkpoints only run what they are given, which changes no value.

    They would run it again in the backward pass, when no module answers anything else any more.
    """
    torchs = vars(torch.utils.checkpoint)
    own = dict.fromkeys(("_checkpoint_without_reentrant_generator",
                         "_checkpoint_without_reentrant_generator_impl"),
                        lambda *args, **kwargs: (None for _ in range(1)))
    own["CheckpointFunction"] = SimpleNamespace(apply=lambda function, preserve, *args: function(*args))
    before = {name: torchs[name] for name in own if name in torchs}       # as this version of torch has it
    torchs.update({name: own[name] for name in before})
    try:
        yield
    finally:
        torchs.update(before)


@dataclass(eq=False)
class Call:
    """One call of a pass.

    name: its module's. parent: the call around it. end: its place in the order of ends. read: the first
    tensor that it is given. u: the tensor that it hands on. node, version: of u as the call ended.
    shapes: of all that it returned.
    """
    name: str
    parent: "Call | None"
    end: int = -1
    read: Tensor | None = None
    u: Tensor | None = None
    node: object = None
    version: int = 0
    shapes: "Shapes | None" = None


def trace(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Call]]:
    """The logits [N, classes] of pictures x, and all calls of modules below the network, by their ends."""
    inside, ended = [None], []

    def note(name: str, call: Callable, *args: object, **kwargs: object) -> object:
        inside.append(Call(name, inside[-1]))
        try:
            output = call(*args, **kwargs)
        finally:
            own = inside.pop()
        own.read, own.u = first_tensor(args), first_tensor(output)
        own.end, own.shapes = len(ended), Shapes(output)
        if own.u is not None:
            own.node, own.version = own.u.grad_fn, own.u._version
        ended.append(own)
        return output

    named = {module: partial(note, name) for name, module in network.named_modules() if name}
    with answering(named):
        return logits_of(network(x.clone())), ended


def logits_of(output: object) -> Tensor:
    """The logits [N, classes] in what a network returned: a tensor, or an object with `.logits`."""
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if found is None and isinstance(output, dict):
        found = output.get("logits")
    if found is None:
        raise UserError(f"the network returns {type(output).__name__}, which is no tensor and has no logits; "
                        "wrap it in a module that returns the logits [N, classes].")
    return found


def first_tensor(output: object) -> Tensor | None:
    """The tensor that a module hands on: its output, the first of several, or its last hidden state."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    output = getattr(output, "last_hidden_state", output)
    return output if isinstance(output, Tensor) else None


def with_first(output: object, u: Tensor) -> object:
    """What a module returned, with u as the tensor that it hands on."""
    if isinstance(output, (tuple, list)) and output:
        made = (with_first(output[0], u), *output[1:])
        return type(output)(*made) if hasattr(output, "_fields") else type(output)(made)
    if hasattr(output, "last_hidden_state"):
        output.last_hidden_state = u
        return output
    return u


def forget(calls: list[Call]) -> None:
    """Let go of the tensors, whose shapes remain."""
    for call in calls:
        call.read = call.u = call.node = None


class Shapes:
    """What a module returned, without the numbers."""

    def __init__(self, output: object) -> None:
        leaves, self.form = tree_flatten(output)
        self.leaves = [(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf
                       for leaf in leaves]

    def filled(self, double: "Shapes", like: Tensor) -> object:
        """The same output, of zeros, for len(like) pictures; these shapes are for one, `double` for two."""
        return tree_unflatten([self._leaf(one, two, like) if type(one) is tuple else one
                               for one, two in zip(self.leaves, double.leaves, strict=True)], self.form)

    @staticmethod
    def _leaf(one: tuple, two: tuple, like: Tensor) -> Tensor:
        shape = [a if a == b else a * len(like) for a, b in zip(one[0], two[0], strict=True)]
        dtype = like.dtype if one[1].is_floating_point else one[1]
        return torch.zeros((), dtype=dtype, device=like.device).expand(shape)
