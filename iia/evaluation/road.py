"""ROAD (Rong et al., ICML 2022): the answer as pixels are filled in from their neighbours, with some noise.

The imputer is that of the package grad-cam. Which pixels it fills in is decided by their ranks, so that of
equally relevant ones as many go as should: grad-cam's percentile takes all of them or none, and of a map that
is 0 on most of its picture it takes too many, or everything.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import needed
from .answers import SOFTMAX, ask
from .perturbation import ranks

PERCENT = (20, 40, 60, 80)                                   # of the pixels imputed
FRACTIONS = (0, *(percent / 100 for percent in PERCENT))     # where the points of a curve lie
CURVES = {"ROAD_most": "most", "ROAD_least": "least"}


def road_curves(model, pictures: Tensor, classes: Tensor, maps: Tensor, wanted: set[str], original: Tensor,
                seeds: Sequence[int], batch_size: int) -> dict[str, Tensor]:
    """The softmax as 0, 20, 40, 60, 80 % of the most, or least, relevant pixels are imputed.

    Args:
        seeds: of the noise, [B]; give a picture the same one for all its maps.
        The others as for `perturbation.masked_curves`.

    Returns:
        By name, [B, 5] in [0, 1].
    """
    rank, curves = ranks(maps).cpu(), {}
    for name in sorted(wanted & set(CURVES)):
        order = rank if CURVES[name] == "most" else maps[0].numel() - 1 - rank
        imputed = torch.stack([impute(picture, places >= count, seed)
                               for picture, places, seed in zip(pictures, order, seeds)
                               for count in counts(places.numel())])                      # [B·4, C, H, W]
        answers = ask(model, imputed, classes.repeat_interleave(len(PERCENT)), batch_size)
        answers = answers[:, SOFTMAX].view(len(maps), len(PERCENT))
        curves[name] = torch.cat([original[:, SOFTMAX, None], answers], dim=1)
    return curves


def counts(pixels: int) -> list[int]:
    """How many pixels are imputed: those at or above the percentile, as grad-cam counts them."""
    return [pixels - -(-(100 - percent) * (pixels - 1) // 100) for percent in PERCENT]


def impute(picture: Tensor, kept: Tensor, seed: int) -> Tensor:
    """The picture [C, H, W] with the pixels filled in that are not `kept`, bool [H, W]; the seed is that of
    the noise."""
    fill = imputer()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)          # the CPU's only: GPUs' generators are the user's
        return fill(picture.float().cpu(), kept.float()).to(picture)


def imputer() -> Callable[[Tensor, Tensor], Tensor]:
    """grad-cam's, of a picture [C, H, W] and what is kept of it, [H, W].

    Raises:
        UserError: the package is not installed.
    """
    library = needed("pytorch_grad_cam.metrics.road", 'protocol "road"', "comparison", "grad-cam")
    return library.NoisyLinearImputer()


def road_change(curves: Tensor) -> Tensor:
    """The metric: the mean change of the answer [..., 5] against the picture's own, in -1..1."""
    return (curves[..., 1:] - curves[..., :1]).mean(-1)
