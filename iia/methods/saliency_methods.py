"""Blur IG and Guided IG by the package `saliency`, and its way from three channels to grey.

The library explains one picture at a time, a NumPy array [H, W, 3]. Both methods explain the softmax
probability. The settings are those of the package's own PyTorch example, whose Integrated Gradients is the
one that the release runs: 25 steps (Blur IG: the library's 100), the baseline 0 after normalisation. The
maps are as large as the picture.
"""

from collections.abc import Callable

import numpy as np
import torch
from saliency.core import INPUT_OUTPUT_GRADIENTS, BlurIG, GuidedIG, VisualizeImageGrayscale
from saliency.core import guided_ig as library
from torch import Tensor

from ..integration import gradient
from ..models.cnn import CNN
from ..models.model import Target, probability
from ..options import IIAOptions
from .plain import replaced


def blurig(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Blur IG: from the picture blurred with σ = 50 to the picture, in 100 steps."""
    return each_picture(BlurIG().GetMask, model, x, y, options.target, batch_size=options.batch_size)


def guidedig(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Guided IG: 25 steps, each along the half of the pixels with the least gradient; the path is unbounded.

    A step begins where the one before it ended, so that the network sees one row at a time.
    """
    with replaced(library, "np", OlderNumPy()):
        return each_picture(GuidedIG().GetMask, model, x, y, options.target, x_steps=25, fraction=0.5,
                            max_dist=1.0)


def each_picture(mask: Callable[..., np.ndarray], model: CNN, x: Tensor, y: Tensor, explained: Target | None,
                 **settings) -> Tensor:
    """The library's `mask` of each picture, in grey: [B, 3, H, W] -> [B, H, W].

    The path is laid in float64: Blur IG divides differences of blurred pictures by 0.01.
    """
    masks = []
    for picture, target in zip(x.detach().permute(0, 2, 3, 1).cpu().double().numpy(), y):
        try:
            found = mask(finite(picture), gradients(model, x, target, explained), **settings)
        except FloatingPointError:
            found = np.full_like(picture, np.nan)              # a degenerate map when finished
        masks.append(torch.from_numpy(found).permute(2, 0, 1))
    return grey(torch.stack(masks)).to(x)


def gradients(model: CNN, like: Tensor, target: Tensor,
              explained: Target | None = None) -> Callable[..., dict]:
    """The library's callback: pictures [N, H, W, 3] -> ∂softmax_y/∂pictures, as NumPy arrays."""

    def call(pictures: np.ndarray, call_model_args=None, expected_keys=None) -> dict:
        rows = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(like.dtype).to(like.device)
        found = gradient(lambda v, y: probability(model(v), y, explained), rows, target.expand(len(rows)))
        return {INPUT_OUTPUT_GRADIENTS: finite(found.permute(0, 2, 3, 1).cpu().double().numpy())}

    return call


def finite(values: np.ndarray) -> np.ndarray:
    """The values, unless one is NaN or infinite: Guided IG would wait for ever for its pixel to move."""
    if not np.isfinite(values).all():
        raise FloatingPointError("a picture or its gradient is not finite")
    return values


def grey(attributions: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, H, W]: Σ|·| over the channels, cut off at its 99th percentile, in [0, 1]."""
    pictures = attributions.detach().permute(0, 2, 3, 1).cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):       # all zero: NaN here, degenerate when finished
        maps = [VisualizeImageGrayscale(values) for values in pictures]
    return torch.from_numpy(np.stack(maps)).to(attributions)


class OlderNumPy:
    """NumPy with the `interpolation` of np.quantile, which NumPy 2.4 dropped and the library still names."""

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)

    @staticmethod
    def quantile(values: np.ndarray, q: float, interpolation: str = "linear") -> np.ndarray:
        return np.quantile(values, q, method=interpolation)
