"""Quick linear layers of tokens: the same numbers as PyTorch's, and only where they are meant to be quick."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from iia.models.fast_cpu import FEW, TokenLinear, with_token_linears


def quick_one(plain: nn.Linear) -> nn.Linear:
    return with_token_linears(copy.deepcopy(plain))


@pytest.fixture
def convolutions(monkeypatch) -> list:
    """One entry for each convolution that is computed."""
    calls, real = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *inputs: calls.append(inputs[0].shape) or real(*inputs))
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, FEW, 6), (1, FEW // 2, 2, 6)])
def test_values_and_gradients_are_those_of_a_linear_layer(shape, bias, convolutions):
    torch.manual_seed(0)
    plain = nn.Linear(6, 5, bias=bias).requires_grad_(False)
    tokens, other = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 5)
    found, wanted = quick_one(plain)(tokens), plain(tokens)
    assert len(convolutions) == 1 and found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    g = [torch.autograd.grad((out * other).sum(), tokens)[0] for out in (found, wanted)]
    torch.testing.assert_close(*g, rtol=1e-5, atol=1e-6)


def test_tokens_that_lie_otherwise_in_memory():
    plain, tokens = nn.Linear(6, 5), torch.randn(6, FEW, 2).transpose(0, 2)
    torch.testing.assert_close(quick_one(plain)(tokens), plain(tokens), rtol=1e-5, atol=1e-6)


def test_few_tokens_rows_of_features_other_types_and_autocast_take_the_plain_way(convolutions):
    plain = nn.Linear(6, 5)
    quick = quick_one(plain)
    for tokens in (torch.randn(1, FEW - 1, 6), torch.randn(FEW, 6)):
        assert torch.equal(quick(tokens), plain(tokens))
    tokens = torch.randn(1, FEW, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quick(tokens), plain(tokens)) and quick(tokens).dtype == torch.bfloat16
    assert torch.equal(quick_one(plain.double())(tokens.double()), plain(tokens.double()))
    assert convolutions == []


def test_every_plain_linear_layer_becomes_quick_and_keeps_its_weights_and_hooks():
    net = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.GELU(), nn.Linear(6, 5, bias=False)))
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    nn.utils.spectral_norm(net[1][1]).eval()
    weights, tokens = [p.data_ptr() for p in net.parameters()], torch.randn(1, FEW, 6)
    wanted = net(tokens)
    assert with_token_linears(net) is net and type(net[0]) is type(net[1][1]) is TokenLinear
    assert [p.data_ptr() for p in net.parameters()] == weights
    torch.testing.assert_close(net(tokens), wanted, rtol=1e-5, atol=1e-6)
