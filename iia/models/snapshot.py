"""The network that is explained: a copy of the user's, whole as it was, that is seen to compute the same."""

import contextlib
import copy
import functools
import threading
import types
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from .proof import HALF_TOLERANCE, TOLERANCE, difference, probe_pictures

HOOKS = ("_forward_pre_hooks", "_forward_hooks")
ONE_AT_A_TIME = threading.RLock()          # tracing and hooks would disturb the passes of other threads


class Snapshot(nn.Module):
    """A network with weights of its own, in eval mode: pictures [N, C, H, W] -> logits [N, classes].

    `network` is the copy. `probe` are the random pictures on which everything is proven, `logits` what the
    user's own network says of them. In bfloat16 and half networks the copy computes in float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.network(x))

    @torch.no_grad()
    def sized(self, shape: tuple[int, int, int]) -> "Snapshot":
        """The same snapshot with a probe of pictures (C, H, W)."""
        other = copy.copy(self)
        other.probe = probe_pictures(shape, next(p for p in self.parameters() if p.is_floating_point()))
        other.logits = other(other.probe)
        return other


class OneByOne(nn.Module):
    """Runs a network, whose rows would otherwise mix (a batch norm without statistics), a row at a time."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    @classmethod
    def of(cls, whole: Snapshot) -> "OneByOne":
        """A snapshot that runs a row at a time."""
        made = cls(whole)
        made.network, made.probe, made.name = whole.network, whole.probe, whole.name
        made.logits = made(made.probe)
        return made

    @torch.no_grad()
    def sized(self, shape: tuple[int, int, int]) -> "OneByOne":
        """As a snapshot's."""
        return OneByOne.of(self.whole.sized(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.whole(row) for row in x.split(1)])


def logits_of(output: object) -> Tensor:
    """The logits [N, classes] in what a network returned: a tensor, or an object with `.logits`."""
    found = output if isinstance(output, (Tensor, fx.Proxy)) else getattr(output, "logits", None)
    if found is None and isinstance(output, dict):
        found = output.get("logits")
    if found is None:
        raise UserError(f"the network returns {type(output).__name__}, which is no tensor and has no logits; "
                        "wrap it in a module that returns the logits [N, classes].")
    return found


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, torch.compile or peft's wrapper, which compute the same."""
    while True:
        inner = next((name for name in ("module", "_orig_mod") if type(network).__name__ in
                      ("DataParallel", "DistributedDataParallel", "OptimizedModule")
                      and hasattr(network, name)), None)
        if inner is None and hasattr(network, "get_base_model") and hasattr(network, "peft_config"):
            network = network.get_base_model()                  # with its adapters in it
            continue
        if inner is None:
            return network
        if any(getattr(network, kind) for kind in HOOKS):
            raise UserError(f"{type(network).__name__} has hooks of its own; give the network inside, "
                            f".{inner}, with them.")
        network = getattr(network, inner)


