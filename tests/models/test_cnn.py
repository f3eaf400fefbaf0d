"""A CNN as stages: the cut network is the network, and the user's own is left alone."""

import pytest
import torch
from torch import nn

import iia
from iia.datasets.photographs import photograph
from iia.models.names import ALIASES

from ..conftest import toy_vgg
from .narrow import narrow
from .networks_of_users import resnet


@pytest.mark.parametrize("name, last", [("resnet18", 8), ("resnet101", 8), ("densenet201", 12),
                                        ("convnext_base", 8), ("vgg16", 31), ("vgg19", 37),
                                        ("efficientnet_lite0", 9)])
def test_tail_of_features_is_the_network_at_every_cut_and_the_last_has_its_published_number(name, last):
    net = narrow(name)
    model = iia.wrap(net, image_size=64)
    assert model.cut("last") == len(model.stage_names) == last
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = net(x)
        size = wanted.abs().max()
        torch.testing.assert_close(model(x) / size, wanted / size, rtol=0, atol=1e-9)
        u = x
        for cut in range(1, last + 1):
            u = model.stages(cut - 1, cut, u)
            kept = u.clone()
            torch.testing.assert_close(model.tail(cut)(u) / size, wanted / size, rtol=0, atol=1e-9)
            assert torch.equal(u, kept), f"the tail overwrote layer {cut}"


def test_exact_in_float64(vgg, pictures):
    model = iia.wrap(vgg, image_size=16)
    for cut in range(1, 7):
        found = model.tail(cut)(model.features(pictures, cut))
        torch.testing.assert_close(found, vgg(pictures), rtol=0, atol=1e-14)


def test_the_aliases_of_the_release():
    assert ALIASES == {"densnet": "densenet201", "convnext": "convnext_base"}


def test_the_users_network_is_left_as_it_was(vgg, pictures):
    vgg.train()
    logits = vgg(pictures)
    before = [(m.training, getattr(m, "inplace", None), len(m._forward_hooks)) for m in vgg.modules()]
    iia.explain(vgg, pictures, [0, 1, 2], "iia-triple", steps=1, layer=4)
    assert [(m.training, getattr(m, "inplace", None), len(m._forward_hooks)) for m in vgg.modules()] == before
    assert all(p.requires_grad and p.grad is None for p in vgg.parameters())
    assert torch.equal(vgg(pictures), logits)


def test_weights_are_a_frozen_snapshot():
    net = resnet()
    model = iia.wrap(net, image_size=64)
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(model.network.fc.weight, net.fc.weight)
    assert model.network.fc.weight.data_ptr() != net.fc.weight.data_ptr()


def test_a_cut_beyond_the_network():
    model = iia.wrap(resnet(), image_size=64)
    for layer in (0, 9, -1, "first", 2.0, True):
        with pytest.raises(iia.UserError, match=r"Allowed: \"last\", or one of 1 \(conv1\), .*8 \(layer4\)"):
            model.cut(layer)


def test_a_network_without_a_grid_of_cells():
    with pytest.raises(iia.UserError, match="Sequential has no layer with a grid of cells"):
        iia.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), image_size=8, in_chans=3)


def test_bf16_is_close_to_fp32():
    net = resnet().float()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    maps = [iia.explain(iia.wrap(net, precision=p), x, [1, 2], steps=4).flatten() for p in ("fp32", "bf16")]
    assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.99
    assert not torch.equal(*maps)


def test_bf16_stays_when_a_model_is_converted(pictures, classes):
    """`.float()` and `.double()` convert the network, not the copy whose features are in bfloat16."""
    model, x = iia.wrap(toy_vgg(), precision="bf16", image_size=16), pictures.float()
    before, exact = (iia.explain(each, x, classes) for each in (model, iia.wrap(toy_vgg(), image_size=16)))
    assert not torch.equal(before, exact)
    assert torch.equal(iia.explain(model.float(), x, classes), before)
    double = iia.explain(model.double(), x.double(), classes)               # there bfloat16 has no place
    torch.testing.assert_close(double.float(), exact, rtol=0, atol=1e-4)
    assert torch.equal(iia.explain(model.float(), x, classes), before)


def test_bf16_of_a_real_network_with_small_channels():
    """Single values of EfficientNet's last layer are off by 8 % of the largest; the map is not."""
    models = [iia.load_model("efficientnet_lite0", precision=p) for p in ("fp32", "bf16")]
    x = iia.load_pictures(photograph("chelsea.png"), models[0])
    maps = torch.stack([iia.explain(model, x, 285, steps=3).flatten() for model in models])
    assert torch.corrcoef(maps)[0, 1] > 0.99 and not torch.equal(maps[0], maps[1])
