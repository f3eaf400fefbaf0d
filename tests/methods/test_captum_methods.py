"""Integrated Gradients and LIFT-CAM against their formulas and their completeness."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from .small_networks import FAMILIES, network

import iia
from iia.options import IIAOptions
from iia.maps import finish
from iia.methods import captum_methods


def test_ig_is_complete_in_the_probability(toy, x, y, monkeypatch):
    monkeypatch.setattr(captum_methods, "grey", lambda attributions: attributions.sum(1))
    maps = captum_methods.ig(toy, x, y, IIAOptions(layer=5))
    probability = lambda pictures: toy(pictures).softmax(1)[torch.arange(2), y]
    difference = probability(x) - probability(torch.zeros_like(x))
    torch.testing.assert_close(maps.sum((1, 2)), difference, atol=1e-6, rtol=0.01)


def test_ig_has_25_steps_of_gauss_legendre(toy, x, y, monkeypatch):
    """Compared so closely that 24 or 26 steps, or another rule, would show."""
    monkeypatch.setattr(captum_methods, "grey", lambda attributions: attributions.sum(1))

    def by_hand(steps):
        total = 0
        for node, weight in zip(*np.polynomial.legendre.leggauss(steps)):
            v = ((node + 1) / 2 * x).requires_grad_()
            probability = toy(v).softmax(1)[torch.arange(2), y].sum()
            total = total + weight / 2 * (x * torch.autograd.grad(probability, v)[0]).sum(1)
        return total

    found = captum_methods.ig(toy, x, y, IIAOptions(layer=5))
    off = {n: ((found - by_hand(n)).abs().max() / found.abs().max()).item() for n in (24, 25, 26)}
    assert off[25] < 1e-7 and min(off[24], off[26]) > 1e-5


def test_ig_is_the_mean_gradient_along_the_path_in_grey(toy, x, y):
    gradients, steps = 0, 400
    for step in range(steps):
        v = ((step + 0.5) / steps * x).requires_grad_()
        gradients += torch.autograd.grad(toy(v).softmax(1)[torch.arange(2), y].sum(), v)[0] / steps
    grey = (x * gradients).abs().sum(1)
    highest = torch.quantile(grey.flatten(1), 0.99, dim=1).view(2, 1, 1)
    want = finish(grey.minimum(highest), (16, 16), "bicubic")
    torch.testing.assert_close(iia.explain(toy, x, y, "ig"), want, atol=0.02, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_ig_does_not_depend_on_the_batch_size(toy, x, y, batch_size):
    found = iia.explain(toy, x, y, "ig", batch_size=batch_size)
    torch.testing.assert_close(found, iia.explain(toy, x, y, "ig"))


def test_lift_cam_is_its_formula(toy, x, y):
    """The tail of layer 5 is W2 ReLU(W1 mean(u) + b1) + b2; its one ReLU passes ΔReLU/Δz."""
    u, (first, _, second) = toy.features(x, 5), toy.network.classifier
    z, z0 = u.mean((2, 3)) @ first.weight.T + first.bias, first.bias
    slope = (z.relu() - z0.relu()) / (z - z0)                                    # [B, 8]
    weights = ((second.weight[y] * slope) @ first.weight) * u.mean((2, 3))   # [B, 6], contributions, summed
    want = finish((weights[:, :, None, None] * u).sum(1).relu(), (16, 16), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    torch.testing.assert_close(iia.explain(toy, x, y, "lift-cam", layer=5), want)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"convnext"}))         # which has layer norms
def test_contributions_are_complete_at_every_cut(family, x, y):
    """Σ contributions = f_y(u) − f_y(0): no ReLU, ReLU6 or pooling is overlooked or met twice."""
    model = iia.wrap(network(family), image_size=32).double()
    x = x.repeat(1, 1, 2, 2)
    for cut in range(1, len(model.stage_names) + 1):
        u, tail = model.features(x, cut), model.tail(cut)
        plain = captum_methods.separate_modules(tail, u[:1])
        with torch.no_grad():
            torch.testing.assert_close(plain(u), tail(u))
            difference = (tail(u) - tail(torch.zeros_like(u)))[torch.arange(2), y]
        found = captum_methods.contributions(plain, u, y)
        assert found.shape == u.shape
        torch.testing.assert_close(found.sum((1, 2, 3)), difference, msg=f"layer {cut}")


def test_captum_has_its_own_rules_back(toy, x, y):
    from captum.attr._core import deep_lift
    before = dict(deep_lift.SUPPORTED_NON_LINEAR)
    iia.explain(toy, x, y, "lift-cam")
    with pytest.raises(Exception):
        iia.explain(toy, x, torch.tensor([3, 99]), "lift-cam")
    assert deep_lift.SUPPORTED_NON_LINEAR == before


def test_captum_has_its_own_rules_back_after_threads(toy, x, y):
    """Two threads, the second of which starts while the first has captum's table replaced."""
    from captum.attr._core import deep_lift
    before = deep_lift.SUPPORTED_NON_LINEAR
    with ThreadPoolExecutor(4) as threads:
        maps = list(threads.map(lambda _: iia.explain(toy, x, y, "lift-cam"), range(24)))
    assert deep_lift.SUPPORTED_NON_LINEAR is before
    assert all(torch.equal(one, maps[0]) for one in maps)


def test_a_library_that_is_missing_is_named(toy, x, y, monkeypatch):
    monkeypatch.delitem(sys.modules, "iia.methods.captum_methods")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(iia.UserError, match="pip install captum"):
        iia.explain(toy, x, y, "lift-cam")


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid,
                                  nn.Hardtanh, nn.Mish, nn.Sigmoid, nn.Tanh])
def test_contributions_are_complete_behind_any_activation(kind, x):
    """A plain gradient in its place would not add up to f_y(u) − f_y(0)."""
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Conv2d(3, 4, 3), kind(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 5))
    tail = tail.double()
    y = torch.tensor([1, 4])
    plain = captum_methods.separate_modules(tail, x[:1])
    with torch.no_grad():
        difference = (tail(3 * x) - tail(0 * x))[torch.arange(2), y]
    found = captum_methods.contributions(plain, 3 * x, y).sum((1, 2, 3))
    torch.testing.assert_close(found, difference, rtol=1e-3, atol=1e-4)
