"""The copy of a network that is explained, so that the user's own is never touched."""

import copy

from torch import nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of the network's structure, in eval mode, that shares its weights without gradients.

    The modules are new, so their flags and hooks can be changed freely; the tensors are the same
    memory, detached, so that a gradient of weights is never computed.
    """
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    memo |= {id(b): b.detach() for b in network.buffers()}
    return copy.deepcopy(network, memo).eval()
