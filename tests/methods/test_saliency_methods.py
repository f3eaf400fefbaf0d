"""Blur IG against its formula, Guided IG against the library called directly."""

import numpy as np
import pytest
import torch
from saliency.core import INPUT_OUTPUT_GRADIENTS, GuidedIG, guided_ig
from scipy.ndimage import gaussian_filter

import iia
from iia.maps import finish
from iia.methods import saliency_methods


def slope(model, v, target):
    """∂softmax_y/∂v of one picture [3, H, W], by autograd."""
    v = torch.as_tensor(v).requires_grad_()
    return torch.autograd.grad(model(v[None]).softmax(1)[0, target], v)[0]


def greyed(mask):
    grey = mask.abs().sum(0)
    return grey.clamp(max=torch.quantile(grey, 0.99))


@pytest.mark.parametrize("batch_size", [7, 32])
def test_blurig_is_its_formula(toy, x, y, batch_size):
    """−Σ_i Δσ ∂blur/∂σ ∘ ∂p/∂blur at σ_i = i/2, i = 0..99."""
    maps = []
    for picture, target in zip(x, y):
        def blur(sigma, picture=picture.numpy()):
            return gaussian_filter(picture, (0, sigma, sigma), mode="constant") if sigma else picture
        mask = 0
        for sigma in np.arange(100) / 2:
            change = (blur(sigma + 0.01) - blur(sigma)) / 0.01
            mask -= 0.5 * torch.from_numpy(change) * slope(toy, blur(sigma), target)
        maps.append(greyed(mask))
    want = finish(torch.stack(maps), (16, 16), "bicubic")
    torch.testing.assert_close(iia.explain(toy, x, y, "blurig", batch_size=batch_size), want)


def test_guidedig_is_the_library_called_directly(toy, x, y, monkeypatch):
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile",
                        lambda values, q, interpolation: quantile(values, q, method=interpolation))
    maps = []
    for picture, target in zip(x, y):
        def call(rows, call_model_args, expected_keys, target=target):
            found = slope(toy, rows[0].transpose(2, 0, 1), target)
            return {INPUT_OUTPUT_GRADIENTS: found.permute(1, 2, 0).numpy()[None]}

        mask = GuidedIG().GetMask(picture.permute(1, 2, 0).numpy(), call, x_steps=25, fraction=0.5,
                                  max_dist=1.0)
        maps.append(greyed(torch.from_numpy(mask).permute(2, 0, 1)))
    want = finish(torch.stack(maps), (16, 16), "bicubic")
    monkeypatch.undo()
    torch.testing.assert_close(iia.explain(toy, x, y, "guidedig"), want)


def test_the_library_has_its_numpy_back(toy, x, y):
    iia.explain(toy, x, y, "guidedig")
    with pytest.raises(Exception):
        iia.explain(toy, x, torch.tensor([3, 99]), "guidedig")
    assert guided_ig.np is np


def test_an_attribution_of_zeros_is_quiet_and_degenerate(x, recwarn):
    grey = saliency_methods.grey(torch.zeros_like(x))
    assert not finish(grey, (16, 16), "bicubic").any() and not recwarn.list


@pytest.mark.parametrize("operation", ["blurig", "guidedig"])
def test_what_is_not_finite_ends_and_is_degenerate(toy, x, y, operation):
    x[1, 0, 0, 0] = torch.nan
    first, second = iia.explain(toy, x, y, operation)
    assert first.max() == 1 and not second.any()
    toy.network.classifier[0].weight[0, 0] = torch.inf
    assert not iia.explain(toy, x, y, operation).any()
