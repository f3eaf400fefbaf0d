"""A copy of a network that shares nothing with it, not even what its hooks write to."""

import contextlib
import copy
import functools
import types
import weakref
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import rephrased

FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
Place = tuple[str, str, int]               # of a hook: its module's name, before or after the call, its key


def detached_copy(network: nn.Module) -> nn.Module:
    """A deep copy in eval mode: weights of its own without gradients, hooks with closures of their own.

    Hooks on gradients are left out: they change what is asked, not the network.
    """
    memo: dict[int, object] = {}
    # locks, files, lazy weights: whatever a module may hold
    with rephrased(f"{type(network).__name__} cannot be copied", "; take what cannot be copied out of it."):
        for module in network.modules():
            for tensor in tree_leaves(vars(module)):           # also those kept in lists of its own
                if isinstance(tensor, Tensor) and id(tensor) not in memo:
                    values = tensor.detach().clone()
                    frozen = isinstance(tensor, nn.Parameter)
                    memo[id(tensor)] = nn.Parameter(values, requires_grad=False) if frozen else values
            for kind in HOOKS:
                memo |= {id(hook): hook for hook in getattr(module, kind).values()}
            memo |= {id(getattr(module, kind)): {} for kind in ("_backward_hooks", "_backward_pre_hooks")}
        copied = copy.deepcopy(network, memo)
        if not set(network.modules()).isdisjoint(copied.modules()):
            raise TypeError("a part of it is its own copy")
        copied.eval()
    memo |= {id(module): module for module in copied.modules()}
    for hook_id in [key for key, value in memo.items()
                    if key == id(value) and not isinstance(value, nn.Module)]:
        del memo[hook_id]                   # the hooks, which stood for themselves until now
    for module in copied.modules():
        for kind in HOOKS:
            hooks = getattr(module, kind)
            for key in hooks:
                hooks[key] = own_copy(hooks[key], memo)
    own_functions(copied, memo)
    return copied


def own_functions(copied: nn.Module, memo: dict) -> None:
    """Give a deep copy functions with closures of its own, and weak references to its own modules.

    deepcopy shares both with the original. They are looked for in all that it has copied.

    Args:
        memo: the deepcopy's.
    """
    copies = {id(made): made for old, made in memo.items()
              if old != id(made) and not isinstance(made, FUNCTIONS)}
    memo |= copies
    seen, waiting = set(), [vars(module) for module in copied.modules()]
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        for key, value in list(held.items() if isinstance(held, dict) else enumerate(held)):
            if isinstance(value, FUNCTIONS):
                held[key] = own_copy(value, memo)
            elif isinstance(value, weakref.ref):
                known = memo.get(id(value()))
                held[key] = value if known is None else weakref.ref(known)
            elif id(value) in copies:
                inside = value if isinstance(value, (dict, list)) else getattr(value, "__dict__", {})
                waiting.append(inside)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of the network's structure that shares its frozen weights."""
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    memo |= {id(b): b.detach() for b in network.buffers()}
    copied = copy.deepcopy(network, memo).eval()
    own_functions(copied, memo)
    return copied


