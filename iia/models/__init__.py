"""What is explained: networks by name, or the user's own."""

import sys

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..errors import check_choice, unknown
from ..settings import Settings
from . import vit
from .cnn import ALIASES, CNN, NETWORKS
from .lite0 import packaged_state_dict
from .vit import ViT
from .weights import Source, WeightsMissing, find, load_strictly, read_state_dict

PRECISIONS = ("fp32", "bf16")


def load_cnn(name: str, weights_path: str | None = None, allow_random_weights: bool = False,
             precision: str = "fp32") -> CNN:
    """A CNN of METHOD.md's section 2 with its published weights, on the CPU.

    Args:
        name: a name of `iia.models.cnn.NETWORKS`, or the release's alias of it.
        weights_path: a state dict of exactly this network; None for the published weights.
        allow_random_weights: where no weights can be had, take random ones (seeded).
        precision: "fp32" or "bf16".

    Raises:
        UserError: an unknown name, or a file that does not fit.
        WeightsMissing: the published weights cannot be had here.
    """
    name = ALIASES.get(name, name)
    if name not in NETWORKS:
        raise unknown("model_name", name, NETWORKS)
    check_choice("precision", precision, PRECISIONS)
    row = NETWORKS[name]
    torch.manual_seed(0)                      # so that random weights are the same in every run
    network, label = row.build(), name
    try:
        if weights_path is None and name == "efficientnet_lite0":
            load_strictly(network, packaged_state_dict(network), "the installed package")
        else:
            file = weights_path or find(name, Source(url=row.weights and row.weights.url))
            load_strictly(network, read_state_dict(file), file)
    except WeightsMissing:
        label = random_label(name, allow_random_weights)
    model = CNN(network, name, row.mean, row.std, precision)
    model.label = label
    return model


def load_vit(name: str, weights_path: str | None = None, allow_random_weights: bool = False,
             precision: str = "fp32") -> ViT:
    """A ViT with its published weights, on the CPU: "vit-base", "vit-small", or any of timm's by its name.

    A file of the shape of `vit_small_p16_224-15ec54c9.pth` loads as the network that it is. Arguments
    and errors as in `load_cnn`.
    """
    check_choice("precision", precision, PRECISIONS)
    torch.manual_seed(0)
    network, label = vit.build(name), name
    vit.check_explainable(network)
    config = network.pretrained_cfg
    try:
        file = weights_path or find(name, vit.source(name))
        state = read_state_dict(file)
        if name == "vit-small" and vit.is_old_vit_small(state):
            network = vit.old_vit_small()
        load_strictly(network, state, file)
    except WeightsMissing:
        label = random_label(name, allow_random_weights)
    model = ViT(network, name, config["mean"], config["std"], precision)
    model.label = label
    return model


def load_model(name: str, **how) -> CNN | ViT:
    """A network by its name, as `load_cnn` or `load_vit` does it (their arguments and errors)."""
    if name in NETWORKS or name in ALIASES:
        return load_cnn(name, **how)
    if name in vit.NETWORKS or timm.is_model(name):
        return load_vit(name, **how)
    raise unknown("model_name", name, [*NETWORKS, *vit.NETWORKS], more="any ViT by its name in timm")


def random_label(name: str, allowed: bool) -> str:
    """What figures call a network without weights; called while WeightsMissing is handled, and raises it
    again unless random weights were asked for."""
    if not allowed:
        raise
    print(f"warning: {name} has random weights; its maps mean nothing.", file=sys.stderr)
    return f"{name} (random weights)"


def load_cnn_or_fallback(name: str, fallback: str | None, **how) -> CNN:
    """`load_cnn`, or the fallback network with a warning where no weights of `name` can be had."""
    try:
        return load_cnn(name, **how)
    except WeightsMissing as why:
        if fallback is None:
            raise
        print(f"warning: explaining {fallback} instead of {name}, whose weights are {why.reason}.\n"
              f"         {why.remedy}", file=sys.stderr)
        return load_cnn(fallback, precision=how.get("precision", "fp32"))


def chosen_cnn(chosen: Settings) -> CNN:
    """The CNN that a script's settings ask for. One that was named by flag is never replaced."""
    fallback = None if "model_name" in chosen.given else chosen.fallback_model_name
    return load_cnn_or_fallback(chosen.model_name, fallback, **_how(chosen))


def chosen_vit(chosen: Settings) -> ViT:
    """The ViT that a script's settings ask for."""
    return load_vit(chosen.model_name, **_how(chosen))


def _how(chosen: Settings) -> dict:
    return {name: getattr(chosen, name) for name in ("weights_path", "allow_random_weights", "precision")}


def wrap(network: nn.Module, **how) -> CNN | ViT:
    """A torchvision or timm network of the user's own as something that can be explained.

    `how` are the arguments of `CNN` or `ViT` (name, mean, std, precision). Raises UserError for a
    network of no known family.
    """
    if isinstance(network, (CNN, ViT)):
        return network
    return (ViT if isinstance(network, VisionTransformer) else CNN)(network, **how)
