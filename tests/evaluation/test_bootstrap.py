"""The bootstrap against what is known of means, and against draws one by one."""

import resource
import sys
import warnings

import numpy as np
import pytest

from iia.evaluation import bootstrap


@pytest.fixture
def values():
    return np.random.default_rng(5).normal([10, 20], [1, 3], size=(400, 2))


def by_hand(values, resamples=bootstrap.RESAMPLES):
    """Pictures drawn set after set, the same for all columns; draws without a value are left out."""
    rng, means = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = values[rng.integers(len(values), size=len(values))]
        means.append([np.mean(own[~np.isnan(own)]) if not np.isnan(own).all() else np.nan for own in drawn.T])
    return np.nanpercentile(means, [2.5, 97.5], axis=0)


def test_against_draws_one_by_one(values):
    values[10:, 1] = np.nan
    assert np.allclose(bootstrap.intervals(values), by_hand(values), rtol=1e-13)


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
    """NaN is left out; a column of nothing else has no interval, and nothing is warned of."""
    holed = np.column_stack([values[:, 0], np.full(400, np.nan)])
    holed[200:, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (low, none), (high, nothing) = bootstrap.intervals(holed)
    assert np.isnan(none) and np.isnan(nothing)
    half = values[:200, 0]
    assert low < half.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * half.std() / 200**0.5, rel=0.15)


def test_a_metric_that_two_pictures_have_keeps_its_interval(values):
    """Many draws hold neither of them: these are left out, where one of them would make the interval NaN."""
    values[2:, 0] = np.nan
    low, high = bootstrap.intervals(values)[:, 0]
    assert (low, high) == (min(values[:2, 0]), max(values[:2, 0]))


def test_one_picture():
    nothing = pytest.approx(np.nan, nan_ok=True)
    assert bootstrap.intervals(np.array([[3.0, np.nan]])).tolist() == [[3.0, nothing]] * 2


def test_differences_are_paired(values):
    """Two columns that move together differ by a constant, however wide each one's own interval is."""
    low, high = bootstrap.intervals(np.column_stack([values[:, 1], values[:, 1] + 0.1, np.full(400, 0.1)]))
    assert (high - low)[0] > 0.4 and np.allclose((high - low)[0], (high - low)[1])
    assert low[2] == pytest.approx(0.1) and high[2] == pytest.approx(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is in KiB on Linux")
def test_five_thousand_pictures_do_not_need_gigabytes():
    values = np.random.default_rng(0).normal(size=(5000, 96))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bootstrap.intervals(values, resamples=400)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19          # half a GiB
