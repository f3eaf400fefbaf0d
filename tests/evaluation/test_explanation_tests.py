"""POS, NEG, DEL, INS, ADP and PIC: against closed forms, and against loops that do one thing at a time."""

import math

import pytest
import torch

from iia.datasets.pictures import denormalise, normalise
from iia.errors import UserError
from iia.evaluation import perturbation
from iia.evaluation.explanation_tests import axes, score, score_originals
from iia.evaluation.protocols import MASKED, PAPER, PROTOCOLS

from tests.evaluation.toys import ReadsOnePixel, Scrambles

SIX = PAPER[:6]
SURE, UNSURE = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))


def lit(size=16):
    """A picture of ones, normalised for the toys, [1, 3, size, size], float64."""
    return normalise(torch.ones(1, 3, size, size, dtype=torch.float64), ReadsOnePixel.mean, ReadsOnePixel.std)


def map_with_rank(model, share):
    """A map in which that share of the pixels is more relevant than the one that the network reads."""
    noise = torch.rand(1, *model.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[0, *model.place] = noise.flatten().quantile(1 - share)
    return noise


def area(curve):
    return sum(100 * 0.1 * (a + b) / 2 for a, b in zip(curve, curve[1:]))


# ------------------------------------------------------------------------------ closed forms

@pytest.mark.parametrize("share, masked_at, kept_until", [(0, 1, 9), (0.45, 5, 5), (1, 10, 0)])
def test_one_pixel(share, masked_at, kept_until):
    """From POS's side the pixel goes at step `masked_at`; from NEG's it stays until step `kept_until`."""
    model = ReadsOnePixel()
    metrics, curves = score(model, lit(), torch.tensor([1]), map_with_rank(model, share), SIX)
    most = [1.0 if k < masked_at else 0.0 for k in range(10)]
    least = [1.0 if k <= kept_until else 0.0 for k in range(10)]
    assert curves["POS"][0].tolist() == most
    assert curves["NEG"][0].tolist() == least
    assert metrics["POS"].item() == pytest.approx(area(most))
    assert metrics["NEG"].item() == pytest.approx(area(least))
    assert metrics["DEL"].item() == pytest.approx(area([SURE if kept else UNSURE for kept in most]))
    assert metrics["INS"].item() == pytest.approx(area([SURE if kept else UNSURE for kept in least]))


def test_most_is_ninety():
    model = ReadsOnePixel()
    perfect, _ = score(model, lit(), torch.tensor([1]), map_with_rank(model, 0), ["POS", "NEG"])
    assert (perfect["POS"].item(), perfect["NEG"].item()) == (pytest.approx(5), pytest.approx(90))


def test_perfect_map_is_best_and_random_map_in_between():
    model, seeds = ReadsOnePixel(size=64), range(20)
    noise = torch.stack([torch.rand(64, 64, generator=torch.Generator().manual_seed(s))
                         for s in seeds]).double()
    raw = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    raw[..., *model.place] = 1                                    # so that the blur puts it out
    pictures = normalise(raw, model.mean, model.std).expand(len(seeds), -1, -1, -1)
    classes = torch.ones(len(seeds), dtype=torch.int64)
    perfect, worst = noise.clone(), noise.clone()
    perfect[:, *model.place], worst[:, *model.place] = 2, -1
    for protocol, names in (("paper", [*SIX[:4], "SRG", "INS-DEL"]), ("rise", None)):
        best, middle, last = (score(model, pictures, classes, maps, names, protocol=protocol)[0]
                              for maps in (perfect, noise, worst))
        for name in best:
            order = [values[name].mean().item() for values in (best, middle, last)]
            better = PROTOCOLS[protocol].figures[name].better
            assert order == sorted(order, reverse=better == "higher") and len(set(order)) == 3, name


def test_seen_through_the_map():
    """The pixel keeps m of its red: O = 1/(1 + exp(−8 (m − 1/2))); Y is that of m = 1, of 0.6 if dim."""
    model, classes = ReadsOnePixel(), torch.tensor([1, 1, 0])
    raw = torch.tensor([1.0, 0.6, 1.0]).double().view(3, 1, 1, 1).expand(3, 3, 16, 16)
    pictures = normalise(raw, model.mean, model.std)
    maps = torch.full((3, 16, 16), 0.25, dtype=torch.float64)
    metrics, _ = score(model, pictures, classes, maps, ["ADP", "PIC"])

    def sure(red):
        return 1 / (1 + math.exp(-8 * (red - 0.5)))
    drops = [1 - sure(0.25) / sure(1), 1 - sure(0.15) / sure(0.6), 0]         # class 0 is surer in the dark
    assert metrics["ADP"].tolist() == pytest.approx([100 * drop for drop in drops])
    assert metrics["PIC"].tolist() == [0, 0, 100]


def test_no_drop_where_there_was_nothing():
    """Y = 0 in float32: nothing can drop, and nothing is NaN."""
    class Certain(ReadsOnePixel):
        def logits(self, x):
            return 1000 * super().logits(x)
    metrics, _ = score(Certain(), lit().float(), torch.tensor([0]), torch.ones(1, 16, 16), ["ADP", "PIC"])
    assert (metrics["ADP"].item(), metrics["PIC"].item()) == (0, 0)


# ------------------------------------------------------------------------------------- loops

def setting(count=3, size=16):
    g = torch.Generator().manual_seed(1)
    model = Scrambles(size).double()
    pictures = normalise(torch.rand(count, 3, size, size, generator=g).double(), model.mean, model.std)
    classes = model(pictures).argmax(1)
    classes[-1] = (classes[-1] + 1) % 4                           # a picture that the network has wrong
    # six values: ties everywhere
    maps = (torch.rand(count, size, size, generator=g).double() * 5).round() / 5
    maps[1] = 0.5                                                 # and nothing but ties
    return model, pictures, classes, maps


def answers(model, raw, wanted):
    logits = model(normalise(raw[None], model.mean, model.std))[0]
    return float(logits.argmax() == wanted), float(logits.softmax(0)[wanted])


def slow_masked_curve(model, picture, wanted, saliency, most, read):
    raw = denormalise(picture, model.mean, model.std)
    values = saliency.flatten().tolist()
    order = sorted(range(len(values)), key=lambda p: -values[p])
    order = order if most else order[::-1]
    curve = []
    for tenths in range(10):
        masked = raw.clone()
        for p in order[:tenths * len(order) // 10]:
            masked[:, p // saliency.shape[1], p % saliency.shape[1]] = 0
        curve.append(answers(model, masked, wanted)[read])
    return curve


@torch.no_grad()
def test_masking_against_loops():
    model, pictures, classes, maps = setting()
    metrics, curves = score(model, pictures, classes, maps, SIX)
    for name, most, read in (("POS", True, 0), ("NEG", False, 0), ("DEL", True, 1), ("INS", False, 1)):
        slow = [slow_masked_curve(model, *given, most, read) for given in zip(pictures, classes, maps)]
        assert torch.allclose(curves[name], torch.tensor(slow).double(), atol=1e-10), name
        assert metrics[name].tolist() == pytest.approx([area(curve) for curve in slow]), name
    assert len({round(v, 6) for v in metrics["DEL"].tolist()}) == 3      # three pictures, three answers
    for i, (picture, wanted, saliency) in enumerate(zip(pictures, classes, maps)):
        raw = denormalise(picture, model.mean, model.std)
        y, o = (answers(model, seen, wanted)[1] for seen in (raw, raw * saliency))
        assert metrics["ADP"][i].item() == pytest.approx(100 * max(0, y - o) / y)
        assert metrics["PIC"][i].item() == (100 if y < o else 0)


# -------------------------------------------------------------------------- how it is computed

@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batch_size_bounds_the_rows_and_changes_nothing(protocol, rows):
    model, pictures, classes, maps = setting()
    names = [name for name in PROTOCOLS[protocol].figures if name not in ("AIC", "SIC")]
    usual, _ = score(model, pictures, classes, maps, names, protocol=protocol)
    model.passes.clear()
    metrics, _ = score(model, pictures, classes, maps, names, batch_size=rows, protocol=protocol)
    assert max(model.passes) <= rows
    for name in usual:
        assert torch.allclose(metrics[name], usual[name], atol=1e-9), name


def test_figures_share_their_passes():
    """A picture costs itself once for all maps, each map 9 + 9 masked pictures and one seen through it."""
    model, pictures, classes, maps = setting()
    model.passes.clear()
    originals = score_originals(model, pictures, classes, SIX, batch_size=54)
    assert model.passes == [3]
    model.passes.clear()
    score(model, pictures, classes, maps, SIX, originals, batch_size=54)
    assert model.passes == [54, 3]
    model.passes.clear()
    score(model, pictures, classes, maps, ["POS", "DEL"], originals, batch_size=54)
    assert model.passes == [27]


def test_ties_keep_their_reading_order():
    ranks = perturbation.ranks(torch.tensor([[[0.5, 1.0], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]))
    assert ranks.tolist() == [[[1, 0], [2, 3]], [[0, 1], [2, 3]]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_untouched_picture_is_left_alone(protocol):
    model, pictures, classes, maps = setting()
    before = pictures.clone(), maps.clone()
    score(model, pictures, classes, maps, protocol=protocol)
    assert torch.equal(pictures, before[0]) and torch.equal(maps, before[1])


def test_figures_by_name():
    model, pictures, classes, maps = setting()
    metrics, curves = score(model, pictures, classes, maps, ["INS", "POS"])
    assert list(metrics) == ["INS", "POS"] and set(curves) == {"INS", "POS"}
    points = {"POS": 10, "NEG": 10, "DEL": 10, "INS": 10, "AIC": 21, "SIC": 21}
    assert {name: len(x) for name, x in axes([*MASKED], (224, 224)).items()} == points
    assert {name: len(x) for name, x in axes(["DEL", "INS-DEL"], (224, 224), "rise").items()} == {"DEL": 225}
    for wrong, said in (({"metrics": ["POSS"]}, "Did you mean 'POS'"),
                        ({"protocol": "rised"}, "Did you mean 'rise'"),
                        ({"metrics": ["POS"], "protocol": "rise"}, "figure of protocol rise"),
                        ({"metrics": ["ADD"]}, "figure of protocol paper")):
        with pytest.raises(UserError, match=said):
            score(model, pictures, classes, maps, **wrong)


def test_pixel_counts_are_rounded_down():
    """10 % of 256 are 25.6: the 26th pixel of the map, which the network reads, is left."""
    model = ReadsOnePixel()
    saliency = torch.arange(256, 0, -1).double().view(1, 16, 16)
    model.place = (25 // 16, 25 % 16)
    assert score(model, lit(), [1], saliency, ["POS"])[1]["POS"][0].tolist() == [1, 1] + 8 * [0]


@pytest.mark.parametrize("wrong, said", [
    ({"maps": torch.zeros(2, 1, 16, 16)}, "not \\[2, 1, 16, 16\\]"),
    ({"maps": torch.zeros(2, 7, 7)}, "not \\[2, 7, 7\\]"),
    ({"maps": [[0.5]]}, "not list"),
    ({"classes": [0]}, "a target class for each"), ({"classes": [0, -1]}, "a target class for each"),
    ({"batch_size": 0}, "at least 1"),
])
def test_maps_and_classes_that_do_not_fit(wrong, said):
    arguments = {"pictures": torch.zeros(2, 3, 16, 16), "classes": [0, 1],
                 "maps": torch.zeros(2, 16, 16)} | wrong
    with pytest.raises(UserError, match=said):
        score(Scrambles(), metrics=["POS"], **arguments)


def test_any_map_can_be_tested():
    """One on another scale is the same map, and one that is no number says as little as a constant one."""
    model = Scrambles()
    pictures = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    model.double()
    finished, _ = score(model, pictures, [0, 1, 2], (maps - low) / (high - low), SIX)
    raw, _ = score(model, pictures, [0, 1, 2], 255 * maps - 7, SIX)
    for name in SIX:
        torch.testing.assert_close(raw[name], finished[name])
    maps[1, 3, 4] = torch.nan
    odd, _ = score(model, pictures, [0, 1, 2], maps, SIX)
    maps[1] = 0
    flat, _ = score(model, pictures, [0, 1, 2], maps, SIX)
    assert all(torch.equal(odd[name], flat[name]) for name in SIX)
