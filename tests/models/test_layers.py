"""Where a network is cut: by number, name or module; pictures of any size and channels; what is no layer."""

import pytest
import torch
from torch import nn

import iia
from iia.models.layers import near_spots

from ..conftest import random_weights, toy_vgg
from .networks_of_users import check, picture, refused, resnet, weights_like


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_and_pictures_that_are_not_square(channels):
    network = resnet()
    network.conv1 = weights_like(nn.Conv2d(channels, 8, 7, 2, 3, bias=False))
    check(network, picture((64, 96), channels), 3)
    assert iia.wrap(network).channels == channels


def test_small_pictures_and_a_layer_of_one_cell():
    network, x = resnet(), picture(32)
    for layer in ("last", "layer4"):
        for name in ("iia", "gradcam"):
            with refused("layer3"):
                iia.explain(network, x, 3, name, layer=layer, steps=1)
    check(network, x, 3, "layer3", before="layer2")
    assert iia.explain(network, x, 3, "ig").max() == 1


@pytest.mark.parametrize("layer, module", [
    ("layer3", "layer3"), ("layer3.0", "layer3.0"), ("layer3.-1", "layer3.1"), ("layer3.-2", "layer3.0"),
    (7, "layer3"), (8, "layer4"), ("last", "layer4"), ("layer4", "layer4"), ("layer4.-1", "layer4.0"),
    ("maxpool", "maxpool"), (1, "conv1"), ("module", "layer3"), ("module of a container", "layer3.0"),
])
def test_layers(layer, module):
    network, x = resnet(depths=(1, 1, 2, 1)), picture()
    network.maxpool = nn.AvgPool2d(3, 2, 1)             # a maximum's choice on the picture 0 hangs on
                                                        # rounding
    layer = network.get_submodule(module) if str(layer).startswith("module") else layer
    check(network, x, 3, layer, module=module, operations=("iia", "gradcam"))


@pytest.mark.parametrize("layer, said", [
    ("layer3.0.conv1", r"layer3\.0(?!\.)|layer2"), ("layer3.0.downsample", r"layer3\.0(?!\.)|layer2"),
    ("layer3.1.bn1", r"layer3\.[01](?!\.)"), ("layer9", "layer9"), ("layer3.7", r"layer3\.7"),
    ("layer3.-3", r"layer3\.-3"), (0, "0"), (99, "99"), ("fc", "layer4"), ("avgpool", "layer4"),
    ("stranger", "layer"),
])
def test_layers_that_are_none(layer, said):
    network = resnet(depths=(1, 1, 2, 1))
    with refused(said):
        iia.explain(network, picture(), 3, layer=nn.Conv2d(3, 3, 1) if layer == "stranger" else layer,
                    steps=1)


class Columns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 20), nn.ReLU(), nn.Linear(20, 7))

    def forward(self, x):
        return self.layers(x)


def test_a_network_without_a_spatial_layer():
    for name in ("iia", "iia-triple", "gradcam"):
        with refused("layer|spatial|grid"):
            iia.explain(random_weights(Columns()).double(), picture(16), 3, name, steps=1)
    with refused("layer|spatial|grid|pictures"):
        iia.wrap(random_weights(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))), image_size=16)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)])
def test_the_last_layer_is_the_one_before_the_pooling(pool):
    network = toy_vgg()
    network.avgpool = pool
    assert iia.wrap(network, image_size=16).stage_names[-1] == "features.5"


def test_cells_that_are_not_where_the_picture_changed():
    """Half of the spots are not enough to say that a layer's cells lie as the picture's places do."""
    spots = [(1, 7), (7, 1), (3, 5), (6, 4)]
    for right in range(5):
        u = torch.zeros(5, 1, 8, 8)
        for row, (i, j) in enumerate(spots):
            u[row + 1, 0, i, j if row < right else (j + 4) % 8] = 1
        assert near_spots(u, spots) == (right >= 3)


class ChannelsLast(nn.Module):
    """Eight channels on eight rows of eight cells, the channels last."""

    def __init__(self):
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.mixer = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())

    def forward(self, x):
        u = self.mixer(self.patches(x).permute(0, 2, 3, 1))
        return self.fc((u * torch.linspace(0.5, 2, 8, dtype=u.dtype)).tanh().mean((1, 2)))


def test_as_many_channels_as_rows_are_told_from_them_by_where_the_picture_changes():
    network = random_weights(ChannelsLast()).double()
    check(network, picture(32), 3, "mixer", operations=("iia", "gradcam"),
          places={"to_grid": lambda u: u.permute(0, 3, 1, 2)}, before=None)
    check(network, picture(32), 3, "patches", operations=("iia", "gradcam"))
