"""The copies that the libraries are given, and what is replaced in the libraries."""

from types import SimpleNamespace

import pytest
import torch
from .small_networks import network
from timm.layers import BatchNormAct2d
from torch import nn

from iia.methods.plain import plain_copy, replaced, separate_calls


def test_a_plain_copy_is_the_same_function_of_the_same_weights(family, x):
    net = network(family).double()
    in_place = [getattr(module, "inplace", None) for module in net.modules()]
    plain = plain_copy(net)
    assert not any(getattr(module, "inplace", False) or isinstance(module, BatchNormAct2d)
                   for module in plain.modules())
    assert [getattr(module, "inplace", None) for module in net.modules()] == in_place
    assert {t.data_ptr() for t in plain.parameters()} == {t.data_ptr() for t in net.parameters()}
    torch.testing.assert_close(plain(x.repeat(1, 1, 2, 2)), net(x.repeat(1, 1, 2, 2)))


def test_a_module_of_two_names_and_three_calls_answers_with_three():
    relu = nn.ReLU()
    net = separate_calls(nn.Sequential(relu, nn.Sequential(relu), nn.Tanh(), relu), [nn.ReLU], torch.ones(1))
    called = []
    for module in net.modules():
        module.register_forward_hook(
            lambda module, *_: called.append(module) if type(module) is nn.ReLU else None)
    for _ in range(2):                                                     # the second time the same three
        called.clear()
        net(torch.ones(1))
        assert len(called) == len(set(called)) == 3


def test_what_is_replaced_comes_back_after_an_exception():
    owner = SimpleNamespace(value=1)
    with pytest.raises(ZeroDivisionError), replaced(owner, "value", 2):
        assert owner.value == 2
        1 / 0
    assert owner.value == 1


def test_a_norm_keeps_its_own_epsilon(x):
    norm = BatchNormAct2d(3, eps=0.3).eval().double()
    torch.testing.assert_close(plain_copy(nn.Sequential(norm))(x), norm(x))
