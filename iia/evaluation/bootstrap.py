"""How far a mean over pictures can be trusted: the bootstrap over pictures."""

from collections.abc import Iterator

import numpy as np

from ..integration import chunks

RESAMPLES = 2000
CONFIDENCE = 0.95
TOGETHER = 2**23          # draws at once; bounds the memory


def intervals(values: np.ndarray, resamples: int = RESAMPLES, confidence: float = CONFIDENCE,
              seed: int = 0) -> np.ndarray:
    """The percentile interval of each column's mean, when the pictures are drawn anew with replacement.

    All columns see the same draws, so the interval of a column of differences is that of a paired comparison.

    Args:
        values: a row a picture, a column a figure, [N, K]; NaN where a picture has none.

    Returns:
        float64 [2, K]: the lower and upper ends; NaN where a column has no value at all.
    """
    there = ~np.isnan(values)
    filled = np.where(there, values, 0)
    means = np.concatenate([_quotient(drawn @ filled, drawn @ there.astype(float))
                            for drawn in draws(len(values), resamples, seed)])                 # [resamples, K]
    ends = np.full((2, values.shape[1]), np.nan)
    some, tail = there.any(0), 50 * (1 - confidence)
    if some.any():
        ends[:, some] = np.nanpercentile(means[:, some], [tail, 100 - tail], axis=0)
    return ends


def draws(pictures: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each picture is drawn in each resample: [some resamples, pictures] at a time."""
    rng = np.random.default_rng(seed)
    for rows in chunks(resamples, max(1, TOGETHER // pictures)):
        count = rows.stop - rows.start
        drawn = rng.integers(pictures, size=(count, pictures)) + pictures * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * pictures).reshape(count, pictures).astype(float)


def _quotient(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sums / counts, NaN where nothing was drawn that has a value."""
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
