"""Masking tests: what the answer becomes when a picture is seen through its map (METHOD.md, section 8)."""

import torch
from torch import Tensor

from .answers import SOFTMAX, ask


def masked_softmax(model, pictures: Tensor, classes: Tensor, maps: Tensor, masked: Tensor,
                   batch_size: int) -> Tensor:
    """O [B], the probability of the class for what its map leaves of the picture: for the point at `map` of
    the way from `masked` to the picture.

    As normalising is affine, that point is (raw picture x map), normalised, where a masked pixel is black,
    and normalised picture x map where it is 0.

    Args:
        maps: [B, H, W] in [0, 1]. masked: what a masked pixel becomes, [C, 1, 1]. The others as for `score`.
    """
    seen = torch.lerp(masked, pictures, maps[:, None].to(pictures.dtype))
    return ask(model, seen, classes, batch_size)[:, SOFTMAX]


def average_drop(whole: Tensor, seen: Tensor) -> Tensor:
    """ADP, and ADD of what the map does not show, in percent: 100 max(0, Y − O)/Y for each picture, [B]."""
    return 100 * (whole - seen).clamp_min(0) / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def increase(whole: Tensor, seen: Tensor) -> Tensor:
    """PIC, in percent: 100 where the map's part alone convinces the network more, Y < O, else 0; [B]."""
    return 100 * (whole < seen).to(whole.dtype)
