"""The six methods of grad-cam, against their formulas and against the library on the whole network."""

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from .small_networks import network
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import iia
from iia.maps import finish
from iia.models.quick import frozen_copy


def layer_and_gradient(model, x, y, cut):
    """u [B, C, h, w] at the layer and ∂f_y/∂u, by autograd alone."""
    u = model.features(x, cut).requires_grad_()
    logits = model.tail(cut)(u)
    return u.detach(), torch.autograd.grad(logits[torch.arange(len(y)), y].sum(), u)[0]


def total(values):
    return values.sum((2, 3), keepdim=True)


FORMULAS = {
    "gradcam": lambda u, g: (g.mean((2, 3), keepdim=True) * u).sum(1),
    "gradcampp": lambda u, g: (total(torch.where(g != 0, g**2 / (2 * g**2 + total(u) * g**3 + 1e-6), 0)
                                     * g.relu()) * u).sum(1),
    "x-gradcam": lambda u, g: (total(g * u) / (total(u) + 1e-7) * u).sum(1),
    "layercam": lambda u, g: (g.relu() * u).sum(1),
}


@pytest.mark.parametrize("operation", FORMULAS)
@pytest.mark.parametrize("cut", [3, 4, 5])
def test_is_its_formula(toy, x, y, operation, cut):
    want = finish(FORMULAS[operation](*layer_and_gradient(toy, x, y, cut)).relu(), (16, 16), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    torch.testing.assert_close(iia.explain(toy, x, y, operation, layer=cut), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family, cut", [("vgg", 5), ("vgg", 4), ("convnext", 6)],
                         ids=["not negative", "negative before a ReLU", "negative"])
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_ablation_is_its_formula_for_any_batch_size(family, cut, x, y, batch_size):
    model = iia.wrap(network(family)).double()
    x = x.repeat(1, 1, 2, 2)
    u, tail, row = model.features(x, cut), model.tail(cut), torch.arange(len(y))
    maps, whole = 0, tail(u)[row, y]
    for channel in range(u.shape[1]):
        without = u.clone()
        without[:, channel] = 0
        weight = (whole - tail(without)[row, y]) / whole.abs()
        maps += weight[:, None, None] * u[:, channel]
    want = finish(maps.relu(), (32, 32), "bicubic")
    got = iia.explain(model, x, y, "ablation-cam", layer=cut, batch_size=batch_size)
    assert want.max() == 1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)              # float32 scores in the library


@pytest.mark.parametrize("operation, name", [("gradcam", "GradCAM"), ("gradcampp", "GradCAMPlusPlus"),
                                             ("x-gradcam", "XGradCAM"), ("layercam", "LayerCAM"),
                                             ("ablation-cam", "AblationCAM")])
def test_is_the_library_on_the_whole_network(operation, name, x, y, capsys):
    net = network("resnet")
    pictures = x.float().repeat(1, 1, 4, 4)
    with getattr(pytorch_grad_cam, name)(model=net, target_layers=[net.layer3]) as cam:
        cam.get_target_width_height = lambda _: (4, 4)          # the layer's: not resized by the library
        want = cam(pictures, [ClassifierOutputTarget(int(k)) for k in y])
    want = finish(torch.from_numpy(want), (64, 64), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    capsys.readouterr()
    got = iia.explain(net, pictures, y, operation, layer=7)
    assert capsys.readouterr().err == ""                                        # no bar of the library's
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def fullgrad_by_hand(net, x, y):
    """|x ∘ g| and |bias ∘ g| of every convolution and batch norm, each channel scaled, resized and added."""
    def scaled(channel):
        channel = channel - channel.min()
        channel = np.float32(channel / (channel.max() + 1e-7))
        return torch.from_numpy(cv2.resize(channel, (x.shape[3], x.shape[2])))

    seen = []                                                           # (output, bias) of each such layer
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()
            bias = module.bias - module.running_mean * scale
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            bias = module.bias
        else:
            continue
        where = getattr(module, "drop", module)                         # timm's norm: before its activation
        where.register_forward_hook(
            lambda m, i, output, bias=bias: seen.append((output, bias.view(1, -1, 1, 1))))
    x = x.clone().requires_grad_()
    score = net(x)[torch.arange(len(y)), y].sum()
    gradients = torch.autograd.grad(score, [x] + [output for output, _ in seen])
    terms = [x * gradients[0]] + [bias * g for (_, bias), g in zip(seen, gradients[1:])]
    return torch.stack([sum(scaled(channel) for term in terms for channel in term[row].abs().detach().numpy())
                        for row in range(len(x))])


@pytest.mark.parametrize("family", ["vgg", "resnet", "densenet", "efficientnet"])
def test_fullgrad_is_its_formula(family, x, y):
    net = network(family)
    pictures = x.float().repeat(1, 1, 2, 2)
    copy = frozen_copy(net)
    for module in copy.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    want = finish(fullgrad_by_hand(copy, pictures, y), (32, 32), "bicubic")
    torch.testing.assert_close(iia.explain(net, pictures, y, "fullgrad"), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [100, -100])
def test_ablation_is_lift_cam_behind_a_linear_tail_also_for_negative_logits(shift, x, y):
    net, pictures = network("resnet").float(), x.float().repeat(1, 1, 4, 4)
    with torch.no_grad():
        net.fc.bias += shift
    maps = [iia.explain(net, pictures, y, operation) for operation in ("ablation-cam", "lift-cam")]
    assert (maps[1].amax((1, 2)) == 1).all()
    torch.testing.assert_close(maps[0], maps[1], atol=1e-2, rtol=0)      # differences of large float32 scores
