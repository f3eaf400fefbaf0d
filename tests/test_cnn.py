"""IIA for CNNs against the loops of oracles.py: every operation, both definitions."""

import pytest
import torch
import torchvision.models as tv
from torch import nn

import iia
from iia.options import IIAOptions
from iia.integration import BASELINES, gradient
from iia.maps import minmax
from iia.methods import CNN_OPERATIONS

from .conftest import random_weights, toy_vgg
from .models.networks_of_users import resnet
from .oracles import cnn_map

IIA_OPERATIONS = ["iia", "iia-triple", "iia-previous", "iia-ablation-im", "iia-ablation-ac"]


def compare(model, stages, head, x, y, operation, definition, layer, n=3, batch_size=5, **rule):
    how = IIAOptions(layer, n, definition, batch_size, **rule)
    found = CNN_OPERATIONS[operation].under(definition)(model, x, y, how)
    wanted = torch.stack([cnn_map(operation, definition, stages, head, one, int(label), layer, n, **rule)
                          for one, label in zip(x.split(1), y)])
    assert wanted.abs().max() > 1e-6
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", [1, 2, 4, 6])
@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", IIA_OPERATIONS)
def test_toy_network(operation, definition, layer, vgg, pictures, classes):
    if operation == "iia-previous" and layer == 1:
        with pytest.raises(iia.UserError, match="no layer before 1"):
            iia.explain(vgg, pictures, classes, operation, layer=1, definition=definition)
        return
    plain = toy_vgg().double()
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    head = nn.Sequential(plain.avgpool, nn.Flatten(), plain.classifier)
    model, stages = iia.wrap(vgg, image_size=16), list(plain.features)
    compare(model, stages, head, pictures, classes, operation, definition, layer)


@pytest.mark.parametrize("quadrature, baseline", [
    ("trapezoid", "spatial-minimum"), ("gauss", "spatial-minimum"), ("riemann", "channel-minimum"),
    ("gauss", "zero"), ("trapezoid", "mean"), ("graded", "spatial-minimum")])
@pytest.mark.parametrize("operation", IIA_OPERATIONS)
def test_rules_and_baselines(operation, quadrature, baseline, vgg, pictures, classes):
    plain = toy_vgg().double()
    head = nn.Sequential(plain.avgpool, nn.Flatten(), plain.classifier)
    stages = [nn.ReLU() if isinstance(stage, nn.ReLU) else stage for stage in plain.features]
    head[2][1].inplace = False
    compare(iia.wrap(vgg, image_size=16), stages, head, pictures, classes, operation, "paper", 6,
            quadrature=quadrature, baseline=baseline)


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", IIA_OPERATIONS)
def test_resnet(operation, definition):
    net = resnet(depths=(2, 2, 2, 2))
    stages = [nn.Sequential(net.conv1), net.bn1, nn.ReLU(), net.maxpool,
              net.layer1, net.layer2, net.layer3, net.layer4]
    head = nn.Sequential(net.avgpool, nn.Flatten(), net.fc)
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = iia.wrap(net, image_size=48)
    compare(model, stages, head, x, torch.tensor([1, 6]), operation, definition, layer=8, n=2)


def test_release_runs_convnext_with_an_extra_relu():
    """METHOD.md, section 9: only under `release` is there a ReLU before the average pool."""
    blocks = [tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 1)]
    net = random_weights(tv.ConvNeXt(blocks)).double()
    stages, relu = list(net.features), nn.ReLU()
    x, y = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([3, 4])
    model = iia.wrap(net, image_size=32)
    plain = nn.Sequential(net.avgpool, net.classifier)
    for operation in IIA_OPERATIONS:
        if operation == "iia-previous":             # its tail holds the last stage
            continue
        compare(model, stages, nn.Sequential(relu, plain), x, y, operation, "release", len(stages))
        compare(model, stages, plain, x, y, operation, "paper", len(stages))


def test_classes_are_computed_by_their_rows_under_both_definitions(vgg):
    """Though the last digit of such a sum may be another one."""
    blocks = [tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 1)]
    for network in (random_weights(tv.ConvNeXt(blocks)).double(), random_weights(tv.ConvNeXt(blocks)), vgg):
        model = iia.wrap(network, image_size=32)
        for definition in ("paper", "release"):
            model.score(len(model.stage_names), definition)
        kept = [rows for key, rows in model._segments.items() if key[0] == "rows"]
        assert len(kept) == 2 and None not in kept


def test_release_leaves_norm5_out_of_densenets_tail():
    net = random_weights(tv.DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8)).double()
    stages = list(net.features)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    x, y = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([3, 4])
    model = iia.wrap(net, image_size=64)
    without = stages[:11] + [nn.Identity()]
    compare(model, without, head, x, y, "iia", "release", 11)
    compare(model, without, head, x, y, "iia", "release", 9)
    compare(model, stages, head, x, y, "iia", "paper", 11)
    compare(model, stages, head, x, y, "iia-triple", "release", 12)     # norm5 is stage L here, not tail


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", IIA_OPERATIONS)
def test_batches_and_chunks_do_not_change_a_map(operation, definition):
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    y = [1, 2]
    how = dict(definition=definition, steps=3)
    model = iia.wrap(resnet().float(), image_size=96)
    together = iia.explain(model, x, y, operation, batch_size=64, **how)
    alone = torch.cat([iia.explain(model, x[b:b + 1], y[b], operation, batch_size=3, **how)
                       for b in range(2)])
    assert together.amax((1, 2)).tolist() == [1, 1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_the_picture_zero_is_computed_once_for_a_network(vgg, pictures, classes, monkeypatch):
    model = iia.wrap(vgg, image_size=16)
    rows = []
    real = model.stages
    monkeypatch.setattr(model, "stages", lambda start, stop, x: rows.append(len(x) * (start == 0))
                        or real(start, stop, x))
    iia.explain(model, pictures, classes, steps=4)
    iia.explain(model, pictures, classes, steps=4)
    assert sum(rows) == 2 * 4 * len(pictures) + 1


def test_one_step_limits_agree(vgg, pictures, classes):
    """With n = 1 the layer's path has two points: its end, which is the input ablation, and its baseline."""
    model = iia.wrap(vgg, image_size=16)
    how = IIAOptions(layer=6, steps=1)
    both = CNN_OPERATIONS["iia"].under("paper")(model, pictures, classes, how)
    assert both.shape == (3, 3, 3)
    rest = 0
    for picture in (torch.zeros_like(pictures), pictures):
        u = model.features(picture, 6)
        r = BASELINES["spatial-minimum"](u).expand_as(u)
        rest = rest + ((u - r) * r * gradient(model.score(6), r, classes)).sum(1)
    end = CNN_OPERATIONS["iia-ablation-im"].under("paper")(model, pictures, classes, how)
    torch.testing.assert_close(both, end + rest)
    assert not torch.allclose(minmax(both), minmax(end))


def test_memory_is_bounded_by_batch_size_not_by_n(vgg, pictures, classes, monkeypatch):
    model = iia.wrap(vgg, image_size=16)
    seen = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    iia.explain(model, pictures, classes, "iia-triple", steps=9, batch_size=4)
    assert max(seen) == 4
