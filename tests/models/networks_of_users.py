"""Small networks as users have them, and how their maps are checked: with tests/oracle_hooks.py."""

import contextlib
import types

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.layers import StdConv2d
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

import iia

from ..conftest import random_weights
from ..oracle_hooks import Constant, grid_map, vit_map

BEFORE = "layer3"          # the layer before layer4, for IIA3


def picture(size: int | tuple = 64, channels: int = 3, seed: int = 1,
            dtype: torch.dtype = torch.float64) -> torch.Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.float64).to(dtype)


def resnet(kind: type = tv.ResNet, depths: tuple = (1, 1, 1, 1), classes: int = 7,
           block: type = BasicBlock) -> tv.ResNet:
    """A torchvision ResNet of an eighth of the width; a map takes milliseconds."""
    with torch.device("meta"):                          # its own layers cost nothing
        network = kind(block, list(depths), num_classes=classes)
    network.inplanes = 8
    network.conv1, network.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    for place, depth in enumerate(depths):
        layer = network._make_layer(block, 8 * 2**place, depth, stride=min(place, 1) + 1)
        setattr(network, f"layer{place + 1}", layer)
    network.fc = nn.Linear(64 * block.expansion, classes)
    return random_weights(network).double()


def weights_like(module: nn.Module, seed: int = 3) -> nn.Module:
    """New parts of a network in its dtype, with weights that matter."""
    return random_weights(module, seed).double()


def check(network: nn.Module, x: torch.Tensor, y, layer="layer4", module: str | None = None,
          before: str | None = BEFORE, operations=("iia", "iia-triple", "gradcam"),
          places: dict | None = None, tolerance: float = 1e-6) -> torch.Tensor:
    """The maps of `network` at `layer` are the oracle's at its module of that name; the oracle's map of the
    first."""
    found = {}
    for name in operations:
        y, wanted = first_that_says(y, lambda y: grid_map(name, network, x, y, 2, module or layer,
                                                          before=before, **(places or {})))
        classes, target = (None, y) if callable(y) else (y, None)
        maps = iia.explain(network, x, classes, name, layer=layer, steps=2, target=target)
        near = tolerance if x.dtype == torch.float64 and name != "gradcam" else 1e-4
        torch.testing.assert_close(maps[0], wanted, rtol=0, atol=near, check_dtype=False,
                                   msg=lambda m: f"{name}: {m}")
        found[name] = wanted
    return found[operations[0]]


def first_that_says(y, wanted) -> tuple:
    """The target y and its map, or those of a class before it where a ReLU leaves nothing of the map of y."""
    for target in [y] if callable(y) else range(y, -1, -1):
        with contextlib.suppress(Constant):
            return target, wanted(target)
    raise AssertionError("no class has a map: a test of nothing")


def check_vit(network: nn.Module, x: torch.Tensor, y, grid: tuple, operations=("iia", "gae"),
              **how) -> torch.Tensor:
    classes, target = (None, y) if callable(y) else (y, None)
    near = 1e-6 if x.dtype == torch.float64 else 1e-4
    for name in operations:
        wanted = vit_map(name, network, x, y, 2, grid, **how)
        maps = iia.explain(network, x, classes, name, steps=2, target=target)
        torch.testing.assert_close(maps[0], wanted, rtol=0, atol=near, check_dtype=False,
                                   msg=lambda m: f"{name}: {m}")
    return wanted


@contextlib.contextmanager
def refused(match: str):
    """A UserError of one sentence (one line) that says `match`."""
    with pytest.raises(iia.UserError, match=match) as why:
        yield
    assert "\n" not in str(why.value) and len(str(why.value)) < 600


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 0.02)


class WeightStandardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    """How an attribute of another convolution is set."""

    @staticmethod
    def of(conv: nn.Conv2d, kind: type) -> nn.Conv2d:
        new = kind(conv.in_channels, conv.out_channels, conv.kernel_size[0], stride=conv.stride[0],
                   padding=conv.padding[0], bias=False)
        return weights_like(new)


class NormFirst(BasicBlock):
    """Lists conv1, bn1 and calls bn1, conv1."""

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.conv1(self.bn1(x))))) + x)


