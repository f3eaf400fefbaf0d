"""Perturbation tests: what the answer becomes as a map's most, or least, relevant pixels are taken away.

POS and DEL mask the most relevant pixels first, NEG and INS the least relevant; POS and NEG read top-1, DEL
and INS the softmax. So one set of masked pictures serves POS with DEL, and another NEG with INS (METHOD.md,
section 8). RISE's own deletion and insertion are on another scale.
"""

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .answers import SOFTMAX, TOP1, ask_mixtures

FRACTIONS = tuple(tenths / 10 for tenths in range(10))       # 0, 10 ... 90 % of the pixels masked
CURVES = {"POS": ("most", TOP1), "NEG": ("least", TOP1), "DEL": ("most", SOFTMAX), "INS": ("least", SOFTMAX)}
RISE_STEP = 224                                              # pixels replaced from one point to the next
RISE_KERNEL, RISE_SIGMA = 11, 5                              # pixels, of the blur that insertion starts from


def ranks(maps: Tensor) -> Tensor:
    """Each pixel's place among its map's, 0 = the most relevant: maps [B, H, W] -> int64 [B, H, W].

    The sort is stable: pixels of equal relevance keep their reading order, so the same map has the same ranks
    on every machine. The least relevant first is the same order from its end.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def masked_curves(model, pictures: Tensor, classes: Tensor, maps: Tensor, masked: Tensor, wanted: set[str],
                  original: Tensor, batch_size: int) -> dict[str, Tensor]:
    """The curves of POS, NEG, DEL and INS at 0, 10 ... 90 % of the pixels masked, rounded down.

    Args:
        model: any network of this project; it is asked for `classes`, whatever the maps explain.
        pictures: normalised for the model, [B, C, H, W].
        classes: [B], int64.
        maps: the higher the more relevant, [B, H, W].
        masked: what a masked pixel becomes, as the network reads it, [C, 1, 1].
        wanted: names of figures; those without a curve here have no effect.
        original: the answers for the pictures themselves, [B, 2].
        batch_size: how many masked pictures go through the network at once.

    Returns:
        By name, [B, 10] in [0, 1]; the first column is the picture's own.
    """
    orders = sorted({order for name, (order, _) in CURVES.items() if name in wanted})   # of "least", "most"
    if not orders:
        return {}
    rank, pixels = ranks(maps), maps[0].numel()
    rank = torch.cat([rank if order == "most" else pixels - 1 - rank for order in orders])    # [O·B, H, W]
    counts = torch.tensor([tenths * pixels // 10 for tenths in range(1, 10)], device=maps.device)
    answers = ask_mixtures(model, pictures.repeat(len(orders), 1, 1, 1), masked, rank, counts,
                           classes.repeat(len(orders)), batch_size)                           # [O·B, 9, 2]
    curves = torch.cat([original[:, None].repeat(len(orders), 1, 1), answers], dim=1)        # [O·B, 10, 2]
    by_order = dict(zip(orders, curves.chunk(len(orders))))
    return {name: by_order[order][..., column] for name, (order, column) in CURVES.items() if name in wanted}


def masked_area(curves: Tensor) -> Tensor:
    """The paper's metric: 100 x the area under curves [..., 10] over 0 ... 0.9, not divided by 0.9 (so at
    most 90)."""
    return 100 * torch.trapezoid(curves, dx=FRACTIONS[1], dim=-1)


def rise_curves(model, pictures: Tensor, classes: Tensor, maps: Tensor, wanted: set[str],
                batch_size: int) -> dict[str, Tensor]:
    """RISE's deletion and insertion: the softmax as 224 pixels a step, the most relevant first, are replaced.

    `DEL` replaces the picture by 0 after normalisation, the mean colour. `INS` replaces its blur by
    the picture. 225 passes for a picture of 224 x 224 and each curve. Arguments as for `masked_curves`.

    Returns:
        By name, [B, steps + 1] in [0, 1].
    """
    rank, counts = ranks(maps), torch.tensor(rise_counts(maps[0].numel()), device=maps.device)
    ends = {"DEL": (pictures, torch.zeros_like(pictures)), "INS": (rise_blur(pictures), pictures)}
    return {name: ask_mixtures(model, *ends[name], rank, counts, classes, batch_size)[..., SOFTMAX]
            for name in ends if name in wanted}


def rise_counts(pixels: int) -> list[int]:
    """How many pixels have been replaced at each point of a curve: 0, 224 ... all."""
    return [*range(0, pixels, RISE_STEP), pixels]


def rise_blur(pictures: Tensor) -> Tensor:
    """Pictures [B, C, H, W] under RISE's blur; beyond the border there is 0.

    Its kernel is the response to one point on an 11 x 11 square that reflects at its sides, flatter than a
    Gaussian of the same σ.
    """
    point = torch.zeros(RISE_KERNEL, RISE_KERNEL, dtype=torch.float64)
    point[RISE_KERNEL // 2, RISE_KERNEL // 2] = 1
    kernel = pictures.new_tensor(gaussian_filter(point.numpy(), RISE_SIGMA)).expand(
        pictures.shape[1], 1, -1, -1)
    return F.conv2d(pictures, kernel, padding=RISE_KERNEL // 2, groups=pictures.shape[1])
