"""A network by its name with its weights, its published ones or the user's own,
as something that can be explained."""

import sys

import torch
from torch import Tensor, nn

from ..datasets.labels import read_labels
from ..datasets.pictures import parse_size
from .names import TIMM_NAMES, build, old_vit_small
from .weights import WeightsMissing, find, load_strictly, packaged, packaged_state_dict, read_state_dict


def load_model(name: str, weights_path: str | None = None, allow_random_weights: bool = False,
               precision: str = "fp32", labels_file: str | None = None,
               image_size: int | str | tuple[int, int] | None = None, in_chans: int | None = None):
    """A network by its name with its published weights, or with a state dict of the user's own, on the CPU.

    Args:
        name: of `iia.models.names.SHORT_NAMES`, of torchvision, or of timm.
        weights_path: a state dict of this network, of any number of classes and channels; None for the
            published weights.
        allow_random_weights: where no weights can be had, take random ones (seeded).
        precision: as of `iia.wrap`.
        labels_file: the names of the classes, one a line, or as JSON; None for ImageNet's where there are
            1000 classes.
        image_size: a number or "height,width"; None for the network's own.
        in_chans: channels of a picture; None for those that the weights have.

    Returns:
        A CNN or a ViT (see `iia.wrap`).

    Raises:
        UserError: an unknown name, or a file or a size that does not fit.
        WeightsMissing: the published weights cannot be had here.
    """
    from . import wrap
    torch.manual_seed(0)                      # so that random weights are the same in every run
    size, own_labels = parse_size(image_size), labels_file and read_labels(labels_file)
    network, facts = build(name, None, in_chans, size)
    label = facts.name
    try:
        package = None if weights_path is not None else packaged(TIMM_NAMES.get(facts.name, facts.name))
        origin = package or weights_path or find(facts.name, facts.source)
        state = packaged_state_dict(package, network) if package else read_state_dict(origin)
        if facts.name == "vit-small" and len(state.get("blocks.0.attn.qkv.weight", ())) == 3 * 768:
            network = old_vit_small()
        elif shape := shape_of(network, state):
            in_chans = in_chans or shape.get("in_chans")
            network, facts = build(name, shape.get("num_classes"), in_chans, size)
        if weights_path is None and hasattr(module := sys.modules[type(network).__module__],
                                            "checkpoint_filter_fn"):
            # timm's: older forms, pictures of another size
            state = module.checkpoint_filter_fn(state, network)
        load_strictly(network, state, origin)
    except WeightsMissing:
        if not allow_random_weights:
            raise
        print(f"warning: {label} has random weights; its maps mean nothing.", file=sys.stderr)
        label = f"{label} (random weights)"
    model = wrap(network, name=facts.name.replace("/", "_"), mean=facts.mean, std=facts.std,
                 precision=precision, image_size=facts.image_size, in_chans=in_chans,
                 labels=own_labels or facts.labels)
    model.label = label
    if model.way == "whole":
        print(f"note: {label} runs whole for every step, since its first part cannot be left out; "
              "this is slow.", file=sys.stderr)
    return model


def shape_of(network: nn.Module, state: dict[str, Tensor]) -> dict[str, int]:
    """Where a state dict is of another number of classes or channels than the network, these numbers: the
    arguments of `build` that differ."""
    wanted, classes = network.state_dict(), getattr(network, "num_classes", 1000)
    pairs = [(value.shape, state[name].shape) for name, value in wanted.items()
             if name in state and value.shape != state[name].shape]
    found = {"num_classes": {new[0] for old, new in pairs if old[1:] == new[1:] and old[0] == classes},
             "in_chans": {new[1] for old, new in pairs
                          if len(old) == len(new) == 4 and old[1] == 3 and old[2:] == new[2:]}}
    head = f"{getattr(network, 'pretrained_cfg', {}).get('classifier')}.weight"
    # timm's has no head
    found["num_classes"] |= {len(state[head])} if head in state and head not in wanted else set()
    return {name: values.pop() for name, values in found.items() if len(values) == 1}
