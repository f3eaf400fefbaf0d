"""Any network: the map is of the network as it runs, or there is one sentence that says why not.

Every map is compared with tests/oracle_hooks.py: loops with hooks on the user's own network.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn

import iia

from .. import oracles
from ..conftest import random_weights, toy_vgg, toy_vit
from ..oracle_hooks import finished, grid_map, vit_map
from .networks_of_users import CHANGES, check, differ, picture, resnet, swap, weights_like


def test_the_two_oracles_are_the_same():
    x, vit, vgg = picture(16), toy_vit().double(), toy_vgg().double()
    for name in ("iia", "iia-triple", "gae"):
        wanted = finished(oracles.vit_map(name, "paper", vit, x, 3, 2), (16, 16), "bilinear")
        torch.testing.assert_close(vit_map(name, vit, x, 3, 2, (4, 4)), wanted, rtol=0, atol=1e-12)
    for name in ("iia", "iia-triple"):
        wanted = oracles.cnn_map(name, "paper", list(vgg.features),
                                 lambda u: vgg.classifier(vgg.avgpool(u).flatten(1)), x, 3, 5, 2)
        torch.testing.assert_close(grid_map(name, vgg, x, 3, 2, "features.4", before="features.3"),
                                   finished(wanted, (16, 16), "bicubic"), rtol=0, atol=1e-12)


def without_statistics(path):
    def batch_norm(old):
        return weights_like(nn.BatchNorm2d(old.num_features, track_running_stats=False))
    return swap(path, batch_norm)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_the_map_is_of_the_network_as_it_runs(change):
    network, x = resnet(), picture()
    plain = grid_map("iia", network, x, 3, 2, "layer4")
    CHANGES[change](network)
    with torch.no_grad():
        logits = network(x)
    changed = check(network, x, 3)
    assert change.startswith("weight_norm") or differ(plain, changed), "the change says nothing about the map"
    model = iia.wrap(network, image_size=64)
    torch.testing.assert_close(model(x), logits, rtol=0, atol=1e-9 * float(logits.abs().max()))
    assert len(network.get_submodule("")._forward_hooks) == (change == "hook on the root")


@pytest.mark.parametrize("pictures_at_once", [1, 2])
def test_a_batch_norm_of_the_batch_itself(pictures_at_once):
    """track_running_stats=False: a picture's logits hang on the others of its batch, so a refusal is right
    too."""
    network, x = resnet(), picture()
    without_statistics("layer3.0.bn1")(network)
    try:
        found = iia.explain(network, x.expand(pictures_at_once, -1, -1, -1), 3, layer="layer4", steps=2,
                            batch_size=1)
    except iia.UserError as why:
        assert "\n" not in str(why)
    else:
        wanted = grid_map("iia", network, x, 3, 2, "layer4")
        torch.testing.assert_close(found, wanted.expand(pictures_at_once, -1, -1), rtol=0, atol=1e-6)


class Normalising(tv.ResNet):
    def forward(self, x):
        return super().forward((x - 0.4) / 0.5)


class OwnImplementation(tv.ResNet):
    """Attention over the channels behind layer4, as a module; the picture normalised."""

    def __init__(self, *settings, **more) -> None:
        super().__init__(*settings, **more)
        self.gate = nn.Conv2d(64, 64, 1, device="cpu")
        self.attention = Gate(self.gate)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(2 * x + 0.1))))
        x = self.attention(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return self.fc(x.mean((2, 3)))


class Gate(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, u):
        return u * self.gate(u).sigmoid()


class Functional(tv.ResNet):
    def forward(self, x):
        return F.softplus(super().forward(x.flip(-1))).cumsum(1)


class Keyed(tv.ResNet):
    """More arguments than the picture, with defaults."""

    def forward(self, x, mask=None, scale: float = 0.5, *, twice: bool = True):
        x = x * scale if mask is None else x * mask
        return super().forward(x + 0.2) * (2 if twice else 1)


@pytest.mark.parametrize("kind", [Normalising, OwnImplementation, Functional, Keyed])
def test_a_subclass_with_its_own_forward(kind):
    network, x = resnet(kind), picture()
    plain = resnet()
    plain.load_state_dict(network.state_dict(), strict=False)
    assert differ(check(network, x, 3), grid_map("iia", plain, x, 3, 2, "layer4"))
    if kind is OwnImplementation:
        check(network, x, 3, layer="attention", operations=("iia", "gradcam"))
        check(network, x, 3, layer="last", module="attention", operations=("iia", "gradcam"))


def test_timms_weight_standardised_resnet():
    network = random_weights(ResNetV2((1, 1, 1, 1), (128, 128, 128, 128), num_classes=7, stem_chs=32,
                                      conv_layer=StdConv2d)).double()
    check(network, picture(), 3, "stages.3", before="stages.2", operations=("iia", "gradcam"))
    check(network, picture(), 3, "last", module="norm", operations=("iia", "gradcam"))
