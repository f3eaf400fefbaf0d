"""The pointing game's numbers against loops over pixels, and against Quantus."""

import numpy as np
import pytest

from iia.evaluation import pointing
from iia.evaluation.bootstrap import draws, percentiles

BOXES = [(3.2, 1, 17, 9.5), (20, 11, 29.9, 30)]


def slow_inside(boxes, own, size):
    """A pixel is in where its square and a box overlap by more than an edge."""
    mask = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row * own[1] / size[0], column * own[0] / size[1]
            tall, wide = own[1] / size[0], own[0] / size[1]
            mask[row, column] = any(left < x + wide - 1e-9 and x + 1e-9 < right and top < y + tall - 1e-9
                                    and y + 1e-9 < bottom for left, top, right, bottom in boxes)
    return mask


@pytest.mark.parametrize("own, size", [((30, 30), (30, 30)), ((30, 31), (16, 20)), ((30, 30), (64, 50)),
                                       ((300, 333), (32, 32))])
def test_boxes_in_the_squashed_picture(own, size):
    for boxes in (BOXES, [(0, 0, *own)], [(12.2, 12.2, 12.4, 12.4)], [(-0.9, 4, 5, own[1] + 0.9)]):
        mask = pointing.inside(boxes, own, size)
        assert mask.any() and (mask == slow_inside(boxes, own, size)).all()


def test_tolerance_is_fifteen_pixels_at_224():
    mask = np.zeros((224, 224), bool)
    mask[100:110, 50:60] = True
    tolerant = pointing.near(mask)
    assert tolerant[100, 35] and not tolerant[100, 34] and tolerant[124, 55] and not tolerant[125, 55]
    assert tolerant[91, 38] and not tolerant[90, 38]              # 9² + 12² = 15² from the corner (100, 50)
    small = np.zeros((56, 56), bool)
    small[20:25, 20:25] = True
    for row in range(56):
        for column in range(56):
            nearest = min((row - r) ** 2 + (column - c) ** 2 for r in range(20, 25) for c in range(20, 25))
            assert pointing.near(small)[row, column] == (nearest <= 3.75 ** 2)


@pytest.mark.parametrize("size", [(56, 112), (112, 56)])
def test_tolerance_is_a_share_of_the_shorter_side(size):
    mask = np.zeros(size, bool)
    mask[20, 20] = True
    tolerant = pointing.near(mask)
    assert tolerant[23, 20] and tolerant[20, 23] and not tolerant[24, 20] and not tolerant[20, 24]


def test_peak_and_energy():
    saliency = np.zeros((56, 56), np.float32)
    saliency[10, 12], saliency[30, 30], saliency[31, 5] = 1, 0.5, 0.5
    mask = pointing.inside([(12, 10, 13, 11), (5, 31, 6, 32)], (56, 56), (56, 56))
    assert pointing.measure(saliency, mask, pointing.near(mask)) == {"hit": 1, "hit_15": 1, "energy": 0.75}
    mask = pointing.inside([(14, 10, 20, 20)], (56, 56), (56, 56))             # two pixels beside the peak
    assert pointing.measure(saliency, mask, pointing.near(mask)) == {"hit": 0, "hit_15": 1, "energy": 0}
    saliency[40, 40] = 1                                                       # as high, but later
    mask = pointing.inside([(40, 40, 41, 41)], (56, 56), (56, 56))
    assert pointing.measure(saliency, mask, pointing.near(mask))["hit"] == 0
    nothing = pointing.measure(np.zeros((56, 56), np.float32), np.ones((56, 56), bool),
                               np.ones((56, 56), bool))
    assert nothing == {"hit": 0, "hit_15": 0, "energy": 0}


def test_chance_is_what_random_peaks_hit():
    mask = pointing.inside([(10, 10, 40, 30)], (56, 56), (56, 56))
    found, g = [], np.random.default_rng(0)
    for _ in range(3000):
        saliency = np.zeros((56, 56))
        saliency[tuple(g.integers(56, size=2))] = 1
        found.append(list(pointing.measure(saliency, mask, pointing.near(mask)).values()))
    expected = pointing.chance(mask, pointing.near(mask))
    assert np.mean(found, 0) == pytest.approx(list(expected.values()), abs=0.03)
    assert expected["energy"] == pointing.measure(np.ones((56, 56)), mask, mask)["energy"]


def test_as_quantus_has_it():
    """Where it has the same definition: no tolerance, one maximum, maps that are not negative."""
    quantus = pytest.importorskip("quantus")
    g = np.random.default_rng(1)
    maps, masks = g.random((40, 1, 16, 16)), np.zeros((40, 1, 16, 16), bool)
    for mask in masks:
        top, left = g.integers(0, 9, 2)
        mask[0, top:top + 9, left:left + 8] = True
    how = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    for metric, figure in ((quantus.PointingGame(**how), "hit"),
                           (quantus.RelevanceMassAccuracy(**how), "energy")):
        wanted = metric.evaluate_batch(a_batch=maps, s_batch=masks)
        found = [pointing.measure(own[0], mask[0], mask[0])[figure] for own, mask in zip(maps, masks)]
        assert found == pytest.approx([float(each) for each in wanted]) and 0 < np.mean(found) < 1


def test_means_over_categories_and_over_pairs():
    nan = np.nan
    values = np.array([[1, nan, nan, nan], [0, 1, nan, nan], [1, 0, nan, nan], [nan, nan, nan, 1],
                       [0, nan, nan, nan]])
    (categories,), (pairs,) = pointing.averages(values, np.ones((1, 5)))
    assert categories == pytest.approx((2 / 4 + 1 / 2) / 2) and pairs == pytest.approx(4 / 7)
    weights = draws(5)
    drawn = np.stack(pointing.averages(values, weights))
    for own, row in list(zip(drawn.T, weights))[:200]:                    # each draw as a data set of its own
        again = values.repeat(row, 0)
        columns = [column[~np.isnan(column)].mean() for column in again[:, :3].T
                   if not np.isnan(column).all()]
        assert own[1] == pytest.approx(again[~np.isnan(again)].mean())
        assert np.isnan(own[0]) if not columns else own[0] == pytest.approx(np.mean(columns))
    assert weights.shape == (2000, 5) and (weights.sum(1) == 5).all()
    low, high = percentiles(drawn[1])
    assert low < pairs < high and percentiles(np.arange(1001.0)) == pytest.approx([25, 975])
