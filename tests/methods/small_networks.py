"""A small network of each family of METHOD.md's section 2: random weights, seeded, offline."""

import torch
import torchvision.models as tv
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from tests.models.networks_of_users import resnet

CLASSES = 10


class ToyVGG(tv.VGG):
    """f(x) = W2 ReLU(W1 mean(ReLU(conv2 maxpool(ReLU(conv1 x))))), with biases and in-place ReLUs.

    Its stages: 1 conv1, 2 ReLU, 3 max pooling, 4 conv2, 5 ReLU. Layers 2, 3, 5 are not negative.
    `more` adds layers behind them.
    """

    def __init__(self, *more: int | str) -> None:
        nn.Module.__init__(self)
        self.features = tv.vgg.make_layers([5, "M", 6, *more])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES))


FAMILIES = {
    "vgg": ToyVGG,
    "vgg with two convolutions before a pooling": lambda: ToyVGG(6, "M"),
    "resnet": lambda: resnet(classes=CLASSES).float(),
    "resnet with bottlenecks": lambda: resnet(classes=CLASSES, block=Bottleneck).float(),
    "densenet": lambda: tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES),
    "convnext": lambda: tv.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 1),
                                     CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)],
                                    layer_scale=1.0, num_classes=CLASSES),
    "efficientnet": lambda: EfficientNet(
        decode_arch_def([["ds_r1_k3_s2_e1_c8"], ["ir_r2_k3_s2_e6_c12"], ["ir_r1_k5_s1_e6_c16"]]),
        CLASSES, num_features=24, stem_size=8, pad_type="same", act_layer=nn.ReLU6),
}


WIDE = {"wide resnet": lambda: tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)}


def network(family: str) -> nn.Module:
    """A network of the family whose biases and norms do something, in eval mode.

    Fresh networks start with biases 0 and norms that are the identity, which would hide mistakes.
    """
    torch.manual_seed(0)
    net = (FAMILIES | WIDE)[family]().eval()
    for module in net.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net
