"""Copies of a network whose weights are randomised, part by part from the logits down to the picture
(METHOD.md, section 8)."""

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import UserError
from . import wrap
from .cnn import CNN
from .copying import detached_copy
from .vit import ViT

LARGEST = 1000            # more parts than any network has


def randomised(model: CNN | ViT, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """For each of `parts`, its name, and the network with it and all parts before it randomised.

    It is one copy that changes from step to step, on the CPU; the same seed draws the same on every device.
    """
    network = detached_copy(model.whole.network)
    for number, (part, modules) in enumerate(parts(model).items()):
        network.cpu()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(LARGEST * seed + number)   # GPUs' are their users'
            for name in modules:
                redraw(network.get_submodule(name))
        yield part, network


@torch.no_grad()
def redraw(module: nn.Module) -> None:
    """Draw a module's own weights anew (not its children's) by its `reset_parameters`: as at the start of a
    training. A batch norm forgets its statistics.

    What that leaves as it was, and all where there is none (class tokens, position embeddings), comes from a
    normal distribution with the tensor's own mean and deviation; so a single number stays.
    """
    before = {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
    for name, p in module.named_parameters(recurse=False):
        if torch.equal(p, before[name]):
            p.copy_(p.mean() + p.std(correction=0) * torch.randn_like(p))


def rewrapped(network: nn.Module, model: CNN | ViT) -> CNN | ViT:
    """A randomised network as something that is explained as `model` is: copied and proven anew.

    Raises:
        UserError: its logits are not finite, or it cannot be explained for another reason.
    """
    made = wrap(network.to(model.device), model.name, model.mean, model.std, model.precision, model.size,
                model.channels, model.labels)
    if type(made) is not type(model):
        raise UserError(f"with these weights it is explained as a {type(made).__name__}")
    return made


def parts(model: CNN | ViT) -> dict[str, list[str]]:
    """What is randomised at each step, from the logits down: {part: names of the modules with its weights}.

    First come, one by one, the modules behind the last stage or block; then the stages (`model.stage_names`)
    or blocks, each with what is computed since the one before it; those without weights are left out. What
    precedes a ViT's blocks comes last, and with it all that modules around stages or blocks hold themselves.
    """
    network, names = model.whole.network, bounds(model)
    end = {call.name: call.end for call in model.whole.calls}
    bottom = names[0] if isinstance(model, CNN) else "patch embedding"
    stages: dict[str, list[str]] = {name: [] for name in [*reversed(names), bottom]}
    heads: dict[str, list[str]] = {}
    for owner, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is None and not hasattr(module, "running_mean"):
            continue
        called = owner                         # a module whose weights another reads is never called itself
        while called and called not in end:
            called = called.rpartition(".")[0]
        within = next((name for name in names if f"{owner}.".startswith(f"{name}.")), None)
        before = sum(end[name] < end.get(called, -1) for name in names)
        if within:
            stages[within].append(owner)
        elif before == 0 or any(f"{name}.".startswith(f"{called}." if called else "") for name in names):
            stages[bottom].append(owner)
        elif before == len(names):
            heads.setdefault(called, []).append(owner)
        else:
            stages[names[before]].append(owner)
    found = dict(sorted(heads.items(), key=lambda item: -end[item[0]])) | stages
    return {name: modules for name, modules in found.items() if modules}


def bounds(model: CNN | ViT) -> list[str]:
    """The names of a CNN's stages or a ViT's blocks, in the order of their computation."""
    if isinstance(model, CNN):
        return model.stage_names
    names = {module: name for name, module in model.network.named_modules()}
    return [names[block] for block in model.blocks]
