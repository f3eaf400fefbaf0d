import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from iia.evaluation import segmentation
from tests import oracles_segmentation

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "segmentation_metrics.npz")
N = 24          # the side of the small maps


def rows(maps, masks):
    numbers = segmentation.measure(torch.as_tensor(maps), torch.as_tensor(masks))
    assert numbers.keys() == segmentation.COLUMNS.keys()
    return [{name: values[i].item() for name, values in numbers.items()} for i in range(len(maps))]


def metrics(maps, masks):
    return segmentation.metrics(pd.DataFrame(rows(maps, masks)))


def random_case(kind, seed=0):
    """Maps in [0, 1] with a minimum of 0 and a maximum of 1, and masks that they fit more or less."""
    make = np.random.default_rng(seed)
    masks = (make.random((5, N, N)) < make.random((5, 1, 1))).astype(np.uint8)
    noise = make.random((5, N, N))
    maps = {"smooth": noise, "few values": np.round(3 * noise) / 3, "two values": masks ^ (noise < 0.2),
            "near the mask": (masks + noise) / 2}[kind]
    maps = maps.astype(np.float32)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low), masks


def test_golden():
    found = metrics(GOLDEN["heatmaps"].astype(np.float32), GOLDEN["masks"])
    for name in ("pixAcc", "mIoU", "mAP", "mF1"):
        assert found[name] == pytest.approx(float(GOLDEN[name]), abs=1e-6), name


@pytest.mark.parametrize("kind", ["smooth", "few values", "two values", "near the mask"])
def test_metrics_are_scikit_learns(kind):
    maps, masks = random_case(kind)
    assert metrics(maps, masks) == pytest.approx(oracles_segmentation.metrics(maps, masks), abs=1e-12)


def test_average_precision_of_each_picture_with_and_without_ties():
    for kind in ("smooth", "few values", "two values"):
        maps, masks = random_case(kind, seed=1)
        found = segmentation.measure(torch.from_numpy(maps), torch.from_numpy(masks))["ap"]
        expected = [oracles_segmentation.average_precision(*pair) for pair in zip(maps, masks)]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_in_float64():
    """Scores that float32 takes for equal, 1 and 1 − 2^-26: the wrong one is told from the right one."""
    maps = torch.tensor([[[0, 2.0**-26, 1, 1]]], dtype=torch.float64)
    masks = torch.tensor([[[0, 1, 1, 1]]])
    # from the top: 1 (three right), 1 − 2^-26 (wrong), 2^-26 (right), 0 (three wrong)
    assert segmentation.measure(maps, masks)["ap"].tolist() == [pytest.approx((3 * 1 + 4 / 5) / 4, abs=1e-15)]


def test_a_picture_does_not_see_its_batch():
    maps, masks = random_case("smooth")
    assert rows(maps, masks) == [rows(maps[i:i + 1], masks[i:i + 1])[0] for i in range(len(maps))]


def test_a_perfect_map_over_half_the_rows():
    mask = np.zeros((1, N, N), np.uint8)
    mask[:, :N // 2, 3:9] = 1
    found = metrics(mask.astype(np.float32), mask)
    assert found == {"pixAcc": 1, "mIoU": 1, "mAP": 1, "mF1": 0.5, "F1": 1}    # a row without object scores 0


@pytest.mark.parametrize("what", ["constant", "zeros", "nan", "one nan", "infinite"])
@pytest.mark.parametrize("value", [0, 1])
def test_maps_that_say_nothing_on_empty_and_full_masks(what, value):
    maps = np.random.default_rng(0).random((1, N, N)).astype(np.float32)
    if what in ("one nan", "infinite"):
        maps[0, 2, 3] = {"one nan": np.nan, "infinite": np.inf}[what]
    else:
        maps[:] = {"constant": 3.5, "zeros": 0, "nan": np.nan}[what]
    masks = np.full((1, N, N), value, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics(maps, masks)
    # as a map of zeros: nothing is above its mean, so all is called background
    assert found == pytest.approx(oracles_segmentation.metrics(np.zeros_like(maps), masks))
    assert found["pixAcc"] == (1 if value == 0 else 0) and found["mF1"] == 0


@pytest.mark.parametrize("value", [0, 1])
def test_proper_maps_on_empty_and_full_masks(value):
    maps, _ = random_case("smooth")
    masks = np.full_like(maps, value, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics(maps, masks)
    assert found == pytest.approx(oracles_segmentation.metrics(maps, masks), abs=1e-12)


def test_maps_of_any_scale_are_scaled():
    maps, masks = random_case("few values")
    assert rows(maps * 8 - 16, masks) == rows(maps, masks)


def test_pixels_at_the_mean_are_background():
    maps = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])
    assert segmentation.foreground(maps).tolist() == [[[False, False, False, True]]]


def test_ratios_are_of_sums_and_means_are_over_pictures():
    """Two pictures of unlike size, by hand."""
    one = {"tp": 2, "fp": 2, "fn": 0, "tn": 4, "ap": 0.5, "row_f1": 0.25}
    two = {"tp": 0, "fp": 0, "fn": 1, "tn": 1, "ap": 1.0, "row_f1": 0.75}
    assert segmentation.metrics(pd.DataFrame([one, two])) == pytest.approx(
        {"pixAcc": 7 / 10, "mIoU": (5 / 8 + 2 / 5) / 2, "mAP": 0.75, "mF1": 0.5, "F1": (2 / 3 + 0) / 2})


def test_counts_are_whole_numbers():
    row = rows(*random_case("smooth"))[0]
    assert all(type(row[name]) is kind for name, kind in segmentation.COLUMNS.items())
    assert row["tp"] + row["fp"] + row["fn"] + row["tn"] == N * N


def test_the_interval_of_pictures_that_are_all_alike_is_the_metric_itself():
    made = pd.DataFrame(rows(*random_case("smooth"))[:1] * 7)
    for name, value in segmentation.metrics(made).items():
        np.testing.assert_allclose(segmentation.metric_intervals(made)[name], [value, value], rtol=1e-12)
