"""What is explained: networks by name, or the user's own."""

import math
import weakref
from collections.abc import Sequence

import torch
from torch import nn

from ..datasets.pictures import for_channels, parse_size
from ..errors import UserError, check_choice
from ..precision import PRECISIONS, products
from .cnn import CNN, OnlyAttention
from .model import Model
from .snapshot import take, unwrapped
from .vit import NotAViT, ViT

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = dict.fromkeys(IMAGENET, (0.5, 0.5, 0.5))            # what timm's and transformers' own ViTs read
OF_HALF = {"VisionTransformer", "ViTForImageClassification", "BeitForImageClassification",
           "Data2VecVisionForImageClassification"}
SIZES = (224, 32, 28, 64, 96, 128, 256, 384, 512, 299)      # of pictures, tried where the network does not
                                                            # say its own


@torch.inference_mode(False)           # there is no gradient inside that mode, and wrap looks at one
def wrap(network: nn.Module, name: str | None = None, mean: tuple | None = None, std: tuple | None = None,
         precision: str = "fp32", image_size: int | tuple[int, int] | None = None,
         in_chans: int | None = None, labels: list[str] | None = None) -> CNN | ViT:
    """Any network from pictures to logits as something that can be explained.

    It is a snapshot: the network may be trained on, what is returned stays as it is. It is seen to answer as
    the network does, on random pictures.

    Args:
        network: a module; [N, C, H, W] -> logits [N, classes], or an object with `.logits`. It is left as it
            is.
        name: what files call it.
        mean, std: the normalisation of its pictures; None for what timm or transformers says of it, else
            ImageNet's.
        precision: "fp32"; "tf32", which lets a GPU round float32's factors; "bf16" or "fp16" for a CNN's
            features in bfloat16 or half; "bf16" also for a ViT.
        image_size: a number or (height, width), and `in_chans`: the pictures' channels; None to find them
            out.
        labels: the names of its classes.

    Raises:
        UserError: it cannot be copied, does not read such pictures, has no gradient, or has neither attention
            over patches nor a layer with a grid of cells.
    """
    if isinstance(network, Model):
        return network
    check_choice("precision", precision, PRECISIONS)
    original = unwrapped(network)
    kinds = {kind.__name__ for kind in type(original).__mro__ if "torchvision" not in kind.__module__}
    usual = HALF if kinds & OF_HALF else IMAGENET
    config = usual | (getattr(original, "pretrained_cfg", None) or {})
    if in_chans is not None and (type(in_chans) is not int or in_chans < 1):
        raise UserError(f"in_chans is {in_chans!r}; it is a whole number, at least 1.")
    shapes = [(count, *size) for size in sizes_of(original, parse_size(image_size))
              for count in ([in_chans] if in_chans else channels_of(original))]
    with products(precision):
        whole = take(network, shapes, says=own_size(original))
        channels = whole.probe.shape[1]
        mean, std = (for_channels(config[key] if given is None else numbers(key, given, channels), channels)
                     for given, key in ((mean, "mean"), (std, "std")))
        try:
            model = ViT(whole, name or "vit", mean, std, precision, labels)
        except NotAViT as why:
            try:
                model = CNN(whole, name or "cnn", mean, std, precision, labels)
            except OnlyAttention as also:
                raise UserError(f"{also} ({why}).") from why
    if isinstance(labels, str):
        raise UserError("labels are a list of names; iia.load_model reads them from a file.")
    if labels is not None and len(labels) != model.classes:
        raise UserError(f"{len(labels)} labels were given, but {model.name} has {model.classes} classes.")
    model.modules_names = weakref.WeakKeyDictionary(
        {module: name for name, module in original.named_modules()})
    return model


def numbers(key: str, given: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or std, three numbers or one for each channel; raises UserError where it is other."""
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (3, channels) or not all(math.isfinite(value) and (key == "mean" or value > 0)
                                                   for value in values):
        raise UserError(f"{key} is {given!r}; it has a number for each of the {channels} channels"
                        f"{', above 0' * (key == 'std')}.")
    return values


def channels_of(network: nn.Module) -> list[int]:
    """How many channels the pictures may have: as its settings say, else its first convolution; else 3."""
    config, facts = getattr(network, "config", None), getattr(network, "pretrained_cfg", None) or {}
    says = getattr(config, "num_channels", None)
    first = next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), 3)
    return list(dict.fromkeys([says] if says else [first, *facts.get("input_size", ())[:1], 3]))


def own_size(network: nn.Module) -> tuple[int, int] | None:
    """(height, width) of its pictures, as timm, transformers or torchvision say it."""
    says = (getattr(getattr(network, "patch_embed", None), "img_size", None)
            or getattr(getattr(network, "config", None), "image_size", None)
            or getattr(network, "image_size", None)
            or (getattr(network, "pretrained_cfg", None) or {}).get("input_size", ())[1:])
    size = (says, says) if isinstance(says, int) else tuple(says or ())
    return size if len(size) == 2 else None


def sizes_of(network: nn.Module, given: tuple[int, int] | None) -> list[tuple[int, int]]:
    """The sizes of pictures to try, (height, width): the one given, else its own and then the usual ones."""
    if given is not None:
        return [given]
    size = own_size(network)
    return ([size] if size else []) + [(side, side) for side in SIZES]
