"""Masking tests: what the answer becomes when a picture is seen through its map (METHOD.md, section 8)."""

import torch
from torch import Tensor

from .answers import SOFTMAX, ask


def seen_through(pictures: Tensor, maps: Tensor, masked: Tensor) -> Tensor:
    """The point at `map` of the way from `masked` to the picture: pictures [B, C, H, W], maps [B, H, W] in
    [0, 1] and a pixel [C, 1, 1] -> [B, C, H, W].

    As normalising is affine, that is (raw picture x map), normalised, where a masked pixel is black; and
    normalised picture x map where it is 0.
    """
    return torch.lerp(masked, pictures, maps[:, None].to(pictures.dtype))


def masked_softmax(model, pictures: Tensor, classes: Tensor, maps: Tensor, masked: Tensor,
                   batch_size: int = 32) -> Tensor:
    """The probability of the class for what its map leaves of the picture, O [B]."""
    return ask(model, seen_through(pictures, maps, masked), classes, batch_size)[:, SOFTMAX]


def average_drop(whole: Tensor, seen: Tensor) -> Tensor:
    """ADP, and ADD of what the map does not show, in percent: 100 max(0, Y − O)/Y for each picture, [B]."""
    return 100 * (whole - seen).clamp_min(0) / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def increase(whole: Tensor, seen: Tensor) -> Tensor:
    """PIC, in percent: 100 where the map's part alone convinces the network more, Y < O, else 0; [B]."""
    return 100 * (whole < seen).to(whole.dtype)
