"""Quicker copies of a network. Whoever takes one compares it with the network first."""

import copy
from collections import Counter

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .calls import Call, forget
from .copying import HOOKS, frozen_copy
from .fast_cpu import with_token_linears
from .snapshot import Snapshot

PLAIN_NORMS = (nn.BatchNorm2d.forward, BatchNormAct2d.forward)


def quick_copy(whole: Snapshot) -> nn.Module:
    """A copy whose batch norms are folded into their convolutions, whose weights lie channels last, and whose
    linear layers of tokens are quick ones (ConvNeXt's)."""
    pairs = foldable(whole.network, whole.calls)
    forget(whole.calls)
    whole = frozen_copy(whole)
    for conv, norm in pairs:
        old = whole.network.get_submodule(norm)
        put(whole.network, conv, fuse_conv_bn_eval(whole.network.get_submodule(conv), old))
        put(whole.network, norm, getattr(old, "act", nn.Identity()))      # timm's batch norms activate too
    return with_token_linears(whole).to(memory_format=torch.channels_last)


def channels_last(x: Tensor) -> Tensor:
    """Pictures or layers as the quick copy reads them fastest; rows of features stay as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def foldable(network: nn.Module, calls: list[Call]) -> list[tuple[str, str]]:
    """The names of each convolution and of the batch norm that reads its very output, if both are plain and
    called once."""
    counts = Counter(call.name for call in calls)
    modules = {call: network.get_submodule(call.name) for call in calls if counts[call.name] == 1}
    plain = {call: part for call, part in modules.items() if not any(getattr(part, kind) for kind in HOOKS)}
    made = {id(call.u): call.name for call, part in plain.items() if type(part) is nn.Conv2d}
    return [(made[id(call.read)], call.name) for call, part in plain.items()
            if type(part).forward in PLAIN_NORMS and part.running_mean is not None and id(call.read) in made]


def half_copy(whole: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in bfloat16 or half;
    a batch norm that could not be folded keeps float32, as its variances need it."""
    whole = copy.deepcopy(whole)
    for part in whole.modules():
        if not isinstance(part, _BatchNorm):
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.to(dtype), requires_grad=False))
    return whole
