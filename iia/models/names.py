"""Networks by name: today's short names, any of torchvision's, any of timm's.

A plain name is that of a row below where there is one, else torchvision's, else timm's. A tag
(`resnet50.a1_in1k`) or the prefix `timm/` means timm.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches

import timm
import torchvision.models as tv
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..datasets.labels import IMAGENET
from ..datasets.pictures import for_channels
from ..errors import UserError, rephrased, unknown
from .weights import Source

# Torchvision's networks of which the first published weights are taken, as in the release;
# of all others the newest.
FIRST_WEIGHTS = "resnet18 resnet34 resnet50 resnet101 resnet152 densenet201 convnext_base vgg16 vgg19".split()
TIMM_NAMES = {"efficientnet_lite0": "tf_efficientnet_lite0",
              "vit-base": "vit_base_patch16_224.orig_in21k_ft_in1k",
              "vit-small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
              "vit-tiny": "vit_tiny_patch16_224.augreg_in21k_ft_in1k"}
FILES = {"vit-base": ("jx_vit_base_p16_224-80ecf9dd.pth",), "vit-small": ("vit_small_p16_224-15ec54c9.pth",)}
ALIASES = {"densnet": "densenet201", "convnext": "convnext_base"}           # the names that the release uses
SHORT_NAMES = (*FIRST_WEIGHTS, *TIMM_NAMES)


@dataclass(frozen=True)
class Facts:
    """What is known of a network by its name.

    name: its own, not an alias. mean, std: the normalisation of its pictures, a number for each channel.
    image_size: (height, width). source: where its weights are. labels: ImageNet's names, where it has 1000
    classes.
    """
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    source: Source
    labels: list[str] | None


def build(name: str, num_classes: int | None = None, in_chans: int | None = None,
          image_size: tuple[int, int] | None = None) -> tuple[nn.Module, Facts]:
    """The network of that name with random weights, and what is known of it.

    Args:
        num_classes, in_chans, image_size: of the network; None for what its published weights have.

    Raises:
        UserError: an unknown name, or a network that cannot be built so.
    """
    if isinstance(name, nn.Module):
        raise UserError(f"model_name is a network itself ({type(name).__name__}); iia.wrap(network) takes "
                        "it.")
    name = ALIASES.get(name, str(name))
    if name.endswith((".pth", ".pt", ".bin", ".safetensors")):
        raise UserError(f"model_name {name!r} is a file; give the network's name, and the file as "
                        "weights_path.")
    if in_chans is not None and (type(in_chans) is not int or in_chans < 1):
        raise UserError(f"in_chans is {in_chans!r}; it is a whole number, at least 1.")
    known = TIMM_NAMES.get(name, name.removeprefix("timm/"))
    if known == name and name in tv.list_models(module=tv):
        make = torchvision_network
    elif timm.is_model(known) and ("." not in known or known in timm.list_models(include_tags=True)):
        make = timm_network
    else:
        every = [*tv.list_models(module=tv), *timm.list_models(), *timm.list_models(include_tags=True)]
        near = get_close_matches(name, SHORT_NAMES, 1, 0.85) or get_close_matches(known, every, 3)
        raise unknown("model_name", name, dict.fromkeys([*SHORT_NAMES, *near]),
                      more="any name of torchvision or timm")
    with rephrased(f"{name} cannot be built so", "; give an image_size and in_chans that it allows."):
        network, mean, std, size, source = make(known, num_classes, in_chans, image_size)
    source = replace(source, more_names=FILES.get(name, ()))
    labels = list(IMAGENET) if len(IMAGENET) == (
        num_classes or getattr(network, "num_classes", len(IMAGENET))) else None
    return network, Facts(name, *(for_channels(value, in_chans or 3) for value in (mean, std)),
                          size, source, labels)


def torchvision_network(name: str, num_classes: int | None, in_chans: int | None,
                        size: tuple[int, int] | None):
    """A network of torchvision: (network, mean, std, (height, width), source)."""
    weights = getattr(tv.get_model_weights(name), "IMAGENET1K_V1" if name in FIRST_WEIGHTS else "DEFAULT")
    seen, how = weights.transforms(), {"num_classes": num_classes or len(IMAGENET)}
    size = size or tuple(seen.crop_size * 2)
    how |= {"image_size": size[0]} if name.startswith("vit_") \
        else {"input_size": size} if name == "maxvit_t" else {}
    if name in ("googlenet", "inception_v3"):        # without the heads that only training uses
        how |= {"aux_logits": False, "init_weights": False, "transform_input": in_chans in (None, 3)}
    network = tv.get_model_builder(name)(**how)
    first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    if in_chans not in (None, first.in_channels):
        first.in_channels, first.weight = in_chans, nn.Parameter(
            first.weight[:, :1].repeat(1, in_chans, 1, 1))
    return network, seen.mean, seen.std, size, Source(weights.url)


def timm_network(name: str, num_classes: int | None, in_chans: int | None, size: tuple[int, int] | None):
    """A network of timm: (network, mean, std, (height, width), source)."""
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    how = {"num_classes": num_classes, "in_chans": in_chans, "img_size": size if fixed else None}
    network = timm.create_model(name, **{setting: value for setting, value in how.items()
                                         if value is not None})
    facts = network.pretrained_cfg
    url = facts["url"] if facts.get("url", "").endswith((".pth", ".pt", ".safetensors")) else None
    return network, facts["mean"], facts["std"], size or facts["input_size"][1:], \
        Source(url, facts.get("hf_hub_id"))


def old_vit_small() -> VisionTransformer:
    """The network of the file `vit_small_p16_224-15ec54c9.pth`, which is not timm's ViT-S of today.

    Embedding 768, 8 blocks, 8 heads, MLP ratio 3, qkv without bias, attention scale 768^-0.5.
    """
    network = VisionTransformer(embed_dim=768, depth=8, num_heads=8, mlp_ratio=3.0, qkv_bias=False)
    for block in network.blocks:
        block.attn.scale = 768 ** -0.5
        block.attn.fused_attn = False          # the fused kernel knows only its own scale
    return network
