"""The one guarded normalisation, and the finished map."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from iia.maps import finish, is_degenerate, minmax


def test_minmax_is_per_picture():
    maps = torch.tensor([[[0.0, 2], [4, 1]], [[-5, 5], [0, 0]]])
    assert minmax(maps).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 1], [0.5, 0.5]]]


@pytest.mark.parametrize("value", [0.0, 3.0, float("nan"), float("inf"), -float("inf")])
def test_constant_and_non_finite_maps_become_zeros(value):
    flat = torch.full((1, 3, 3), value)
    spoilt = torch.rand(1, 3, 3)
    spoilt[0, 1, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert minmax(flat).eq(0).all() and is_degenerate(minmax(flat)).all()
        assert is_degenerate(minmax(spoilt)).item() == (not torch.isfinite(torch.tensor(value)))


def test_a_range_beyond_float32_is_degenerate_not_nan():
    assert minmax(torch.tensor([[[-3e38, 3e38], [0, 0]]])).eq(0).all()


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_finish_upsamples_then_scales(mode):
    raw = torch.randn(2, 7, 7)
    up = F.interpolate(raw[:, None], (224, 224), mode=mode, align_corners=False)[:, 0]
    low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
    torch.testing.assert_close(finish(raw, (224, 224), mode), (up - low) / (high - low))
