"""A CNN that only answers, and is quicker at it: its batch norms are folded into its convolutions."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .cnn import CNN
from .frozen import frozen_copy


def folded(model):
    """The same function of a picture, to rounding, in fewer steps; `model` itself is left as it is.

    Its layers are not the network's any more, so it is asked and never explained. What is no `CNN`, and what has no
    batch norm behind a convolution, comes back as it was.
    """
    if not isinstance(model, CNN):
        return model
    network = frozen_copy(model.network)
    count = sum(fold_children(parent) for parent in list(network.modules()))
    if not count:
        return model
    asked = CNN(network, model.name, model.mean, model.std, model.precision)
    asked.label = model.label
    return asked.to(model.device)


def fold_children(parent: nn.Module) -> int:
    """Fold each batch norm among a module's children into the convolution before it; returns how many.

    In the families of `iia.models.cnn`, a batch norm that follows a convolution in the list reads that convolution.
    """
    children, count = list(parent.named_children()), 0
    for (name, conv), (next_name, norm) in zip(children, children[1:]):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, next_name, getattr(norm, "act", nn.Identity()))     # timm's batch norms activate too
            count += 1
    return count