def own_copy(value: object, memo: dict) -> object:
    """A copy of a hook, or of what it knows, so that it records nowhere;
    parts that cannot be copied are shared."""
    if isinstance(value, types.FunctionType):
        value = vars(value).get("_torchdynamo_orig_callable", value)         # what torch.compile was given
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        made = types.FunctionType(value.__code__, dict(value.__globals__), value.__name__, None,
                                  tuple(types.CellType() for _ in value.__closure__ or ()))
        made.__dict__.update(value.__dict__)
        memo[id(value)] = made              # before what it knows, which may be itself
        made.__defaults__ = value.__defaults__ and tuple(own_copy(v, memo) for v in value.__defaults__)
        made.__kwdefaults__ = value.__kwdefaults__ and {k: own_copy(v, memo)
                                                        for k, v in value.__kwdefaults__.items()}
        for cell, old in zip(made.__closure__ or (), value.__closure__ or ()):
            cell.cell_contents = own_copy(old.cell_contents, memo)
        for name in set(value.__code__.co_names) & set(value.__globals__):
            known = value.__globals__[name]
            if not isinstance(known, (types.ModuleType, types.FunctionType, type)):
                made.__globals__[name] = own_copy(known, memo)
        return made
    if isinstance(value, types.MethodType):
        of_torch = getattr(value.__func__, "__module__", None) == nn.Module.__module__
        return types.MethodType(value.__func__ if of_torch else own_copy(value.__func__, memo),
                                own_copy(value.__self__, memo))
    if isinstance(value, functools.partial):
        return functools.partial(own_copy(value.func, memo), *(own_copy(part, memo) for part in value.args),
                                 **{name: own_copy(part, memo) for name, part in value.keywords.items()})
    if isinstance(value, types.BuiltinMethodType) \
            and not isinstance(value.__self__, (types.ModuleType, type(None))):
        return getattr(own_copy(value.__self__, memo), value.__name__)          # [].append
    trial = dict(memo)
    tensors = [leaf for leaf in tree_leaves([value, getattr(value, "__dict__", None)])
               if isinstance(leaf, Tensor)]
    trial |= {id(tensor): tensor.detach().clone() for tensor in tensors if id(tensor) not in trial}
    try:
        made = copy.deepcopy(value, trial)
        memo.update(trial)
        return made
    except Exception:                       # a lock, a file
        if not hasattr(value, "__dict__") or isinstance(value, type):
            return value
    memo[id(value)] = made = copy.copy(value)
    vars(made).update({name: own_copy(part, memo) for name, part in vars(value).items()})
    return made


# ------------------------------------------------------------------------------- hooks that only record

class Witness:
    """A hook, and whether it ever changed anything: returned a value, or wrote to what it was given."""

    def __init__(self, hook: Callable) -> None:
        self.hook, self.acts = hook, type(hook).__module__.startswith("torch.nn.utils")  # these write weights

    def __call__(self, module: nn.Module, *given: object) -> object:
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        before = [tensor._version for tensor in tensors]
        answer = self.hook(module, *given)
        self.acts |= answer is not None or before != [tensor._version for tensor in tensors]
        return answer


@contextlib.contextmanager
def watched(network: nn.Module) -> Iterator[dict[Place, Witness]]:
    """While the block runs, a witness stands for each hook."""
    hooks = {}
    for name, module in network.named_modules():
        for kind in HOOKS:
            for key, hook in getattr(module, kind).items():
                hooks[name, kind, key] = getattr(module, kind)[key] = Witness(hook)
    try:
        yield hooks
    finally:
        for (name, kind, key), witness in hooks.items():
            getattr(network.get_submodule(name), kind)[key] = witness.hook


def remove(network: nn.Module, places: list[Place]) -> list[tuple[dict, dict]]:
    """Take hooks away. Returns what `restore` wants: each dictionary of hooks with what it held."""
    changed = [getattr(network.get_submodule(name), kind) for name, kind, _ in places]
    before = [(hooks, dict(hooks)) for hooks in changed]
    for hooks, (_, _, key) in zip(changed, places, strict=True):
        del hooks[key]
    return before


def restore(before: list[tuple[dict, dict]]) -> None:
    for hooks, held in before:
        hooks.clear()
        hooks.update(held)


@contextlib.contextmanager
def left_alone(network: nn.Module) -> Iterator[None]:
    """After the block, the network's attributes, lists and buffers are what they were (counters, caches).

    What has not changed is not touched, since another thread may be using the network.
    """
    held = [part for module in network.modules() for part in (vars(module), *vars(module).values())
            if isinstance(part, (dict, list))]
    before = [(part, copy.copy(part)) for part in held]
    tensors = [(leaf, leaf._version, leaf.detach().clone()) for leaf in tree_leaves(held)
               if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) and not leaf.is_inference()]
    try:
        yield
    finally:
        for part, old in before:
            if isinstance(part, list):
                part[:] = old
                continue
            for key in part.keys() - old.keys():
                del part[key]
            for key, value in old.items():
                if key not in part or part[key] is not value:
                    part[key] = value
        for tensor, version, old in tensors:
            if tensor._version != version:
                tensor.copy_(old)
