"""Copies of a network: the one that is explained, so that the user's own is never touched, and quicker ones."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .linear import with_token_linears


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of the network's structure, in eval mode, that shares its weights without gradients.

    The modules are new, so their flags and hooks can be changed freely; the tensors are the same
    memory, detached, so that a gradient of weights is never computed.
    """
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    memo |= {id(b): b.detach() for b in network.buffers()}
    return copy.deepcopy(network, memo).eval()


def moment(network: nn.Module) -> tuple[int, ...]:
    """What differs when a weight has been written to in between, through whatever shares it."""
    return tuple(0 if values.is_inference() else values._version for values in (*network.parameters(), *network.buffers()))


def quick_copy(stage: nn.Module) -> nn.Module:
    """A frozen copy of a stage that computes the same, to rounding, faster: its batch norms are folded into its
    convolutions, whose weights lie channels last, and its linear layers of tokens (ConvNeXt's) are quick ones."""
    stage = frozen_copy(stage)
    for parent in list(stage.modules()):
        fold_children(parent)
    return with_token_linears(stage).to(memory_format=torch.channels_last)


def half_copy(stage: nn.Module) -> nn.Module:
    """A copy of a stage that computes in bfloat16.

    A batch norm that could not be folded keeps float32 numbers, as its variances need them.
    """
    stage = copy.deepcopy(stage)
    for part in stage.modules():
        if not isinstance(part, _BatchNorm):
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.to(torch.bfloat16), requires_grad=False))
    return stage


def fold_children(parent: nn.Module) -> None:
    """Fold each batch norm among a module's children into the convolution before it.

    In the families of `iia.models.cnn`, a batch norm that follows a convolution in the list reads that convolution.
    """
    children = list(parent.named_children())
    for (name, conv), (next_name, norm) in zip(children, children[1:]):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, next_name, getattr(norm, "act", nn.Identity()))     # timm's batch norms activate too
