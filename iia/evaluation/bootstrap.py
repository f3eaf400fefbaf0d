"""How far a mean over pictures can be trusted: the bootstrap over pictures."""

import warnings

import numpy as np
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95
TOGETHER = 2**22          # how many numbers are drawn at once; bounds the memory


def intervals(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The percentile interval of each column's mean, when the pictures are resampled with replacement.

    All columns see the same draws, so the interval of a column of differences is that of a paired comparison.
    Draws of pictures without a value are left out: a column that few pictures have keeps its interval.

    Args:
        values: a row a picture, a column a metric, [N, K]; NaN where a picture has none.

    Returns:
        float64 [2, K]: the lower and upper ends; NaN where a column has no value at all.
    """
    if len(values) == 1:
        return np.stack([values[0], values[0]])             # every draw is the same picture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                     # of draws, or columns, that are NaN throughout
        drawn = stats.bootstrap((values,), np.nanmean, n_resamples=resamples, method="percentile", rng=seed,
                                batch=max(1, TOGETHER // values.size)).bootstrap_distribution
        return percentiles(drawn)                           # of [K, resamples]


def percentiles(drawn: np.ndarray) -> np.ndarray:
    """The ends [2, ...] of the interval that holds CONFIDENCE of drawn means [..., resamples] but for NaN."""
    tail = 50 * (1 - CONFIDENCE)
    return np.nanpercentile(drawn, [tail, 100 - tail], axis=-1)


def draws(pictures: int, seed: int = 0) -> np.ndarray:
    """How often each picture is drawn in each resample, [resamples, pictures]: for figures that are no
    means of columns."""
    return np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), RESAMPLES)
