"""The bootstrap against what is known of means."""

import numpy as np
import pytest

from iia.evaluation import bootstrap


@pytest.fixture
def values():
    return np.random.default_rng(5).normal([10, 20], [1, 3], size=(400, 2))


def test_close_to_the_normal_interval(values):
    low, high = bootstrap.intervals(values)
    error = 1.96 * values.std(0, ddof=1) / 20
    assert np.allclose(low, values.mean(0) - error, atol=0.15 * error)
    assert np.allclose(high, values.mean(0) + error, atol=0.15 * error)


def test_seeded_and_by_portions(values, monkeypatch):
    ends = bootstrap.intervals(values)
    monkeypatch.setattr(bootstrap, "TOGETHER", 1000)
    assert np.allclose(ends, bootstrap.intervals(values), rtol=1e-12)
    assert not np.allclose(ends, bootstrap.intervals(values, seed=1), rtol=1e-6)


def test_pictures_without_a_value(values):
    """NaN is left out, not counted as something; a column of nothing else has no interval."""
    holed = np.column_stack([values[:, 0], np.full(400, np.nan)])
    holed[200:, 0] = np.nan
    (low, none), (high, nothing) = bootstrap.intervals(holed)
    assert np.isnan(none) and np.isnan(nothing)
    half = values[:200, 0]
    assert low < half.mean() < high and high - low == pytest.approx(2 * 1.96 * half.std() / 200**0.5, rel=0.15)


def test_differences_are_paired(values):
    """Two columns that move together differ by a constant, however wide each one's own interval is."""
    low, high = bootstrap.intervals(np.column_stack([values[:, 1], values[:, 1] + 0.1, np.full(400, 0.1)]))
    assert (high - low)[0] > 0.4 and np.allclose((high - low)[0], (high - low)[1])
    assert low[2] == pytest.approx(0.1) and high[2] == pytest.approx(0.1)
