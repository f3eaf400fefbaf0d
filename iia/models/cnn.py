"""A CNN as a row of named stages that can be cut anywhere (METHOD.md, section 2).

"Layer" k is the output of the first k stages; the rest of the network is the tail:
`model.tail(k)(model.features(x, k)) == model(x)`. Adding a network is a row of NETWORKS; adding
a family is a function that splits it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import timm
import torch
import torchvision.models as tv
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from ..errors import UserError
from .frozen import frozen_copy, half_copy, moment, quick_copy

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass
class Split:
    """A network taken apart: its stages by name, and what follows the last of them.

    `released_head` and `released_tail_skips` say where the published release computes another
    function than the network (METHOD.md, section 9).
    """
    stages: dict[str, nn.Module]
    head: nn.Sequential
    released_head: nn.Sequential | None = None
    released_tail_skips: tuple[str, ...] = ()


def parts(classifier: nn.Module) -> list[nn.Module]:
    return list(classifier) if isinstance(classifier, nn.Sequential) else [classifier]


def split_resnet(net: tv.ResNet) -> Split:
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return Split({name: getattr(net, name) for name in names},
                 nn.Sequential(net.avgpool, nn.Flatten(1), net.fc))


def split_densenet(net: tv.DenseNet) -> Split:
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), net.classifier)
    return Split(dict(net.features.named_children()), pool, released_tail_skips=("norm5",))


def split_convnext(net: tv.ConvNeXt) -> Split:
    return Split(dict(net.features.named_children()),
                 nn.Sequential(net.avgpool, *parts(net.classifier)),
                 released_head=nn.Sequential(nn.ReLU(), net.avgpool, *parts(net.classifier)))


def split_vgg(net: tv.VGG) -> Split:
    return Split(dict(net.features.named_children()),
                 nn.Sequential(net.avgpool, nn.Flatten(1), *parts(net.classifier)))


def split_efficientnet(net: EfficientNet) -> Split:
    stages = {"stem": nn.Sequential(net.conv_stem, net.bn1)}
    stages |= {f"blocks{i}": group for i, group in enumerate(net.blocks)}
    stages["head_conv"] = nn.Sequential(net.conv_head, net.bn2)
    return Split(stages, nn.Sequential(net.global_pool, net.classifier))


SPLITS: dict[type, Callable[..., Split]] = {
    tv.ResNet: split_resnet, tv.DenseNet: split_densenet, tv.ConvNeXt: split_convnext,
    tv.VGG: split_vgg, EfficientNet: split_efficientnet,
}


@dataclass(frozen=True)
class Network:
    """A row of the table: how a network is built, and what its pictures and weights are."""
    build: Callable[..., nn.Module]
    weights: object | None = None          # torchvision's weights entry: file name and address
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    aliases: tuple[str, ...] = field(default=())   # the names that the published release uses


def _lite0() -> nn.Module:
    return timm.create_model("tf_efficientnet_lite0")


NETWORKS: dict[str, Network] = {
    "resnet18": Network(tv.resnet18, tv.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": Network(tv.resnet34, tv.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": Network(tv.resnet50, tv.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": Network(tv.resnet101, tv.ResNet101_Weights.IMAGENET1K_V1),
    "resnet152": Network(tv.resnet152, tv.ResNet152_Weights.IMAGENET1K_V1),
    "densenet201": Network(tv.densenet201, tv.DenseNet201_Weights.IMAGENET1K_V1, aliases=("densnet",)),
    "convnext_base": Network(tv.convnext_base, tv.ConvNeXt_Base_Weights.IMAGENET1K_V1, aliases=("convnext",)),
    "vgg16": Network(tv.vgg16, tv.VGG16_Weights.IMAGENET1K_V1),
    "vgg19": Network(tv.vgg19, tv.VGG19_Weights.IMAGENET1K_V1),
    "efficientnet_lite0": Network(_lite0, mean=HALF, std=HALF),
}
ALIASES = {alias: name for name, row in NETWORKS.items() for alias in row.aliases}


class Shared:
    """What operations on the same pictures need alike, kept up to a number of bytes (see `iia.sharing`)."""

    def __init__(self, pictures: Tensor | None = None, room: int = 2**28) -> None:
        self.pictures, self.room, self.kept = pictures, room, {}

    def get(self, pictures: Tensor, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` returns, from memory where it was computed before for the shared pictures."""
        if pictures is not self.pictures:
            return compute()
        if key in self.kept:
            return self.kept[key]
        value = compute()
        if value.nbytes <= self.room:
            self.kept[key], self.room = value, self.room - value.nbytes
        return value


