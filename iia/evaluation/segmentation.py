"""How well a saliency map segments the object: pixAcc, mIoU, mAP, mF1 and F1 (METHOD.md, section 8).

`measure` turns maps and masks into a few numbers for each picture; `figures` adds these up. The
numbers are all that the figures need, so a table can be made again from per_image.csv alone.
"""

from collections.abc import Mapping, Sequence
from math import fsum

import numpy as np
import torch
from torch import Tensor

from ..maps import minmax

# A picture's numbers. Pixels by what they are (object or not) and what the map calls them:
# tp object, called so; fp background, called object; fn object, called background; tn background, called so.
COLUMNS = {"tp": int, "fp": int, "fn": int, "tn": int, "ap": float, "row_f1": float}


def measure(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What each map has right.

    Args:
        maps: saliency maps [B, H, W], of any scale; a constant or non-finite one counts as zeros.
        masks: 1 (or True) where the object is, 0 elsewhere, [B, H, W], on the same device.

    Returns:
        {name: [B]}: tp, fp, fn, tn (int64), ap and row_f1 (float64).
    """
    maps, masks = minmax(maps), masks.bool()
    called = foreground(maps)
    tp, fp, fn = ((called & masks).sum(-1), (called & ~masks).sum(-1), (~called & masks).sum(-1))     # [B, H]
    counts = {"tp": tp.sum(-1), "fp": fp.sum(-1), "fn": fn.sum(-1)}
    counts["tn"] = maps[0].numel() - sum(counts.values())
    return counts | {"ap": average_precision(maps, masks), "row_f1": f1(tp, fp, fn).mean(-1)}


def foreground(maps: Tensor) -> Tensor:
    """The pixels that a map calls object: those above its mean. [B, H, W] -> bool [B, H, W]."""
    return maps > maps.double().mean((-2, -1), keepdim=True)


def f1(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """F1 from counts of any shape, 0 where there is nothing to find and nothing was called."""
    return 2 * tp.double() / (2 * tp + fp + fn).clamp(min=1)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Average precision over the scores [1 − map, map] against [mask = 0, mask = 1], [B, H, W] -> [B].

    Each pixel gives two scores, of which one is right. Precision is read behind all scores of the
    same value, so that their order does not matter (as in scikit-learn's average_precision_score).
    """
    maps, masks = maps.float().flatten(1), masks.flatten(1)
    scores, right = torch.cat([1 - maps, maps], 1), torch.cat([~masks, masks], 1)          # [B, 2N]
    # A float >= 0 and its bits as an integer rank alike, and 1.0 leaves the last bit free for the label:
    # sorting such keys needs no permutation.
    keys = _descending(scores.view(torch.int32) * 2 + right)
    right, values = keys % 2, keys // 2
    place = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    ends = torch.ones_like(values, dtype=torch.bool)
    ends[:, :-1] = values[:, 1:] != values[:, :-1]
    behind = torch.where(ends, place, place.shape[1]).flip(1).cummin(1).values.flip(1)     # the last of the same value
    found = right.cumsum(1)
    precision = found.gather(1, behind).double() / (behind + 1)
    return (precision * right).sum(1) / maps.shape[1]


def _descending(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":            # NumPy's sort of plain values is the faster one there
        return torch.from_numpy(np.sort(keys.numpy(), axis=1)[:, ::-1].copy())
    return keys.sort(1, descending=True).values


def figures(rows: Sequence[Mapping]) -> dict[str, float]:
    """The figures over the data set, in [0, 1], from the pictures' numbers.

    pixAcc and mIoU are ratios of sums over the data set; mAP, mF1 and F1 are means over pictures. mF1
    is as published, the mean F1 of a picture's pixel rows; F1 is that of the picture as a whole.
    """
    tp, fp, fn, tn = (sum(row[name] for row in rows) for name in ("tp", "fp", "fn", "tn"))
    per_picture = [ratio(2 * row["tp"], 2 * row["tp"] + row["fp"] + row["fn"]) for row in rows]
    return {
        "pixAcc": ratio(tp + tn, tp + fp + fn + tn),
        "mIoU": (ratio(tn, tn + fp + fn) + ratio(tp, tp + fp + fn)) / 2,
        "mAP": fsum(row["ap"] for row in rows) / len(rows),
        "mF1": fsum(row["row_f1"] for row in rows) / len(rows),
        "F1": fsum(per_picture) / len(rows),
    }


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
