"""Masking tests: what the answer becomes when a picture is seen through its map (METHOD.md, section 8)."""

import torch
from torch import Tensor

from .answers import SOFTMAX, ask, black


def seen_through(model, pictures: Tensor, maps: Tensor) -> Tensor:
    """(raw picture x map), normalised: pictures [B, C, H, W] and maps [B, H, W] in [0, 1] -> [B, C, H, W].

    As normalising is affine, that is the point at `map` of the way from black to the normalised picture.
    """
    return torch.lerp(black(model, pictures), pictures, maps[:, None].to(pictures.dtype))


def masked_softmax(model, pictures: Tensor, classes: Tensor, maps: Tensor, original: Tensor | None = None,
                   batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """The probability of the class for the picture, Y [B], and for what its map leaves of it, O [B]."""
    original = ask(model, pictures, classes, batch_size) if original is None else original
    seen = ask(model, seen_through(model, pictures, maps), classes, batch_size)
    return original[:, SOFTMAX], seen[:, SOFTMAX]


def average_drop(whole: Tensor, seen: Tensor) -> Tensor:
    """ADP, in percent: 100 max(0, Y − O)/Y for each picture, [B]."""
    return 100 * (whole - seen).clamp_min(0) / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def increase(whole: Tensor, seen: Tensor) -> Tensor:
    """PIC, in percent: 100 where the map's part alone convinces the network more, Y < O, else 0; [B]."""
    return 100 * (whole < seen).to(whole.dtype)
