"""How well a saliency map segments the object: pixAcc, mIoU, mAP, mF1 and F1 (METHOD.md, section 8).

`measure` turns maps and masks into a few numbers for each picture, and `metrics` adds these up. The metrics
need nothing else, so a table can be made again from per_image.csv alone.
"""

from concurrent.futures import ThreadPoolExecutor
from math import fsum

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from ..maps import minmax
from .bootstrap import draws, percentiles

# A picture's numbers. Pixels by what they are (object or not) and what the map calls them:
# tp object, called so; fp background, called object; fn object, called background; tn background, called so.
COLUMNS = {"tp": int, "fp": int, "fn": int, "tn": int, "ap": float, "row_f1": float}
METRICS = ("pixAcc", "mIoU", "mAP", "mF1", "F1")


def measure(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What each map has right.

    Args:
        maps: saliency maps [B, H, W], of any scale; a constant or non-finite one counts as zeros.
        masks: 1 (or True) where the object is, 0 elsewhere, [B, H, W], on the same device.

    Returns:
        {name: [B]}: tp, fp, fn, tn (int64), ap and row_f1 (float64).
    """
    maps, masks = minmax(maps.double()), masks.bool()
    called = foreground(maps)
    tp, fp, fn = ((called & masks).sum(-1), (called & ~masks).sum(-1), (~called & masks).sum(-1))     # [B, H]
    counts = {"tp": tp.sum(-1), "fp": fp.sum(-1), "fn": fn.sum(-1)}
    counts["tn"] = maps[0].numel() - sum(counts.values())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        precision = list(pool.map(average_precision, maps.cpu().numpy(), masks.cpu().numpy()))
    return counts | {"ap": torch.tensor(precision, dtype=torch.float64), "row_f1": f1(tp, fp, fn).mean(-1)}


def foreground(maps: Tensor) -> Tensor:
    """The pixels that a map calls object: those above its mean. [B, H, W] -> bool [B, H, W]."""
    return maps > maps.double().mean((-2, -1), keepdim=True)


def f1(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """F1 from counts of any shape, 0 where there is nothing to find and nothing was called."""
    return 2 * tp.double() / (2 * tp + fp + fn).clamp(min=1)


def average_precision(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Average precision of a map over the scores [1 − map, map] against [mask = 0, mask = 1], both [H, W].

    Each pixel gives two scores, of which one is right. Float64 keeps scores apart that differ.
    """
    right, scores = np.stack([~mask, mask]), np.stack([1 - heatmap, heatmap])
    return average_precision_score(right.ravel(), scores.ravel())


def metrics(rows: pd.DataFrame) -> dict[str, float]:
    """The metrics over the data set, in [0, 1], from the pictures' numbers: a row a picture, columns as
    COLUMNS.

    pixAcc and mIoU are ratios of sums over the data set; mAP, mF1 and F1 are means over pictures. mF1
    is as published, the mean F1 of a picture's pixel rows; F1 is that of the picture as a whole.
    """
    *pixels, ap, row_f1, whole_f1 = map(fsum, numbers(rows).T)
    means = (total / len(rows) for total in (ap, row_f1, whole_f1))
    return dict(zip(METRICS, map(float, from_totals(*pixels, *means))))


def metric_intervals(rows: pd.DataFrame) -> dict[str, list[float]]:
    """The ends [low, high] of each metric's interval, when the pictures are resampled with replacement; rows
    as for `metrics`."""
    drawn = draws(len(rows)) @ numbers(rows) / len(rows)                                       # [R, 7]
    return dict(zip(METRICS, percentiles(np.stack(from_totals(*drawn.T))).T.tolist()))


def from_totals(tp, fp, fn, tn, *means) -> tuple:
    """The metrics, from numbers or arrays [R]: the pixels of the data set, or shares of these, and the means
    over pictures of AP, mean F1 of the rows, and F1."""
    return ratio(tp + tn, tp + fp + fn + tn), (ratio(tn, tn + fp + fn) + ratio(tp, tp + fp + fn)) / 2, *means


def numbers(rows: pd.DataFrame) -> np.ndarray:
    """COLUMNS, and the F1 of the picture as a whole: float64 [pictures, 7]."""
    return np.column_stack([rows[list(COLUMNS)].to_numpy(float), picture_f1(rows)])


def picture_f1(rows: pd.DataFrame) -> np.ndarray:
    """F1 of each picture as a whole, [pictures]; rows as for `metrics`."""
    tp, fp, fn = (rows[name].to_numpy(float) for name in ("tp", "fp", "fn"))
    return ratio(2 * tp, 2 * tp + fp + fn)


def ratio(part, whole):
    """part / whole, of numbers or arrays; 0 where both are 0."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.divide(part, whole))
