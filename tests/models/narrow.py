"""Published networks of their own depth and a fraction of their width, with weights that matter."""

import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck

from iia.models.names import build

from ..conftest import random_weights
from .networks_of_users import resnet


def vgg(letter: str) -> tv.VGG:
    widths = [width if width == "M" else width // 8 for width in tv.vgg.cfgs[letter]]
    with torch.device("meta"):                          # its own classifier has 120 million weights
        network = tv.VGG(nn.Identity(), init_weights=False)
    network.features = tv.vgg.make_layers(widths)
    network.classifier[0], network.classifier[3] = nn.Linear(64 * 49, 64), nn.Linear(64, 64)
    network.classifier[6] = nn.Linear(64, 10)
    return network


def convnext() -> tv.ConvNeXt:
    blocks = [CNBlockConfig(16, 32, 3), CNBlockConfig(32, 64, 3), CNBlockConfig(64, 128, 27),
              CNBlockConfig(128, None, 3)]
    return tv.ConvNeXt(blocks, num_classes=10)


NETWORKS = {
    "resnet18": lambda: resnet(depths=(2, 2, 2, 2)),
    "resnet101": lambda: resnet(depths=(3, 4, 23, 3), block=Bottleneck),
    "densenet201": lambda: tv.DenseNet(4, (6, 12, 48, 32), 8, num_classes=10),
    "convnext_base": convnext, "vgg16": lambda: vgg("D"), "vgg19": lambda: vgg("E"),
    "efficientnet_lite0": lambda: build("efficientnet_lite0")[0],          # of its own width
}


def narrow(name: str) -> nn.Module:
    return random_weights(NETWORKS[name]()).double()
