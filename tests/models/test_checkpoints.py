"""Networks that compute parts again in the backward pass, to save memory."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import iia

from ..conftest import toy_vit
from .networks_of_users import picture
from .test_habits import net


def test_a_vit_that_checkpoints_its_blocks():
    network = toy_vit().double()
    plain = iia.explain(copy.deepcopy(network), picture(16), 3, steps=2)
    network.set_grad_checkpointing(True)
    assert torch.equal(iia.explain(network, picture(16), 3, steps=2), plain)
    assert network.grad_checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
def test_parts_that_are_checkpointed_by_the_users_own_code(reentrant):
    """They would be computed again in the backward pass, where no module answers anything else any more."""
    def kept(plain):
        return lambda *args: checkpoint(plain, *args, use_reentrant=reentrant)

    network, wanted = net(), [iia.explain(net(), picture(32), 3, name, steps=2) for name in ("iia", "ig")]
    network.layer, network.mean, network.fc.forward = map(kept, (network.layer, network.mean,
                                                                 network.fc.forward))
    for name, maps in zip(("iia", "ig"), wanted):
        torch.testing.assert_close(iia.explain(network, picture(32), 3, name, steps=2), maps)
    vit = toy_vit().double()
    plain = iia.explain(vit, picture(16), 3, "iia-triple", steps=1)
    for block in vit.blocks:
        block.forward = kept(block.forward)
    torch.testing.assert_close(iia.explain(vit, picture(16), 3, "iia-triple", steps=1), plain)
