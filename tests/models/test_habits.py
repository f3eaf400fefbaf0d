"""What users' networks do beside computing: write to pictures, look at memory, count, compile."""


import pytest
import torch
import torch.nn.functional as F
from torch import nn

import iia

from ..conftest import random_weights, toy_vit
from .networks_of_users import check, check_vit, picture, refused, resnet
from .test_vits_of_users import Own, OwnAttention


class Net(nn.Module):
    """Activations are functions; `mean` makes features of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.fc = nn.Linear(12, 7)

    def layer(self, x):
        return self.conv2(F.relu(self.conv1(x)))

    def mean(self, u):
        return F.relu(u).mean((2, 3))

    def forward(self, x):
        return self.fc(self.mean(self.layer(x)))


def net(kind: type = Net) -> Net:
    return random_weights(kind()).double()


def test_a_network_that_writes_to_its_pictures():
    class Written(Net):
        def forward(self, x):
            x -= 0.3
            x[:, 0] *= 2
            return super().forward(x)

    class Kept(Written):
        def forward(self, x):
            return super().forward(x.clone())

    x = picture(32)
    found = [iia.explain(net(Written), x, 3, name, steps=2) for name in ("iia", "gradcam", "ig")]
    assert torch.equal(x, picture(32))
    for name, maps in zip(("iia", "gradcam", "ig"), found):
        torch.testing.assert_close(maps, iia.explain(net(Kept), x, 3, name, steps=2), rtol=0, atol=1e-6)
    check(net(Kept), x, 3, "conv2", operations=("iia", "gradcam"))


def test_a_network_that_reads_memory_in_its_order():
    """Channels last is other numbers there, or an error."""
    class Strided(Net):
        def mean(self, u):
            b, c, h, w = u.shape
            return super().mean(u.as_strided((b, c, h // 2, w), (c * h * w, h * w, 2 * w, 1)))

    class Viewed(Net):
        def mean(self, u):
            return super().mean(u.view(len(u), 12, 8, 8)) + u.view(len(u), 12, -1)[..., 3]

    for kind in (Strided, Viewed):
        check(net(kind), picture(32), 3, "conv2", before="conv1")
        torch.testing.assert_close(iia.wrap(net(kind), image_size=32)(picture(32)), net(kind)(picture(32)))

    class Asking(Net):
        def mean(self, u):
            assert u.is_contiguous(memory_format=torch.channels_last)
            return super().mean(u)

    with refused("cannot be cut"):
        iia.wrap(net(Asking).to(memory_format=torch.channels_last), image_size=32)


def test_parts_that_are_compiled():
    network = resnet()
    network.layer3 = torch.compile(network.layer3, backend="eager")
    plain = iia.explain(resnet(), picture(), 3, layer="layer4", steps=2)
    torch.testing.assert_close(iia.explain(network, picture(), 3, layer="layer4", steps=2), plain)
    method = net()
    method.layer = torch.compile(method.layer, backend="eager")
    torch.testing.assert_close(iia.explain(method, picture(32), 3, steps=2),
                               iia.explain(net(), picture(32), 3, steps=2))


def test_layers_in_a_plain_list_whose_weights_want_gradients():
    class Hidden(Net):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Conv2d(12, 12, 1).double()]

        def mean(self, u):
            return super().mean(self.hidden[0](u))

    check(net(Hidden), picture(32), 3, "conv2", before="conv1")


def test_a_network_without_weights_at_another_size():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(4)

        def forward(self, x):
            return F.adaptive_avg_pool2d(self.pool(x.sin()).relu(), 2).flatten(1)

    x = picture(48, dtype=torch.float32)
    found = iia.explain(iia.wrap(Bare(), image_size=32), x, 3, steps=2)
    assert found.max() == 1 and torch.equal(found, iia.explain(Bare(), x, 3, steps=2))


class Counting(Net):
    count = 0

    def forward(self, x):
        self.count += 1
        return super().forward(x) * (1 + self.count % 2)


class Smoothing(Net):
    def forward(self, x):
        return super().forward(x).sin() if torch.is_grad_enabled() else super().forward(x)


class Constant(Net):
    def forward(self, x):
        return 0 * super().forward(x) + 1


class Squeezed(Net):
    def mean(self, u):
        return super().mean(u).squeeze()


class Itself(Net):
    def __deepcopy__(self, memo):
        return self


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(7)


@pytest.mark.parametrize("kind, said", [
    (Counting, "differently each time"), (Smoothing, "when gradients are computed"), (Itself, "own copy"),
    (Constant, "very same logits.*layer of zeros"),
    (Squeezed, r"\[7\] for one picture"), (Lazy, "uninitialized")])
def test_habits_that_are_refused(kind, said):
    with refused(said):
        iia.wrap(kind().double().eval(), image_size=32)


def test_a_target_that_fails():
    with refused("target fails .* index 99"):
        iia.explain(net(), picture(32), target=lambda logits: logits[:, 99])


# ------------------------------------------------------------------------------- comparison methods

def test_lift_cam_of_a_network_with_functions_before_its_layer():
    modules = nn.Sequential(net().conv1, nn.ReLU(), net().conv2, nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten(), net().fc)
    torch.testing.assert_close(iia.explain(net(), picture(32), 1, "lift-cam", layer="conv2"),
                               iia.explain(modules, picture(32), 1, "lift-cam", layer=3))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_library_does_not_know_is_a_sentence():
    class Twice(Net):
        def mean(self, u):
            return super().mean(F.interpolate(self.conv1(u[:, :3]), 8).repeat(1, 2, 1, 1)[:, :12] + u)
    with refused("fullgrad cannot explain"):
        iia.explain(net(Twice), picture(32), 3, "fullgrad", layer="last")


@pytest.mark.parametrize("change", [
    lambda head: nn.Sequential(head, nn.Tanh()), lambda head: head.register_forward_hook(
        lambda module, inputs, output: output.roll(1, 1)) and head])
def test_t_attr_of_a_head_that_is_not_its_weights(change):
    network = toy_vit().double()
    network.head = change(network.head)
    with refused("t-attr has no rules"):
        iia.explain(network, picture(16), 3, "t-attr")


# -------------------------------------------------------------------------------------------- ViTs

def test_a_forward_of_its_own_whose_defaults_are_modules():
    network = toy_vit().double()

    def forward(x, first=network.patch_embed, inner=network.forward):
        return inner(x - 0.1 * first(x).mean((1, 2), keepdim=True)[..., None])

    network.forward = forward
    check_vit(network, picture(16), 3, (4, 4))


class HeadsFirstAttention(OwnAttention):
    """Heads and pictures in one dimension, but the heads first: torch's own attention has them second."""

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 3, 8)).permute(2, 3, 0, 1, 4).flatten(1, 2)
        a = (q @ k.mT / 8**0.5).softmax(-1)
        return (a @ v).unflatten(0, (3, -1)).permute(1, 2, 0, 3).flatten(2)


def test_attention_of_several_pictures_in_another_order():
    network = Own(False)
    for block in network.layers:
        block[0] = HeadsFirstAttention(False)
    with refused("another order"):
        iia.wrap(random_weights(network), image_size=(16, 32))


def test_two_vits_beside_each_other_are_no_row_of_blocks():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = toy_vit(), toy_vit()

        def forward(self, x):
            return self.one(x) + self.other(x.flip(-1))

    with refused("no layer|no row of blocks"):
        iia.wrap(Pair(), image_size=16)


def test_a_name_is_no_network():
    with refused("not str; iia.load_model makes one of a name"):
        iia.wrap("resnet18")
