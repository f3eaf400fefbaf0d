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


def road_curves(model, pictures: Tensor, classes: Tensor, maps: Tensor, which: set[str], original: Tensor,
                seeds: Sequence[int], batch_size: int = 32) -> dict[str, Tensor]:
    """The softmax as 0, 20, 40, 60, 80 % of the most, or least, relevant pixels are imputed.

    Args:
        which: names of CURVES. original: the answers for the pictures themselves, [B, 2].
        seeds: of the noise, [B]; give a picture the same for all its maps.
        The others as `perturbation.masked_curves`.

    Returns:
        By name, [B, 5] in [0, 1].
    """
    rank, curves = ranks(maps).cpu(), {}
    for name in sorted(which):
        place = rank if CURVES[name] == "most" else maps[0].numel() - 1 - rank
        imputed = torch.stack([impute(picture, own >= count, seed)
                               for picture, own, seed in zip(pictures, place, seeds)
                               for count in counts(own.numel())])                         # [B·4, C, H, W]
        answers = ask(model, imputed, classes.repeat_interleave(len(PERCENT)), batch_size)
        answers = answers[:, SOFTMAX].view(len(maps), len(PERCENT))
        curves[name] = torch.cat([original[:, SOFTMAX, None], answers], dim=1)
    return curves


def counts(pixels: int) -> list[int]:
    """How many pixels are imputed: those from the percentile on, as grad-cam counts them."""
    return [pixels - -(-(100 - percent) * (pixels - 1) // 100) for percent in PERCENT]


def impute(picture: Tensor, kept: Tensor, seed: int) -> Tensor:
    """The picture [C, H, W] with the pixels that are not kept, bool [H, W], filled in; noise of the seed."""
    fill = imputer()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)          # the CPU's: those of GPUs are their users'
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
