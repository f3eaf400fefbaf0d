"""What is explained: networks by name, or the user's own."""

import sys

import torch
from torch import nn

from ..errors import UserError, check_choice, unknown
from .cnn import ALIASES, CNN, NETWORKS
from .lite0 import packaged_state_dict
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
        if weights_path:
            load_strictly(network, read_state_dict(weights_path), weights_path)
        elif name == "efficientnet_lite0":
            load_strictly(network, packaged_state_dict(network), "the installed package")
        else:
            file = find(name, Source(url=row.weights.url))
            load_strictly(network, read_state_dict(file), file)
    except WeightsMissing:
        if not allow_random_weights:
            raise
        label = f"{name} (random weights)"
        print(f"warning: {name} has random weights; its maps mean nothing.", file=sys.stderr)
    model = CNN(network, name, row.mean, row.std, precision)
    model.label = label
    return model


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


def wrap(network: nn.Module, **how) -> CNN:
    """A network of the user's own as something that can be explained; see `CNN`."""
    if isinstance(network, CNN):
        return network
    return CNN(network, **how)
