"""Quicker copies of a network. Whoever takes one compares it with the network first."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .cut import Hooked
from .fast_cpu import with_token_linears


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of the network's structure that shares its frozen weights."""
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    memo |= {id(b): b.detach() for b in network.buffers()}
    return copy.deepcopy(network, memo).eval()


def quick_copy(whole: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose batch norms are folded into their convolutions, whose weights lie channels last, and whose
    linear layers of tokens are quick ones (ConvNeXt's)."""
    whole = frozen_copy(whole)
    parents = {child: (parent, name) for parent in whole.modules() for name, child in parent.named_children()}
    for conv, norm in foldable(whole, x):
        for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, getattr(norm, "act", nn.Identity()))):
            parent, name = parents[old]                           # timm's batch norms activate too
            setattr(parent, name, new)
    return with_token_linears(whole).to(memory_format=torch.channels_last)


def foldable(whole: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each batch norm with the convolution whose very output it reads,
    where both are plain and called once."""
    calls: dict[nn.Module, list] = {}
    plain = [part for part in whole.modules() if not part._forward_hooks and not part._forward_pre_hooks and (
        type(part) is nn.Conv2d or isinstance(part, nn.BatchNorm2d) and part.running_mean is not None)]

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls.setdefault(module, []).append((inputs[0], output))

    with torch.no_grad(), Hooked(dict.fromkeys(plain, note)):
        whole(x[:1])
    once = {module: seen[0] for module, seen in calls.items() if len(seen) == 1}
    made = {id(output): conv for conv, (_, output) in once.items() if isinstance(conv, nn.Conv2d)}
    return [(made[id(read)], norm) for norm, (read, _) in once.items()
            if isinstance(norm, nn.BatchNorm2d) and id(read) in made]


def half_copy(whole: nn.Module) -> nn.Module:
    """A copy that computes in bfloat16;
    a batch norm that could not be folded keeps float32, as its variances need it."""
    whole = copy.deepcopy(whole)
    for part in whole.modules():
        if not isinstance(part, _BatchNorm):
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.to(torch.bfloat16), requires_grad=False))
    return whole
