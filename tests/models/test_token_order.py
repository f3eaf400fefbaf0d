"""Tokens that do not lie as the picture's patches do, in whichever block, are no map of the picture."""

import pytest
import torch
from torch import nn

import iia
from iia.models import token_order
from iia.models.token_order import over_others

from ..conftest import toy_vit

GRID = torch.arange(16).reshape(4, 4)
ORDERS = {"transposed": GRID.t(), "flipped": GRID.flip(1), "turned": GRID.rot90(),
          "by windows": GRID.reshape(2, 2, 2, 2).transpose(1, 2),
          "shuffled": torch.randperm(16, generator=torch.Generator().manual_seed(3))}


def with_class_token(order):
    return torch.cat([torch.zeros(1, dtype=torch.long), 1 + order.flatten()])


class Permuted(nn.Module):
    """Attention over tokens in another order, put back behind it."""

    def __init__(self, attention, order):
        super().__init__()
        self.attention, self.order = attention, order

    def forward(self, x, **_):
        return self.attention(x[:, self.order])[:, self.order.argsort()]


def before_a_block(network, order):
    network.blocks[2].register_forward_pre_hook(lambda m, inputs: (inputs[0][:, order],))


def behind_a_block(network, order):
    network.blocks[0].register_forward_hook(lambda m, inputs, output: output[:, order])


def around_attention(network, order):
    network.blocks[3].attn = Permuted(network.blocks[3].attn, order)


@pytest.mark.parametrize("place", [before_a_block, behind_a_block, around_attention])
@pytest.mark.parametrize("order", ORDERS)
def test_another_order_in_a_deeper_block_is_refused(order, place):
    network = toy_vit()
    assert len(iia.wrap(network).blocks) == 4
    place(network, with_class_token(ORDERS[order]))
    with pytest.raises(iia.UserError, match="its tokens in another order in some of its blocks"):
        iia.wrap(network)


def test_an_order_that_no_map_depends_on():
    """Behind the last block's attention only the class token matters."""
    network, x = toy_vit().eval(), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = iia.explain(network, x, 3)
    network.blocks[-1].register_forward_hook(
        lambda m, inputs, output: output[:, with_class_token(ORDERS["transposed"])])
    torch.testing.assert_close(iia.explain(network, x, 3), plain, rtol=0, atol=1e-5)


def test_attention_that_depends_on_no_token_has_no_order():
    network = toy_vit()
    torch.nn.init.zeros_(network.blocks[1].attn.qkv.weight[:48])                    # queries and keys
    torch.nn.init.zeros_(network.blocks[1].attn.qkv.bias[:48])
    assert len(iia.wrap(network).blocks) == 4


def test_attention_that_does_not_show_again_is_not_taken_to_be_in_order(monkeypatch):
    seen = token_order.changes_of
    monkeypatch.setattr(token_order, "changes_of", lambda *args: seen(*args)[:-1])
    with pytest.raises(iia.UserError, match="its tokens in another order in some of its blocks"):
        iia.wrap(toy_vit())


def test_attention_over_the_others_tells_of_its_own_token_alone():
    own = torch.tensor([3])
    A = torch.rand(2, 5, 5, dtype=torch.float64).softmax(-1)
    other = A.clone()
    other[..., own] *= 7                                      # what all tokens see in token 3
    other = other / other.sum(-1, keepdim=True)
    torch.testing.assert_close(over_others(other, own), over_others(A, own))
    assert over_others(A, own).shape == (2, 5, 4)