class ReadTwice(BasicBlock):
    """Reads the convolution's output beside bn(conv)."""

    def forward(self, x):
        conv = self.conv1(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(conv)))) + 0.7 * conv)


class LoRALinear(nn.Linear):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.down, self.up = (nn.Parameter(torch.zeros(3, base.in_features)),
                              nn.Parameter(torch.zeros(base.out_features, 3)))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


def swap(path: str, make):
    """A change of a network: the module at `path` becomes make(module)."""
    def change(net):
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, make(net.get_submodule(path)))
        net.eval()
    return change


def hook(path: str, function, pre: bool = False, **settings):
    def change(net):
        module = net.get_submodule(path)
        (module.register_forward_pre_hook if pre else module.register_forward_hook)(function, **settings)
    return change


def pruned(net):
    prune.l1_unstructured(net.layer3[0].conv1, "weight", 0.5)
    prune.random_structured(net.layer4[0].conv2, "weight", 0.5, dim=0)


def bound_forward(net):
    plain = net.layer2.forward
    net.layer2.forward = types.MethodType(lambda self, u: 1.5 * plain(u).tanh(), net.layer2)


def closure_forward(net):
    plain = net.layer4.forward
    net.layer4.forward = lambda u: plain(u.roll(1, 1)).sin()


def patched_root(net):
    plain = net.forward
    net.forward = types.MethodType(lambda self, x: plain(x.flip(-1) * 0.7 + 0.2), net)


CHANGES = {
    "pre-hook on the root": hook("", lambda m, inputs: ((inputs[0] - 0.3) / 0.6,), pre=True),
    "pre-hook with keywords": hook("", lambda m, inputs, named: (((inputs[0] - 0.3) / 0.6,), named),
                                   pre=True, with_kwargs=True),
    "pre-hook on a block": hook("layer2.0", lambda m, inputs: inputs[0].roll(1, 1), pre=True),
    "hook on the root": hook("", lambda m, inputs, logits: (logits * 0.05).sin() + logits.roll(1, 1) ** 2),
    "hook on a batch norm": hook("layer4.0.bn1", lambda m, inputs, output: output.tanh() + 0.3),
    "hook on the first batch norm": hook("bn1", lambda m, inputs, output: output.abs()),
    "hook on a block": hook("layer1.0", lambda m, inputs, output: output.roll(1, 1)),
    "hook on a container": hook("layer3", lambda m, inputs, output: output.flip(1).sqrt()),
    "hook on the layer": hook("layer4", lambda m, inputs, output: output.sqrt() * output.roll(1, 1)),
    "hook on the head": hook("fc", lambda m, inputs, output: output.roll(2, 1).sin()),
    "weight standardisation before a batch norm": swap("layer3.0.conv2",
                                                       lambda c: Standardised.of(c, WeightStandardised)),
    "weight standardisation at the start": swap("conv1", lambda c: Standardised.of(c, WeightStandardised)),
    "timm's StdConv2d": swap("layer4.0.conv1", lambda c: Standardised.of(c, StdConv2d)),
    "lists conv, bn and calls bn, conv": swap("layer1.0", lambda block: weights_like(NormFirst(8, 8))),
    "a convolution's output read twice": swap("layer1.0", lambda block: weights_like(ReadTwice(8, 8))),
    "LoRA in a subclass of Linear": swap("fc", lambda fc: weights_like(LoRALinear(fc))),
    "pruning": pruned,
    "weight_norm": swap("layer4.0.conv2", lambda c: parametrizations.weight_norm(c)),
    "weight_norm of old": swap("layer4.0.conv2", lambda c: nn.utils.weight_norm(c)),
    "spectral_norm": swap("layer3.0.conv1", lambda c: parametrizations.spectral_norm(c)),
    "spectral_norm of old": swap("layer3.0.conv1", lambda c: nn.utils.spectral_norm(c)),
    "a forward of its own, bound": bound_forward,
    "a forward of its own, a closure": closure_forward,
    "the root's forward replaced": patched_root,
}


def with_head(*layers: nn.Module) -> tv.ResNet:
    network = resnet()
    network.fc = weights_like(nn.Sequential(*layers) if len(layers) > 1 else layers[0])
    return network.eval()
