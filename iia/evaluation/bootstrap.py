"""How far a mean over pictures can be trusted: the bootstrap over pictures."""

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def resample(pictures: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each picture is drawn in each resample, float32 [resamples, pictures]; the same for a seed."""
    rng = np.random.default_rng(seed)
    if not pictures:
        return np.zeros((resamples, 0), np.float32)
    return np.stack([np.bincount(rng.integers(pictures, size=pictures), minlength=pictures)
                     for _ in range(resamples)]).astype(np.float32)


def interval(values: np.ndarray, drawn: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """The percentile interval of the mean of each column.

    Args:
        values: a row a picture, a column a figure, [N, K]; NaN where a picture has none.
        drawn: what `resample(N)` returned. The same draws for two columns make their difference a paired one.

    Returns:
        float64 [2, K]: the lower and upper ends; NaN where a column has no value at all.
    """
    there = ~np.isnan(values)
    count = drawn @ there.astype(drawn.dtype)                                             # [R, K]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (drawn @ np.where(there, values, 0)) / count
    ends = np.full((2, values.shape[1]), np.nan)
    some = there.any(0)
    tail = 50 * (1 - confidence)
    ends[:, some] = np.nanpercentile(means[:, some], [tail, 100 - tail], axis=0)
    return ends