def take(network: nn.Module, shapes: list[tuple[int, int, int]],
         says: tuple[int, int] | None = None) -> Snapshot:
    """A snapshot of the network, proven on random pictures of the first of `shapes` (C, H, W) that it reads.

    Raises:
        UserError: it reads none of them, cannot be copied, or the copy computes something else.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"a network is a torch.nn.Module, not {type(network).__name__}.")
    network = unwrapped(network)
    name = type(network).__name__
    with ONE_AT_A_TIME, torch.no_grad():
        whole, hooks = Snapshot(detached_copy(network)), {}
        like = next((p for p in whole.parameters() if p.is_floating_point()), torch.empty(0))
        for module, kind, key in all_hooks(whole.network):
            hooks[module, kind, key] = getattr(module, kind)[key] = Witness(getattr(module, kind)[key])
        probe, logits = first_pass(whole, shapes, like, says, name)
        if hooks:
            run_on_extremes(whole, probe)
        idle = [place for place, witness in hooks.items() if not witness.acts]
        for (module, kind, key), witness in hooks.items():
            getattr(module, kind)[key] = witness.hook
        muted = remove(whole.network, idle) if idle else []
        if idle and difference(whole(probe), logits) > 0:     # a recorder that writes behind autograd's back
            for module, kind, key, hook in muted:
                getattr(module, kind)[key] = hook
            idle = []
        places = [(names(whole.network)[module], kind, key) for module, kind, key in idle]
        own = users_logits(network, probe, places)
        half = like.dtype in (torch.bfloat16, torch.float16)
        if half:
            whole.float()
            probe = probe.float()
            logits = whole(probe)
        if logits.ndim != 2 or not logits.is_floating_point():
            raise UserError(f"{name} returns {list(logits.shape)} of {logits.dtype} for {len(probe)} "
                            "pictures, no logits [N, classes]; wrap it in a module that returns these.")
        if not difference(logits, own) <= (2 * HALF_TOLERANCE if half else TOLERANCE):
            raise UserError(f"{name} cannot be explained: a copy of it computes something else, or it "
                            f"answers differently each time (by {difference(logits, own):.2g} of its "
                            "largest logit).")
        whole.probe, whole.logits, whole.name = probe, logits if half else own, name
        if difference(OneByOne(whole)(probe), logits) > TOLERANCE:
            return OneByOne.of(whole)
    return whole


def first_pass(whole: Snapshot, shapes: list, like: Tensor, says: tuple[int, int] | None,
               name: str) -> tuple[Tensor, Tensor]:
    """The probe of the first shape that the network reads, and its logits."""
    why = None
    for shape in shapes:
        probe = probe_pictures(shape, like)
        try:
            return probe, whole(probe)
        except UserError:
            raise
        except Exception as error:          # whatever a network raises for pictures that it does not read
            why = why or error
    said = (str(why).splitlines() or [type(why).__name__])[0][:150]
    own = f", {says[0]} x {says[1]} by its own word" if says else ""
    raise UserError(f"{name} does not read pictures of {' x '.join(map(str, shapes[0]))} "
                    f"({said.rstrip('.')}). Give pictures that it reads{own}, or image_size and in_chans "
                    "to iia.wrap.") from why


def run_on_extremes(whole: Snapshot, probe: Tensor) -> None:
    """Let hooks that act on some pictures only (a clamp, a guard) show it:
    on black and on very strong ones."""
    for strength in (0, 10, -10):
        with contextlib.suppress(Exception):         # a network need not read them
            whole(strength * probe)


def detached_copy(network: nn.Module) -> nn.Module:
    """A deep copy in eval mode: weights of its own without gradients, hooks with closures of their own.

    Hooks on gradients are left out: they change what is asked, not the network.
    """
    memo: dict[int, object] = {}
    for module in network.modules():
        for tensor in [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]:
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                values = tensor.detach().clone()
                frozen = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(values, requires_grad=False) if frozen else values
        for kind in HOOKS:
            memo |= {id(hook): hook for hook in getattr(module, kind).values()}
        memo |= {id(getattr(module, kind)): {} for kind in ("_backward_hooks", "_backward_pre_hooks")}
    try:
        copied = copy.deepcopy(network, memo).eval()
    except Exception as why:                # locks, files, generators: whatever a module may hold
        said = (str(why).splitlines() or [""])[0][:120]
        raise UserError(f"{type(network).__name__} cannot be copied ({type(why).__name__}: {said}); "
                        "take what cannot be copied out of it.") from why
    memo |= {id(module): module for module in copied.modules()}
    for hook_id in [key for key, value in memo.items()
                    if key == id(value) and not isinstance(value, nn.Module)]:
        del memo[hook_id]                   # the hooks, which stood for themselves until now
    for module in copied.modules():
        for kind in HOOKS:
            hooks = getattr(module, kind)
            for key in hooks:
                hooks[key] = own_copy(hooks[key], memo)
        for name, value in vars(module).items():
            if isinstance(value, (types.FunctionType, types.MethodType)):    # a forward of this object's own
                vars(module)[name] = own_copy(value, memo)
    return copied


def own_copy(value: object, memo: dict) -> object:
    """A copy of a hook, or of what it knows, so that it records nowhere;
    parts that cannot be copied are shared."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        made = types.FunctionType(value.__code__, dict(value.__globals__), value.__name__, value.__defaults__,
                                  tuple(types.CellType() for _ in value.__closure__ or ()))
        made.__kwdefaults__ = value.__kwdefaults__
        memo[id(value)] = made              # before what it knows, which may be itself
        for cell, old in zip(made.__closure__ or (), value.__closure__ or ()):
            cell.cell_contents = own_copy(old.cell_contents, memo)
        for name in set(value.__code__.co_names) & set(value.__globals__):
            known = value.__globals__[name]
            if not isinstance(known, (types.ModuleType, types.FunctionType, type)):
                made.__globals__[name] = own_copy(known, memo)
        return made
    if isinstance(value, types.MethodType):
        return types.MethodType(own_copy(value.__func__, memo), own_copy(value.__self__, memo))
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


def all_hooks(network: nn.Module) -> list[tuple[nn.Module, str, int]]:
    return [(module, kind, key) for module in network.modules() for kind in HOOKS
            for key in getattr(module, kind)]


def names(network: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in network.named_modules()}


def remove(network: nn.Module, places: list) -> list:
    return [(module, kind, key, getattr(module, kind).pop(key)) for module, kind, key in places]


def users_logits(network: nn.Module, probe: Tensor, idle: list[tuple[str, str, int]]) -> Tensor:
    """What the user's own network says of the probe, in eval mode, its recorders silent;
    it is left as it was."""
    training = [module for module in network.modules() if module.training]
    places = [(network.get_submodule(name), kind, key) for name, kind, key in idle]
    before = {(module, kind): dict(getattr(module, kind)) for module, kind, _ in places}
    try:
        for module in training:
            module.training = False
        remove(network, places)
        return logits_of(network(probe)).detach().clone()
    finally:
        for module in training:
            module.training = True
        for (module, kind), hooks in before.items():
            getattr(module, kind).clear()
            getattr(module, kind).update(hooks)
