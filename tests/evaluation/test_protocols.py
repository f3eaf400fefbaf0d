"""The protocols bee, rise and road against loops, grad-cam and Quantus; what one run of a protocol says."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import (NoisyLinearImputer, ROADCombined, ROADLeastRelevantFirstAverage,
                                           ROADMostRelevantFirstAverage)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy import ndimage

from iia.evaluation import road
from iia.evaluation.explanation_tests import score
from iia.evaluation.protocols import MASKED, PROTOCOLS, chosen_figures

from tests.evaluation.test_explanation_tests import area, setting
from tests.evaluation.toys import Scrambles

SEEDS = [3, 4, 5]


def answer(model, picture, wanted):
    logits = model(picture[None])[0]
    return float(logits.argmax() == wanted), float(logits.softmax(0)[wanted])


def order_of(saliency):
    values = saliency.flatten().tolist()
    return sorted(range(len(values)), key=lambda p: -values[p])


# ------------------------------------------------------------------------------------- bee

@torch.no_grad()
def test_bee_against_loops():
    """Masked is the normalised picture; ADP keeps picture x map, ADD what is left of it."""
    model, pictures, classes, maps = setting()
    names = [name for name in PROTOCOLS["bee"].figures if name not in ("AIC", "SIC")]
    metrics, _ = score(model, pictures, classes, maps, names, protocol="bee")
    other, _ = score(model, pictures, classes, maps, names[:6])
    for i, (picture, wanted, saliency) in enumerate(zip(pictures, classes, maps)):
        expected = {}
        for name, most, read in (("POS", 1, 0), ("NEG", 0, 0), ("DEL", 1, 1), ("INS", 0, 1)):
            order, curve = order_of(saliency), []
            order = order if most else order[::-1]
            for tenths in range(10):
                masked = picture.clone()
                for p in order[:int(len(order) * tenths / 10)]:
                    masked[:, p // 16, p % 16] = 0
                curve.append(answer(model, masked, wanted)[read])
            expected[name] = area(curve)
        y, o, rest = (answer(model, seen, wanted)[1]
                      for seen in (picture, picture * saliency, picture * (1 - saliency)))
        expected |= {"ADP": 100 * max(0, y - o) / y, "ADD": 100 * max(0, y - rest) / y,
                     "PIC": 100.0 * (y < o),
                     "SRG": expected["NEG"] - expected["POS"], "INS-DEL": expected["INS"] - expected["DEL"]}
        assert {name: values[i].item() for name, values in metrics.items()} == pytest.approx(expected)
    for name in ("DEL", "INS", "ADP"):
        assert not torch.allclose(metrics[name], other[name]), name          # black is another colour


@torch.no_grad()
def test_rise_against_loops():
    model, pictures, classes, maps = setting(count=2, size=32)
    metrics, curves = score(model, pictures, classes, maps, protocol="rise")
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 5)
    for i, (picture, wanted, saliency) in enumerate(zip(pictures, classes, maps)):
        blurred = torch.from_numpy(np.stack([ndimage.convolve(c, kernel, mode="constant")
                                             for c in picture.numpy()]))
        values = saliency.flatten().tolist()
        order = sorted(range(len(values)), key=lambda p: -values[p])
        for name, start, end in (("DEL", picture, torch.zeros_like(picture)), ("INS", blurred, picture)):
            now, slow = start.clone(), []
            for first in range(0, len(order) + 224, 224):
                slow.append(model(now[None]).softmax(1)[0, wanted].item())
                for p in order[first:first + 224]:
                    now[:, p // 32, p % 32] = end[:, p // 32, p % 32]
            assert curves[name][i].tolist() == pytest.approx(slow), name
            mean_of_neighbours = [(a + b) / 2 for a, b in zip(slow, slow[1:])]
            assert metrics[name][i].item() == pytest.approx(sum(mean_of_neighbours) / len(mean_of_neighbours))
    assert torch.equal(metrics["INS-DEL"], metrics["INS"] - metrics["DEL"])


# ------------------------------------------------------------------------------------ differences

@pytest.mark.parametrize("protocol, name, higher, lower, factor", [
    ("paper", "SRG", "NEG", "POS", 1), ("paper", "INS-DEL", "INS", "DEL", 1), ("bee", "SRG", "NEG", "POS", 1),
    ("rise", "INS-DEL", "INS", "DEL", 1), ("road", "ROAD_combined", "ROAD_least", "ROAD_most", 0.5)])
def test_differences_picture_by_picture(protocol, name, higher, lower, factor):
    """Asked for alone, too: then it has no curve, and neither have its parts."""
    how = dict(zip(("model", "pictures", "classes", "maps"), setting()), protocol=protocol, seeds=SEEDS)
    both, _ = score(metrics=[higher, lower], **how)
    alone, curves = score(metrics=[name], **how)
    assert alone[name].tolist() == (factor * (both[higher] - both[lower])).tolist() and curves == {}
    assert PROTOCOLS[protocol].figures[name].better == "higher" and len(set(alone[name].tolist())) > 1


def test_each_protocol_names_its_figures():
    assert list(chosen_figures("paper", None)) == ["POS", "NEG", "DEL", "INS", "ADP", "PIC", "AIC", "SIC",
                                                   "SRG", "INS-DEL"]
    assert list(chosen_figures("bee", None)) == [*MASKED, "ADD"]
    assert list(chosen_figures("rise", None)) == ["DEL", "INS", "INS-DEL"]
    assert list(chosen_figures("road", None)) == ["ROAD_most", "ROAD_least", "ROAD_combined"]
    assert PROTOCOLS["bee"].thresholds == (.005, .01, .03, .08, .10, .21, .34, .5, .75)
    assert PROTOCOLS["paper"].thresholds == (.005, .01, .02, .03, .04, .05, .07, .10, .13, .21, .34, .5, .75)
    lower = {"POS", "DEL", "ADP", "ROAD_most"}
    for protocol in PROTOCOLS.values():
        assert {name for name, own in protocol.figures.items()
                if own.better == "lower"} == lower & set(protocol.figures)


# ------------------------------------------------------------------------------------ road

def no_ties(count=3, size=16):
    model, pictures, classes, _ = setting(count, size)
    g = torch.Generator().manual_seed(8)
    maps = torch.stack([torch.randperm(size * size, generator=g).view(size, size) for _ in range(count)])
    return model.float(), pictures.float(), classes, maps / maps.max()


@pytest.mark.parametrize("size", [16, 15])
def test_road_is_grad_cams(size, monkeypatch):
    """Without noise, on maps without ties: its own classes, at all four percentiles."""
    monkeypatch.setattr(NoisyLinearImputer, "__init__", quiet)
    model, pictures, classes, maps = no_ties(size=size)
    metrics, curves = score(model, pictures, classes, maps, seeds=SEEDS, protocol="road")
    targets = [ClassifierOutputSoftmaxTarget(int(one)) for one in classes]
    for name, kind in (("ROAD_most", ROADMostRelevantFirstAverage),
                       ("ROAD_least", ROADLeastRelevantFirstAverage), ("ROAD_combined", ROADCombined)):
        library = kind(percentiles=[20, 40, 60, 80])(pictures, maps.double().numpy(), targets, model)
        assert np.allclose(metrics[name], library, atol=1e-6), name
    assert curves["ROAD_most"].shape == (3, 5) and "ROAD_combined" not in curves


def quiet(self, noise=0.0, weighting=None):
    self.noise = 0.0


@torch.no_grad()
def test_road_against_a_loop(monkeypatch):
    """Each missing pixel is the weighted mean of its neighbours, found by going round until it stands."""
    monkeypatch.setattr(NoisyLinearImputer, "__init__", quiet)
    model, pictures, classes, maps = (value[:1] if isinstance(value, torch.Tensor) else value
                                      for value in no_ties(2, size=8))
    curves = score(model, pictures, classes, maps, protocol="road")[1]
    for name, order in (("ROAD_most", order_of(maps[0])), ("ROAD_least", order_of(maps[0])[::-1])):
        slow = [answer(model, pictures[0], classes[0])[1]]
        for kept in (51, 38, 26, 13):                       # of 64; the 80th, 60th ... percentile, rounded up
            values = pictures[0].double().numpy().copy()
            for _ in range(150):
                for p in order[:64 - kept]:
                    total, weight = 0, 0
                    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
                        y, x, w = p // 8 + dy, p % 8 + dx, 1 / 12 if dx and dy else 1 / 6
                        if 0 <= y < 8 and 0 <= x < 8:
                            total, weight = total + w * values[:, y, x], weight + w
                    values[:, p // 8, p % 8] = total / weight
            slow.append(answer(model, torch.from_numpy(values).float(), classes[0])[1])
        assert curves[name][0].tolist() == pytest.approx(slow, abs=1e-5), name


def test_road_noise_is_a_picture_s_own(monkeypatch):
    """It comes from the picture's seed, whatever the batch, and leaves the caller's random numbers alone."""
    model, pictures, classes, maps = no_ties()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's were seeded"))
    torch.default_generator.manual_seed(1)
    expected = torch.rand(1)
    torch.default_generator.manual_seed(1)
    together, _ = score(model, pictures, classes, maps, seeds=SEEDS, protocol="road")
    assert torch.equal(torch.rand(1), expected)
    alone, _ = score(model, pictures[1:2], classes[1:2], maps[1:2], seeds=SEEDS[1:2], protocol="road")
    other, _ = score(model, pictures[1:2], classes[1:2], maps[1:2], seeds=[9], protocol="road")
    for name in together:
        assert alone[name].item() == pytest.approx(together[name][1].item(), abs=1e-6)
        assert other[name].item() != pytest.approx(together[name][1].item(), abs=1e-6)


def test_road_of_a_map_that_is_mostly_zero():
    """Equal pixels go in reading order; grad-cam would impute the whole picture from nothing."""
    model, pictures, classes, maps = no_ties()
    in_order = -torch.arange(256).view(16, 16) / 1e5
    for tied in ((maps - 0.9).clamp_min(0), torch.zeros_like(maps)):
        values, _ = score(model, pictures, classes, tied, seeds=SEEDS, protocol="road")
        untied, _ = score(model, pictures, classes, tied + in_order, seeds=SEEDS, protocol="road")
        assert all(torch.equal(values[name], untied[name]) and values[name].isfinite().all()
                   for name in values)
    assert road.counts(50176) == [10036, 20071, 30106, 40141] and road.counts(64) == [13, 26, 38, 51]


# --------------------------------------------------------------------------------- Quantus

class Grey(Scrambles):
    """One channel, whose pixel is a feature of Quantus."""
    mean, std, channels = (0.4,), (0.2,), 1

    def logits(self, x):
        return super().logits(x.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("protocol, name, sign, step", [
    ("bee", "DEL", 1, 40), ("bee", "INS", -1, 40), ("paper", "DEL", 1, 40), ("paper", "INS", -1, 40),
    ("rise", "DEL", 1, 224)])
def test_pixel_flipping_of_quantus(protocol, name, sign, step, monkeypatch):
    """Its PixelFlipping has our curves' points but the first; INS masks the order of the map's opposite."""
    quantus = pytest.importorskip("quantus")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    size = {40: 20, 224: 56}[step]
    model, g = Grey(size).float().eval(), torch.Generator().manual_seed(2)
    pictures = (torch.rand(3, 1, size, size, generator=g) - 0.4) / 0.2
    maps = torch.stack([torch.randperm(size * size, generator=g).view(size, size)
                        for _ in range(3)]) / size**2
    classes = torch.tensor([0, 1, 2])
    values, curves = score(model, pictures, classes, maps, [name], protocol=protocol)
    flip = quantus.PixelFlipping(features_in_step=step, perturb_baseline=-2.0 if protocol == "paper" else 0.0,
                                 abs=False, normalise=False, disable_warnings=True)
    library = flip(model, pictures.numpy(), classes.numpy(), a_batch=sign * maps[:, None].numpy(),
                   softmax=True, device="cpu")
    points = curves[name].shape[1] - 1
    assert np.allclose(curves[name][:, 1:], np.array(library)[:, :points], atol=1e-5)
    whole = np.concatenate([curves[name][:, :1].numpy(), np.array(library)[:, :points]], 1)
    scale = 1 / points if protocol == "rise" else 10
    assert np.allclose(values[name], scale * np.trapezoid(whole, axis=1), rtol=1e-4)
