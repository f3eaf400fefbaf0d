"""The methods of grad-cam, against their formulas and against the library on the whole network."""

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
from .small_networks import network
from pytorch_grad_cam import eigen_cam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from torch import nn

import iia
from iia.maps import finish
from iia.methods.gradcam_family import difference
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
    "hirescam": lambda u, g: (g * u).sum(1),
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
    model = iia.wrap(network(family), image_size=32).double()
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
                                             ("hirescam", "HiResCAM"), ("ablation-cam", "AblationCAM")])
def test_is_the_library_on_the_whole_network(operation, name, x, y, capsys):
    net = network("wide resnet")
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
    net, pictures = network("wide resnet").float(), x.float().repeat(1, 1, 4, 4)
    with torch.no_grad():
        net.fc.bias += shift
    maps = [iia.explain(net, pictures, y, operation) for operation in ("ablation-cam", "lift-cam")]
    assert (maps[1].amax((1, 2)) == 1).all()
    torch.testing.assert_close(maps[0], maps[1], atol=1e-2, rtol=0)      # differences of large float32 scores


@pytest.mark.parametrize("cut", [3, 4, 5])                                       # layer 4 is negative too
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_score_cam_is_its_formula_for_any_batch_size(toy, cut, x, y, batch_size):
    u, maps = toy.features(x, cut), []
    for picture, channels, target in zip(x, u, y):
        scores = []
        for channel in channels:
            mask = F.interpolate(channel[None, None], (16, 16), mode="bilinear", align_corners=True)[0]
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
            scores.append(toy((picture * mask)[None])[0, target])
        maps.append(sum(w * channel for w, channel in zip(torch.stack(scores).softmax(0), channels)))
    want = finish(torch.stack(maps).relu(), (16, 16), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    found = iia.explain(toy, x, y, "score-cam", layer=cut, batch_size=batch_size)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=0)


def test_score_cam_is_the_library_on_the_whole_network(x, y):
    net = network("vgg")
    with pytorch_grad_cam.ScoreCAM(model=net, target_layers=[net.features[4]]) as cam:
        cam.get_target_width_height = lambda _: (8, 8)
        want = torch.from_numpy(cam(x.float(), [ClassifierOutputTarget(int(k)) for k in y]))
    found = iia.explain(net, x.float(), y, "score-cam", layer=5)
    torch.testing.assert_close(found, finish(want, (16, 16), "bicubic"), atol=1e-4, rtol=0)


def test_score_cam_explains_a_target_function_and_keeps_to_the_batch_size(x):
    net, other, rows = network("vgg").double(), network("vgg").double(), []
    other.classifier[2] = nn.Linear(8, 1).double()
    for new, old in zip(other.classifier[2].parameters(), net.classifier[2].parameters()):
        new.data[:] = old.data[3:4] - old.data[5:6]

    def spread(logits):
        rows.append(len(logits))
        return logits[:, 3] - logits[:, 5]

    found = iia.explain(net, x, target=spread, operation="score-cam", batch_size=4)
    assert max(rows) == 4
    torch.testing.assert_close(found, iia.explain(other, x, 0, "score-cam"))


@pytest.mark.parametrize("cut", [3, 5])
def test_finer_cam_is_its_formula(toy, x, y, cut):
    """Of classes less probable than 1e-9 too."""
    toy.network.classifier[2].bias.data[0] += 50
    toy = iia.wrap(toy.network, image_size=16)
    u = toy.features(x, cut).requires_grad_()
    logits, weighted = toy.tail(cut)(u), 0
    for row, target in zip(logits, y):
        others = sorted(set(range(10)) - {int(target)}, key=lambda k: abs(row[k] - row[target]).item())[:3]
        p = row.softmax(0)
        assert p[others].sum() < 1e-9
        weighted += sum(p[k] * (row[target] - row[k]) for k in others) / p[others].sum()
    g = torch.autograd.grad(weighted, u)[0]
    want = finish(FORMULAS["gradcam"](u.detach(), g).relu(), (16, 16), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    torch.testing.assert_close(iia.explain(toy, x, y, "finer-cam", layer=cut), want, atol=1e-5, rtol=0)


def test_finer_cam_compares_a_class_with_its_equal_and_not_with_itself():
    logits = torch.tensor([[-9.0, 2, 1, 2, 0]], requires_grad=True)
    slope = torch.autograd.grad(difference(logits, torch.tensor([3])).sum(), logits)[0][0]
    assert slope[0] == 0 and slope[1] < 0 < slope[3]


def test_finer_cam_is_the_library_on_the_whole_network(x):
    net, pictures = network("wide resnet"), x.float().repeat(1, 1, 4, 4)
    with pytorch_grad_cam.FinerCAM(net, [net.layer3]) as cam:
        cam.base_cam.get_target_width_height = lambda _: (4, 4)
        want = finish(torch.from_numpy(cam(pictures, target_idx=3)), (64, 64), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    torch.testing.assert_close(iia.explain(net, pictures, 3, "finer-cam", layer=7), want, atol=1e-3, rtol=0)


def test_finer_cam_needs_a_class_and_another(toy, x):
    one = network("vgg")
    one.classifier[2] = nn.Linear(8, 1)
    for model, what in ((toy, {"target": lambda logits: logits[:, 3]}), (one.double(), {"classes": 0})):
        with pytest.raises(iia.UserError, match="sets a class apart"):
            iia.explain(model, x, operation="finer-cam", **what)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_eigen_cam_is_its_formula(toy, x, y, cut):
    """The eigenvector of the channels' covariance, its sign such that the largest value is positive."""
    maps = []
    for channels in toy.features(x, cut).numpy():
        cells = channels.reshape(len(channels), -1)
        _, vectors = np.linalg.eigh(np.cov(cells))                                      # ascending
        along = vectors[:, -1] @ (cells - cells.mean(1, keepdims=True))
        along *= np.sign(along[np.abs(along).argmax()])
        maps.append(torch.from_numpy(along.reshape(channels.shape[1:])))
    want = finish(torch.stack(maps).relu(), (16, 16), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    for picture in range(2):
        found = iia.explain(toy, x[picture:picture + 1], y[:1], "eigen-cam", layer=cut)
        torch.testing.assert_close(found, want[picture:picture + 1], atol=1e-8, rtol=0)


def test_eigen_cam_is_the_library_with_its_rule_for_the_sign(x, y, monkeypatch):
    monkeypatch.setattr(eigen_cam, "get_2d_projection", get_2d_projection_with_sign_correction)
    net, pictures = network("wide resnet"), x.float().repeat(1, 1, 4, 4)
    with pytorch_grad_cam.EigenCAM(model=net, target_layers=[net.layer3]) as cam:
        cam.get_target_width_height = lambda _: (4, 4)
        want = finish(torch.from_numpy(cam(pictures, None)), (64, 64), "bicubic")
    assert (want.amax((1, 2)) == 1).all()
    torch.testing.assert_close(iia.explain(net, pictures, y, "eigen-cam", layer=7), want, atol=1e-3, rtol=0)


def test_what_is_not_finite_is_degenerate_to_eigen_cam_and_score_cam(toy, x, y):
    x[1, 0, 0, 0] = torch.nan
    for operation in ("eigen-cam", "score-cam"):
        first, second = iia.explain(toy, x, y, operation)
        assert first.max() == 1 and not second.any()
