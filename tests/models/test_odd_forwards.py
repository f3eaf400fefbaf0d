"""Networks that no trace can follow, and outputs that are objects."""

from dataclasses import dataclass

import pytest
import torch
import torchvision.models as tv
from torch import nn

import iia

from ..conftest import toy_vit
from .networks_of_users import check, picture, refused, resnet, weights_like


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor


class Wrapped(nn.Module):
    """Outputs an object with logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return Output(self.net(x) ** 2, x)


class Checked(tv.ResNet):
    """Looks at its values, which no trace can."""

    def forward(self, x):
        assert torch.isfinite(x).all()
        if x.abs().max() > 1e9:
            raise ValueError("no picture")
        return super().forward(x + 0.1)


class RowByRow(tv.ResNet):
    """A branch for each picture, before and behind the layer."""

    def forward(self, x):
        x = torch.stack([row.flip(-1) if row.mean() > 0 else 0.3 * row for row in x])
        u = self.layer4(self.layer3(self.layer2(self.layer1(
            self.maxpool(self.relu(self.bn1(self.conv1(x))))))))
        return torch.stack([self.fc(v) if v[0] > v[1] else self.fc(v.roll(1)).sin() for v in u.mean((2, 3))])


class Numbers(tv.ResNet):
    """Python numbers of a buffer and of sizes on the way."""

    def __init__(self, *settings, **more) -> None:
        super().__init__(*settings, **more)
        self.register_buffer("scale", torch.tensor(1.5, device="cpu"))

    def forward(self, x):
        h, w = x.shape[-2:]
        x = x.view(len(x), 3, h, w) * float(self.scale)
        u = self.layer4(self.layer3(self.layer2(self.layer1(
            self.maxpool(self.relu(self.bn1(self.conv1(x))))))))
        for turn in range(int(self.scale * 2)):
            u = u.roll(1, 1) + u.sqrt()
        return self.fc(u.sum((2, 3)) * 100 / (h * w))


class TwoPictures(tv.ResNet):
    """The picture is read again behind the layer: layer4 is no cut."""

    def forward(self, x):
        return super().forward(x) + x.mean((2, 3)).sum(1, keepdim=True).sin() * 30


@pytest.mark.parametrize("kind", [Checked, RowByRow, Numbers])
def test_networks_that_cannot_be_traced(kind):
    network = resnet(kind)
    for seed in (1, 2):
        check(network, picture(seed=seed), 3)
    check(network, picture(), 3, "layer3.0", operations=("iia", "gradcam"))


def test_outputs_with_logits():
    check(Wrapped(resnet()), picture(), 3, "net.layer4", before="net.layer3")

    class Pair(Wrapped):
        def forward(self, x):
            return [self.net(x), x]

    with refused("logits"):
        iia.explain(Pair(resnet()), picture(), 3, steps=1)


@pytest.mark.parametrize("end, said", [
    (lambda u: u.argmax(1, keepdim=True), "of torch.int64 for 2 pictures, no logits"),
    (lambda u: u[:, 0], "of torch.float64 for 2 pictures, no logits"),
    (lambda u: u[:, :, None], "of torch.float64 for 2 pictures, no logits")], ids=["class", "column", "map"])
def test_outputs_that_are_no_logits(end, said):
    network = resnet()
    network.register_forward_hook(lambda module, inputs, output: end(output))
    with refused(said):
        iia.wrap(network, image_size=64)


def test_a_layer_that_is_passed_by_is_no_cut():
    with refused("layer4|layer"):
        iia.explain(resnet(TwoPictures), picture(), 3, layer="layer4", steps=1)


def test_rows_that_mix_are_run_one_by_one_at_every_size():
    network = weights_like(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    model, x = iia.wrap(network, image_size=16), picture(24)
    for size in (16, 24):
        pictures = torch.cat([picture(size), 2 * picture(size).flip(3)])
        found = iia.explain(model, pictures, 3, layer=3, steps=2)
        alone = torch.cat([iia.explain(network, row, 3, layer=3, steps=2) for row in pictures.split(1)])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(model.sized(pictures.shape[1:])(x), network(x))


class ByPlace(tv.ResNet):
    """What it adds to a row hangs on the row's place in the batch."""

    def forward(self, x):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        return super().forward(x + noise)


