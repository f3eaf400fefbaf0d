"""Does a map point at the object? The pointing game, and the energy inside (METHOD.md, section 8)."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from scipy.ndimage import distance_transform_edt

FIGURES = {"hit": "hit", "hit_15": "hit ±15", "energy": "energy"}         # and their titles
TOLERANCE = 15 / 224                  # as a share of the picture's side
ANY = "any box"                       # stands for the category where no box has one that ImageNet knows


def inside(boxes: Sequence[tuple], file_size: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The pixels that boxes touch in a picture squashed to `size` (height, width): bool [H, W].

    Args:
        boxes: (left, top, right, bottom) in the pixels of the file. file_size: its (width, height).
    """
    mask = np.zeros(size, dtype=bool)
    for left, top, right, bottom in boxes:
        rows, columns = (slice(max(0, floor(low * new / old)), ceil(high * new / old))
                         for low, high, new, old in ((top, bottom, size[0], file_size[1]),
                                                     (left, right, size[1], file_size[0])))
        mask[rows, columns] = True
    return mask


def near(mask: np.ndarray) -> np.ndarray:
    """The pixels of `mask`, and those within the tolerance of one, from centre to centre: bool [H, W]."""
    return distance_transform_edt(~mask) <= TOLERANCE * min(mask.shape)


def measure(saliency: np.ndarray, mask: np.ndarray, tolerant: np.ndarray) -> dict[str, float]:
    """What a finished map [H, W] in [0, 1] scores: 1 where its maximum lies in `mask`, in `tolerant`, else 0;
    and the share of its sum in `mask`.

    Of several maxima the first in reading order counts. A map of zeros points at nothing: 0 throughout.
    """
    if not saliency.any():
        return dict.fromkeys(FIGURES, 0.0)
    peak = np.unravel_index(saliency.argmax(), saliency.shape)
    energy = saliency[mask].sum(dtype=np.float64) / saliency.sum(dtype=np.float64)
    return dict(zip(FIGURES, (float(mask[peak]), float(tolerant[peak]), float(energy))))


def chance(mask: np.ndarray, tolerant: np.ndarray) -> dict[str, float]:
    """What a maximum that falls on any pixel alike, and a map of ones, score on average."""
    return dict(zip(FIGURES, map(float, (mask.mean(), tolerant.mean(), mask.mean()))))


def averages(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of values [N, K]: a row a picture, a column a category (NaN: not in the picture), the last ANY.

    Args:
        weights: how often each picture counts, [R, N].

    Returns:
        [R]: the mean over categories of each one's mean (without ANY); and the mean over all values.
    """
    sums, counts = weights @ np.nan_to_num(values), weights @ ~np.isnan(values)
    there = counts[:, :-1] > 0
    each = np.where(there, sums[:, :-1] / np.maximum(counts[:, :-1], 1), 0)
    with np.errstate(invalid="ignore"):                       # no category at all: NaN
        return each.sum(1) / there.sum(1), sums.sum(1) / counts.sum(1)
