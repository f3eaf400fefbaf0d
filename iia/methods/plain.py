"""What the libraries of the comparison methods need and do not do themselves.

They hook modules and know them by their type, so that a network must be made of plain modules, each
writing to memory of its own and called once. The copies made here are; the user's network is never touched.
"""

import contextlib
import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..models.copying import frozen_copy


@contextlib.contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """`owner.name` is `value` within the block: for what a library does not let us set."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy that shares the weights, in which nothing is in place and timm's norms are plain ones."""
    network = frozen_copy(network)
    for module in list(network.modules()):
        if hasattr(module, "inplace"):
            module.inplace = False
    return swapped(network, {m: unfused(m) for m in network.modules() if isinstance(m, BatchNormAct2d)})


ACTIVATIONS = {F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, Tensor.relu: nn.ReLU,
               Tensor.relu_: nn.ReLU, F.relu6: nn.ReLU6, F.gelu: nn.GELU, F.silu: nn.SiLU,
               F.hardswish: nn.Hardswish, F.mish: nn.Mish, torch.sigmoid: nn.Sigmoid,
               Tensor.sigmoid: nn.Sigmoid, torch.tanh: nn.Tanh, Tensor.tanh: nn.Tanh}


class Functions(TorchFunctionMode):
    """Hands every activation that is called as a function to `answer` (a module for it, its input)."""

    def __init__(self, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (),
                           kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        if func not in ACTIVATIONS:
            return func(*args, **kwargs)
        settings = {name: value for name, value in kwargs.items() if name not in ("inplace", "input")}
        return self.answer(ACTIVATIONS[func](**settings), args[0] if args else kwargs["input"])


class AsModules(nn.Module):
    """A network whose activations are all modules, also those that it calls as functions: hooks see modules
    only. A module that calls one function is seen twice, which gives the same."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.network, self.activations = network, nn.ModuleList()
        with torch.no_grad(), Functions(lambda made, x: self.activations.append(made)[-1](x)):
            network(example)

    def forward(self, u: Tensor) -> Tensor:
        turns = iter(self.activations)

        def answer(made: nn.Module, x: Tensor) -> Tensor:
            module = next(turns)
            return (module if x.requires_grad else made)(x)      # nothing before the tail is to be seen

        with Functions(answer):
            return self.network(u)


def separate_calls(network: nn.Module, kinds: Iterable[type[nn.Module]], example: Tensor) -> nn.Module:
    """Give every call of a module of these kinds a module and an input of its own, in place.

    DeepLift keeps what it saw of a call at the module, but torchvision's residual blocks call one ReLU two
    or three times. And it hooks a module's input, where the hook of the ReLU that made it comes first, so
    that the rule of a pooling behind a ReLU would be lost. The calls are counted on the example.
    """
    calls: Counter[nn.Module] = Counter()
    hooks = [module.register_forward_pre_hook(lambda called, _: calls.update([called]))
             for module in network.modules() if type(module) in kinds]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return swapped(network, {module: Calls(module, count) for module, count in calls.items()})


class Calls(nn.Module):
    """Stands for a module that its network calls `count` times: copies of it answer in turn."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(count))
        self.turns = itertools.cycle(self.copies)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.turns)(x.view_as(x))        # the same values, a place of its own for hooks


def unfused(norm: BatchNormAct2d) -> nn.Sequential:
    """timm's batch norm with an activation in it as two modules, sharing its weights."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(plain, name, getattr(norm, name))
    return nn.Sequential(plain, norm.drop, norm.act)


def swapped(network: nn.Module, instead: dict[nn.Module, nn.Module]) -> nn.Module:
    """The network with some of its modules replaced, wherever they stand, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):       # named_children() would skip a second name
            if child in instead:
                setattr(parent, name, instead[child])
    return network
