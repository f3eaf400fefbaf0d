"""The segmentation metrics by scikit-learn and loops, as METHOD.md's section 8 words them."""

import warnings

import numpy as np
from sklearn.metrics import f1_score, jaccard_score


def metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The metrics of finished maps [B, H, W] in [0, 1] and masks [B, H, W] of 0 and 1."""
    called = np.stack([m > m.mean(dtype=np.float64) for m in maps])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                       # scikit-learn warns where a metric is undefined
        return {
            "pixAcc": np.mean(called == masks),
            "mIoU": np.mean([jaccard_score(masks.ravel() == label, called.ravel() == label, zero_division=0)
                             for label in (0, 1)]),
            "mAP": np.mean([average_precision(m, mask) for m, mask in zip(maps, masks)]),
            "mF1": np.mean([np.mean([f1_score(row, found, zero_division=0)
                                     for row, found in zip(mask, where)])
                            for mask, where in zip(masks, called)]),
            "F1": np.mean([f1_score(mask.ravel(), where.ravel(), zero_division=0)
                           for mask, where in zip(masks, called)]),
        }


def average_precision(m: np.ndarray, mask: np.ndarray) -> float:
    """One average precision over the scores [1 − map, map] against [mask = 0, mask = 1], in float64.

    Σ over the scores' values, from the highest: the share of the right answers that have it, times the share
    of right answers among all that are as high or higher.
    """
    right, scores = np.stack([mask == 0, mask == 1]).ravel(), np.stack([1 - m.astype(np.float64), m]).ravel()
    _, place = np.unique(-scores, return_inverse=True)
    found, all_of_them = np.bincount(place, right), np.bincount(place)
    return (found * found.cumsum() / all_of_them.cumsum()).sum() / right.sum()
