"""Fixtures of the comparison methods' tests."""

import pytest
import torch
from .small_networks import network

import iia


@pytest.fixture
def toy():
    return iia.wrap(network("vgg")).double()


@pytest.fixture
def x():
    """Two pictures, [2, 3, 16, 16]."""
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def y():
    return torch.tensor([3, 7])


@pytest.fixture(params=["vgg", "resnet", "densenet", "convnext", "efficientnet"])
def family(request):
    return request.param
