"""Every shortcut is compared with the network itself, on random pictures, before it is taken."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-4                 # of a shortcut, relative to the largest value
HALF_TOLERANCE = 0.1             # where bfloat16 or half is compared with float32


def probe_pictures(shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Two random pictures [2, C, H, W], always the same, of the dtype and on the device of `like`.

    They have coarse and fine parts, as photographs have, so that deep layers answer differently to each.
    """
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    coarse = F.interpolate(torch.randn(2, channels, 4, 4, generator=generator), size=(height, width),
                           mode="bilinear")
    fine = torch.randn(2, channels, height, width, generator=generator)
    return (coarse + 0.5 * fine).to(like.device, like.dtype if like.is_floating_point() else torch.float32)


def odd_pictures(probe: Tensor) -> Tensor:
    """Pictures unlike the random ones [2, C, H, W] that networks may take another way for, [6, C, H, W]:
    black, of one colour, faint and grey, of numbers in 0..1 and in 0..255, dark."""
    one, other = probe.split(1)
    unit, grey = one.sigmoid(), one.mean(1, keepdim=True).expand_as(one)
    return torch.cat([0 * one, 0 * one + 2, 0.1 * grey, unit, 255 * unit, other - 3])


def difference(found: Tensor, wanted: Tensor) -> float:
    """max |found − wanted| / max |wanted|; infinite where shapes differ, or unequal values are not finite.

    A value that is the same for all rows (a class that is masked by −1e9) is measured by its own size, and is
    no measure for the others.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.numel() or torch.equal(found.to(wanted.dtype), wanted):
        return 0.0
    found, wanted = found.double().flatten(1), wanted.double().flatten(1)
    told = (wanted != wanted[:1]).any(0)
    scale = (wanted[:, told] if told.any() else wanted).abs().max()
    measure = torch.where(told, scale, wanted.abs().maximum(scale)).clamp(min=1e-30)
    ratio = ((found - wanted).abs() / measure).max()
    return float(ratio) if torch.isfinite(ratio) else float("inf")


def rough_difference(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖, for values of few digits, of which single ones are far off."""
    if found.shape != wanted.shape:
        return float("inf")
    ratio = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30)
    return float(ratio) if torch.isfinite(ratio) else float("inf")


def each_same(found: Tensor, wanted: Tensor, beside: Tensor,
              off: Callable[[Tensor, Tensor], float] = difference, tolerance: float = TOLERANCE) -> bool:
    """Whether each row of `wanted` that is finite is found.

    A row alone has no measure; it is laid beside the rows `beside`, which are the same of both.
    """
    pairs = [[torch.cat([beside, row.to(beside)]) for row in rows]
             for rows in zip(found.split(1), wanted.split(1), strict=True)]
    return all(off(*pair) <= tolerance for pair in pairs if torch.isfinite(pair[1]).all())


def same(found: Tensor, wanted: Tensor) -> bool:
    """Whether a shortcut reproduces what the network computes."""
    tolerance = 1e-9 if wanted.dtype == torch.float64 else TOLERANCE
    return difference(found, wanted) <= tolerance
