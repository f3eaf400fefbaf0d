"""What wrap returned stays as it was, whatever becomes of the network; the network stays as it was, too."""

import copy
import weakref

import pytest
import torch
import torchvision.models as tv
from torch import nn

import iia

from ..conftest import random_weights, toy_vgg, toy_vit
from .networks_of_users import (
    CHANGES,
    bound_forward,
    check,
    check_vit,
    closure_forward,
    differ,
    picture,
    resnet,
)


def data_writes(net):
    for weight in net.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, dtype=weight.dtype,
                                            generator=torch.Generator().manual_seed(5)))


def vector(net):
    values = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(0.8 * values + 0.4 * values.roll(1), net.parameters())


def assigned(net):
    net.load_state_dict(random_weights(copy.deepcopy(net), 8).state_dict(), assign=True)


def replaced_parameters(net):
    new = random_weights(copy.deepcopy(net), 9)
    for name, module in net.named_modules():
        for own, weight in list(module.named_parameters(recurse=False)):
            setattr(module, own, nn.Parameter(new.get_submodule(name).get_parameter(own).detach().clone()))


def buffers(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.3 * torch.arange(len(module.running_mean)).cos())
            module.running_var.mul_(1.5 + torch.arange(len(module.running_var)).sin())


def replaced_module(net):
    net.layer4 = resnet(depths=(1, 1, 1, 2)).layer4


@pytest.mark.parametrize("write", [data_writes, vector, assigned, replaced_parameters, buffers,
                                   replaced_module])
@pytest.mark.parametrize("kind", ["plain", "hooked", "patched"])
def test_what_wrap_returned_is_a_snapshot(write, kind):
    network, x = resnet(), picture()
    if kind == "hooked":
        CHANGES["pre-hook on the root"](network)
    if kind == "patched":
        bound_forward(network)
    model = iia.wrap(network, image_size=64)
    names = ("iia", "gradcam")
    before = [iia.explain(model, x, 3, name, steps=2) for name in names]
    with torch.no_grad():
        write(network)
    for name, was in zip(names, before):
        assert torch.equal(iia.explain(model, x, 3, name, steps=2), was)
    assert differ(check(network, x, 3, operations=("iia", "gradcam")), before[0][0])


@pytest.mark.parametrize("write", [data_writes, vector, assigned, replaced_parameters])
def test_a_snapshot_of_a_vit(write):
    network, x = toy_vit().double(), picture(16)
    model = iia.wrap(network)
    before = [iia.explain(model, x, 3, name, steps=2) for name in ("iia", "gae", "t-attr")]
    with torch.no_grad():
        write(network)
    for name, was in zip(("iia", "gae", "t-attr"), before):
        assert torch.equal(iia.explain(model, x, 3, name, steps=2), was)
    check_vit(network, x, 3, (4, 4))


def test_the_network_is_left_as_it_was():
    network, x = resnet(), picture()
    CHANGES["pre-hook on the root"](network)
    network.layer3.train()
    network.fc.weight.requires_grad_(False)
    network.layer1[0].conv1.weight.grad = torch.ones_like(network.layer1[0].conv1.weight)

    def state():
        return [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)),
                 getattr(m, "inplace", None))
                for m in network.modules()]

    weights, before = copy.deepcopy(network.state_dict()), state()
    grads = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()]
    random = torch.get_rng_state()
    for name in ("iia", "iia-triple", "gradcam", "ig", "fullgrad"):
        iia.explain(network, x, 3, name, steps=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert state() == before
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    for weight, (wanted, grad) in zip(network.parameters(), grads):
        assert weight.requires_grad == wanted and (weight.grad is None) == (grad is None)
        assert grad is None or torch.equal(weight.grad, grad)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("make", [toy_vgg, toy_vit])
def test_a_converted_snapshot_is_that_of_the_converted_network(make, used, pictures, classes):
    """bfloat16 and back rounds the weights: nothing may be left that was computed with those before."""
    x, converted = pictures.float(), iia.wrap(make(), image_size=16)
    if used:
        iia.explain(converted, x, classes, steps=2)
    converted.to(torch.bfloat16).float()
    fresh = iia.wrap(make().to(torch.bfloat16).float(), image_size=16)
    assert torch.equal(iia.explain(converted, x, classes, steps=2), iia.explain(fresh, x, classes, steps=2))


class Child(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, u):
        return self.parent().layer2(u).tanh()


class Helper:
    def __init__(self, function):
        self.functions = {"layer3": [function]}


class Knotted(tv.ResNet):
    """Its parts know each other by weak references, and by functions in lists and objects."""

    def __init__(self, *settings, **more):
        super().__init__(*settings, **more)
        self.child, self.helper = Child(self), Helper(lambda u: self.layer3(u).sin())
        self.ends = [lambda u: self.layer4(u), lambda u: self.fc(u.mean((2, 3)))]

    def forward(self, x):
        x = self.child(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        for function in (*self.helper.functions["layer3"], *self.ends):
            x = function(x)
        return x


def test_a_snapshot_shares_no_functions_and_weak_references_with_the_network():
    network, x = resnet(Knotted), picture()
    model = iia.wrap(network, image_size=64)
    before = check(network, x, 3)
    with torch.no_grad():
        data_writes(network)
    torch.testing.assert_close(iia.explain(model, x, 3, steps=2)[0], before)
    assert differ(check(network, x, 3), before)


def test_a_snapshot_of_another_size_has_functions_of_its_own():
    network, x = resnet(), picture(96)
    closure_forward(network)
    plain = network.forward
    network.forward = lambda x: plain(x.flip(1))
    found = iia.explain(iia.wrap(network, image_size=64), x, 3, steps=2)
    torch.testing.assert_close(found, iia.explain(network, x, 3, steps=2))


def test_what_a_network_counts_and_keeps_is_left_as_it_was():
    class Counting(tv.ResNet):
        def forward(self, x):
            self.calls, self.seen = self.calls + 1, [*self.seen, len(x)]
            self.sizes.append(len(x))
            self.total += len(x)
            self.last = x
            return super().forward(x)

    network = resnet(Counting)
    network.calls, network.seen, network.sizes = 0, [], []
    network.register_buffer("total", torch.zeros(()))
    iia.explain(network, picture(), 3, steps=1)
    assert (network.calls, network.seen, network.sizes, float(network.total)) == (0, [], [], 0)
    assert not hasattr(network, "last")
