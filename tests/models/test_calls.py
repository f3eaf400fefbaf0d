"""Calls that are answered by something else, for a while."""

import pytest
import torch
from torch import nn

from iia.models.calls import Left, answering


def plus(number):
    return lambda call, x: call(x) + number


def test_answers_lie_around_each_other_and_end_one_by_one():
    module, x = nn.Identity(), torch.ones(2)
    with answering({module: plus(1)}):
        with answering({module: lambda call, x: 10 * call(x)}):
            assert module(x).tolist() == [20, 20]
        assert module(x).tolist() == [2, 2]
    assert module(x).tolist() == [1, 1] and "_call_impl" not in vars(module)


@pytest.mark.parametrize("error", [Left, ValueError])
def test_an_error_ends_them_too_and_hooks_are_part_of_the_call(error):
    module, x = nn.Identity(), torch.ones(2)
    module.register_forward_hook(lambda module, inputs, output: 3 * output)
    with pytest.raises(error), answering({module: plus(1)}):
        assert module(x).tolist() == [4, 4]
        raise error
    assert module(x).tolist() == [3, 3] and "_call_impl" not in vars(module)