class CNN(nn.Module):
    """A frozen CNN that can be cut after any of its stages.

    Args:
        network: a torchvision ResNet, DenseNet, ConvNeXt or VGG, or a timm EfficientNet. It is left
            as it is: what is explained is a copy of its structure that shares its weights. The passes
            of IIA go through a quicker copy (`quick_copy`), which `refresh` makes anew when a weight has
            changed; `iia.explain` and a call of the model ask for it.
        name: what files and figures call it.
        mean, std: the normalisation of its pictures; None for what timm says of the network, else ImageNet's.
        precision: "fp32", or "bf16" to run the stages in bfloat16 (the integrals stay in float32).

    Raises:
        UserError: the network is of no family that is known how to cut.
    """

    upsampling = "bicubic"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = 10         # n, as in the release
    size = 224                 # pixels, the side of a picture

    def __init__(self, network: nn.Module, name: str = "cnn", mean: tuple | None = None,
                 std: tuple | None = None, precision: str = "fp32") -> None:
        super().__init__()
        splitter = next((s for kind, s in SPLITS.items() if isinstance(network, kind)), None)
        if splitter is None:
            raise UserError(f"{type(network).__name__} of {type(network).__module__.split('.')[0]} is no CNN that is known "
                            "how to cut; known are " + ", ".join(f"{kind.__name__} of {kind.__module__.split('.')[0]}"
                                                                 for kind in SPLITS) + " (see iia/models/cnn.py).")
        config = getattr(network, "pretrained_cfg", None) or {}
        self.name = self.label = name
        self.mean = tuple(mean or config.get("mean", IMAGENET_MEAN))
        self.std = tuple(std or config.get("std", IMAGENET_STD))
        self.precision = precision
        self.network = frozen_copy(network)
        self._split = splitter(self.network)
        for stage in self._split.stages.values():      # a stage must not overwrite the layer it reads
            if hasattr(stage, "inplace"):
                stage.inplace = False
        self._prepare()

    @torch.inference_mode(False)
    def _prepare(self) -> None:
        """Make everything that is derived from the weights."""
        self._moment = moment(self.network)
        self._quick = nn.ModuleDict({name: quick_copy(stage) for name, stage in self._split.stages.items()})
        self._half = nn.ModuleDict({name: half_copy(stage) for name, stage in self._quick.items()}
                                   if self.precision == "bf16" else {})
        self._at_zero: dict[tuple, Tensor] = {}
        self.shared = Shared()

    def refresh(self) -> None:
        """Take over weights that were written to since: the user may train the network on."""
        if self._moment != moment(self.network):
            self._prepare()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def classes(self) -> int | None:
        """How many classes the network tells apart; None where its last part does not say."""
        return getattr(self._split.head[-1], "out_features", None)

    @property
    def stage_names(self) -> list[str]:
        """The stages in order; stage k of 1..len is `stage_names[k - 1]`."""
        return list(self._split.stages)

    def cut(self, layer: int | str) -> int:
        """A layer's number from the setting: 1..len(stage_names), or "last"."""
        last = len(self.stage_names)
        if layer == "last":
            return last
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= last:
            stages = ", ".join(f"{k} {name}" for k, name in enumerate(self.stage_names, 1))
            raise UserError(f'FEATURE_LAYER_NUMBER {layer!r} is no layer of {self.name}. '
                            f'Allowed: "last", or one of {stages}.')
        return layer

    def stages(self, start: int, stop: int, x: Tensor) -> Tensor:
        """Run stages start + 1 .. stop without a gradient: layer `start` -> layer `stop`."""
        half = self.precision == "bf16" and x.dtype != torch.float64 and stop > start
        stages = list((self._half if half else self._quick).values())[start:stop]
        with torch.no_grad():
            u = x.to(torch.bfloat16 if half else x.dtype).contiguous(memory_format=torch.channels_last)
            for stage in stages:
                u = stage(u)
        return u.to(x.dtype)

    def features(self, x: Tensor, cut: int) -> Tensor:
        """Pictures [N, 3, H, W] -> their representation at layer `cut`, [N, C, h, w]."""
        return self.stages(0, cut, x)

    def at_zero(self, cut: int, like: Tensor) -> Tensor:
        """The representation of the baseline picture (all zeros), [1, C, h, w], computed once."""
        key = (cut, like.shape[1:], like.dtype, like.device)
        if key not in self._at_zero:
            self._at_zero[key] = self.features(torch.zeros_like(like[:1]), cut)
        return self._at_zero[key]

    def tail(self, cut: int, definition: str = "paper") -> nn.Sequential:
        """The rest of the network behind layer `cut`, module for module: [N, C, h, w] -> logits [N, classes].

        Under "release" it is what the release runs there, which for two families differs.
        """
        return self._rest(self._split.stages, cut, definition)

    def _rest(self, stages: Mapping[str, nn.Module], cut: int, definition: str = "paper") -> nn.Sequential:
        split, released = self._split, definition == "release"
        skipped = split.released_tail_skips if released else ()
        rest = [stage for name, stage in list(stages.items())[cut:] if name not in skipped]
        return nn.Sequential(*rest, *((released and split.released_head) or split.head))

    def score(self, cut: int, definition: str = "paper") -> Callable[[Tensor, Tensor], Tensor]:
        """f behind layer `cut`: (representations [N, C, h, w], classes [N]) -> f_y [N].

        Of a last linear layer only the classes' own rows are computed.
        """
        tail = self._rest(self._quick, cut, definition)
        body, last = tail[:-1], tail[-1]
        if not isinstance(last, nn.Linear):
            return lambda u, y: tail(u).gather(1, y[:, None])[:, 0]
        bias = last.weight.new_zeros(last.out_features) if last.bias is None else last.bias
        return lambda u, y: (body(u) * last.weight[y]).sum(1) + bias[y]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] -> logits [N, classes], the network's own."""
        self.refresh()
        return self._rest(self._quick, 0)(x.contiguous(memory_format=torch.channels_last))