class ByTheLast(tv.ResNet):
    """It sees the last row of a batch in another light."""

    def forward(self, x):
        return super().forward(torch.cat([x[:-1], x[-1:].tanh()]))


@pytest.mark.parametrize("kind", [ByPlace, ByTheLast])
def test_rows_that_hang_on_their_place_are_run_one_by_one(kind):
    pictures = torch.cat([picture(), picture(seed=2)])
    found = iia.explain(resnet(kind), pictures, 3, steps=2)
    for row, maps in zip(pictures.split(1), found):
        torch.testing.assert_close(iia.explain(resnet(kind), row, 3, steps=2)[0], maps)
    check(resnet(kind), picture(), 3, operations=("iia", "gradcam"))


def test_a_network_that_keeps_what_it_computed_in_a_list():
    class Keeping(tv.ResNet):
        def forward(self, x):
            self.kept = [super().forward(x)]
            return self.kept[0]

    network = resnet(Keeping)
    network(picture())                                     # in a graph, of which there is no deepcopy
    check(network, picture(), 3, operations=("iia",))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_attention_in_a_scripted_block_does_not_show():
    network = toy_vit().eval()
    network.blocks[1] = torch.jit.trace(network.blocks[1], torch.ones(1, 17, 24))
    with refused("scripted by torch.jit"):
        iia.wrap(network)


class ForThree(nn.Module):
    """Takes another way for three pictures; `how` says which."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first = how, nn.Conv2d(3, 6, 3, 2, 1)
        self.layer, self.head = nn.Conv2d(6, 6, 3, 2, 1), nn.Linear(6, 7)

    def forward(self, x):
        u, three = self.first(x), len(x) == 3
        u = u[..., ::2, ::2].relu() if three and self.how == "around the layer" else self.layer(u).relu()
        logits = self.head(u.mean((2, 3)))
        return logits[:2] if three and self.how == "fewer rows" else logits


@pytest.mark.parametrize("how, part", [
    ("around the layer", "features"), ("around the layer", "tail"), ("fewer rows", "tail")])
def test_another_way_for_another_number_of_pictures_is_an_error(how, part):
    model, x = iia.wrap(weights_like(ForThree(how)), image_size=64), picture().expand(3, -1, -1, -1)
    cut = model.cut("layer")
    u = model.features(x[:2], cut)[[0, 0, 1]]
    with refused("takes another way for these 3 pictures"):
        model.features(x, cut) if part == "features" else model.tail(cut)(u)


def test_answers_that_differ_for_a_single_picture_each_time():
    network = resnet()
    network.register_forward_hook(
        lambda module, inputs, logits: logits + torch.randn(7) if len(logits) == 1 else None)
    with refused("answers a picture differently each time"):
        iia.wrap(network, image_size=64)


def test_a_front_that_overwrites_what_its_gradient_needs_is_no_hindrance():
    def overwriting(module, inputs, output):
        u = output.tanh()
        v = u + 0
        u.mul_(2)                                         # of which tanh's gradient is made
        return v

    network, x = resnet(), picture()
    network.layer1.register_forward_hook(overwriting)
    check(network, x, 3, operations=("iia", "iia-triple"))
    with refused("no gradient from its logits to conv1 .*give a network"):
        iia.explain(network, x, 3, layer="conv1")


@pytest.mark.filterwarnings("ignore")                     # of torch's, that its quantisation moves
def test_an_operation_without_a_derivative_anywhere_on_the_way_is_refused():
    """torch would take its gradient for 0, and warn."""
    side = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(64, 7)), dtype=torch.qint8)
    network = resnet().float()
    network.side = side

    def beside(module, inputs, output):
        return output + network.side(inputs[0])

    network.fc.register_forward_hook(beside)
    with refused("no gradient from its logits to its pictures"):
        iia.wrap(network, image_size=64)
