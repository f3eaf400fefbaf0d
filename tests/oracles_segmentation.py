"""The segmentation figures by scikit-learn and loops, as METHOD.md's section 8 words them."""

import warnings

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, jaccard_score


def figures(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The figures of finished maps [B, H, W] in [0, 1] and masks [B, H, W] of 0 and 1."""
    called = np.stack([m > m.mean(dtype=np.float64) for m in maps])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # scikit-learn warns where a figure is undefined
        return {
            "pixAcc": np.mean(called == masks),
            "mIoU": np.mean([jaccard_score(masks.ravel() == label, called.ravel() == label, zero_division=0)
                             for label in (0, 1)]),
            "mAP": np.mean([average_precision(m, mask) for m, mask in zip(maps, masks)]),
            "mF1": np.mean([np.mean([f1_score(row, found, zero_division=0) for row, found in zip(mask, where)])
                            for mask, where in zip(masks, called)]),
            "F1": np.mean([f1_score(mask.ravel(), where.ravel(), zero_division=0)
                           for mask, where in zip(masks, called)]),
        }


def average_precision(m: np.ndarray, mask: np.ndarray) -> float:
    """One average precision over the scores [1 − map, map] against [mask = 0, mask = 1]."""
    return average_precision_score(np.stack([mask == 0, mask == 1]).ravel(), np.stack([1 - m, m]).ravel())
