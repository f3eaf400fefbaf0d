"""AIC and SIC against the library that defines them, and where they do not exist."""

import numpy as np
import pytest
import torch
from saliency.metrics import pic as library
from scipy.interpolate import interp1d
from threadpoolctl import threadpool_info, threadpool_limits

from iia.datasets.photographs import photograph
from iia.datasets.pictures import normalise, open_picture, squash
from iia.evaluation import information_curves as ours
from iia.evaluation.answers import ask
from iia.evaluation.explanation_tests import score, score_originals
from iia.evaluation.protocols import PROTOCOLS
from iia.maps import finish

from tests.evaluation.toys import Remembers, Scrambles

SIZE, SEEDS = 64, [11, 12, 13]


@pytest.fixture(scope="module")
def setting():
    """A picture that the network remembers, and three maps: smooth noise, finer, and in few steps."""
    raw = squash(open_picture(photograph("coffee.png")), SIZE)
    model = Remembers(raw)
    g = torch.Generator().manual_seed(2)
    maps = torch.cat([finish(torch.rand(1, side, side, generator=g), (SIZE, SIZE), "bicubic")
                      for side in (4, 16, 8)])
    maps[2] = (maps[2] * 10).round() / 10
    pictures = normalise(raw, model.mean, model.std).expand(3, -1, -1, -1)
    return model, pictures, torch.ones(3, dtype=torch.int64), maps


def endpoints(model, pictures, classes, exact=False):
    return ours.curve_endpoints(model, pictures, classes, SEEDS, ask(model, pictures, classes), 32, exact)


def by_library(model, picture, wanted, saliency, seed, column, thresholds):
    def predict(pixels):
        answers = ask(model, ours.from_pixels(model, pixels, picture), wanted.expand(len(pixels)))
        return answers[:, column].double().numpy()
    return library.compute_pic_metric(ours.to_pixels(model, picture[None])[0], saliency.double().numpy(),
                                      ours.random_pixels((SIZE, SIZE), seed), predict, thresholds)


@pytest.mark.parametrize("name, column", [("AIC", 0), ("SIC", 1)])
@pytest.mark.parametrize("protocol", ["paper", "bee"])
def test_against_the_library(setting, name, column, protocol, monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    thresholds = PROTOCOLS[protocol].thresholds
    expected = [by_library(setting[0], *given, column, thresholds) for given in zip(*setting[1:], SEEDS)]
    ends = endpoints(*setting[:3], exact=True)
    curves = ours.information_curves(*setting, {name}, ends, 32, thresholds)[name]
    assert np.allclose(curves, [result.curve_y for result in expected], atol=1e-6)
    assert np.allclose(ours.unit_area(curves), [result.auc for result in expected], atol=1e-6)
    quick = score(*setting, [name], seeds=SEEDS, protocol=protocol)[0][name]
    assert np.allclose(quick, [result.auc for result in expected], atol=2e-2)      # a thousandth at 224 x 224
    assert len({round(result.auc, 2) for result in expected}) > 1


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_filling_in(setting, share):
    model, pictures, _, maps = setting
    picture = ours.to_pixels(model, pictures[:1])[0]
    known = ours.random_pixels((SIZE, SIZE), 0) | (maps[0] >= maps[0].quantile(1 - share)).numpy()
    expected = library.create_blurred_image(picture, known)
    assert np.array_equal(ours.fill(picture, known, exact=True), expected)
    quick = ours.fill(picture, known)
    assert np.array_equal(quick[known], picture[known])
    assert (quick != expected).any(-1).mean() < 0.05 and np.abs(quick.astype(int) - expected).mean() < 0.2
    assert ours.webp_size(expected) == library.estimate_image_entropy(expected)


def test_joining_points():
    """Against the interpolation that the library uses, with points above one another and out of order."""
    x = torch.tensor([[0.0, 0.0, 0.3, 0.2, 0.3, 1.0], [0.1, 0.5, 0.5, 0.5, 0.7, 0.9]]).double()
    y = torch.tensor([[0.1, 0.2, 0.4, 0.4, 0.6, 0.8], [0.0, 0.1, 0.2, 0.3, 0.9, 1.0]]).double()
    for joined, xs, ys in zip(ours.join(x, y), x, y):
        there = interp1d([*xs, 0.0, 1.0], [*ys, 0.0, 1.0])
        assert np.allclose(joined[:-1], there(np.linspace(0, 1, 1000, endpoint=False)), atol=1e-12)
        assert joined[-1] == 1


def test_more_of_the_right_pixels_is_better(setting):
    """A map of where blurring does harm tells the network more, byte for byte, than its opposite."""
    model, pictures, classes, _ = setting
    harm = (pictures[0] - torch.nn.functional.avg_pool2d(pictures[0], 9, 1, 4)).abs().mean(0)
    maps = torch.stack([harm, -harm])
    metrics, _ = score(model, pictures[:2], classes[:2], maps, ["SIC"], seeds=[1, 1])
    good, bad = metrics["SIC"].tolist()
    assert good > bad


def test_pictures_without_a_curve(setting):
    """Another class, and a picture as simple as its blur, have no figure; the others keep theirs."""
    model, pictures, classes, maps = setting
    metrics, curves = score(model, pictures, torch.tensor([1, 0, 1]), maps, ["AIC", "SIC"], seeds=SEEDS)
    alone, _ = score(model, pictures[2:], classes[2:], maps[2:], ["AIC", "SIC"], seeds=SEEDS[2:])
    for name, values in metrics.items():
        assert values.isnan().tolist() == [False, True, False], name
        assert curves[name].isnan().all(1).tolist() == [False, True, False] and curves[name].shape == (3, 21)
        assert values[2] == alone[name][0]
    grey = Remembers(torch.full((3, SIZE, SIZE), 0.5))
    flat = normalise(grey.picture, grey.mean, grey.std)[None]
    assert score(grey, flat, torch.tensor([1]), maps[:1], ["SIC"])[0]["SIC"].isnan().all()


def test_an_unsure_answer_has_no_softmax_curve(setting):
    """f_1 − f_0 is 0.8 for the picture itself: top-1 is right, the softmax of 0.69 is less than 0.8."""
    class Doubtful(Remembers):
        def logits(self, x):
            return super().logits(x) - torch.tensor([0, 8.2])
    model, pictures, classes, maps = setting
    metrics, _ = score(Doubtful(model.picture), pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS)
    assert not metrics["AIC"].isnan().any() and metrics["SIC"].isnan().all()
    metrics, _ = score(Doubtful(model.picture), pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS,
                       protocol="bee")
    assert not metrics["AIC"].isnan().any() and not metrics["SIC"].isnan().any()


def test_under_bee_an_improbable_class_has_no_curve_at_all(setting):
    """Three classes at 0.46, 0.27 and 0.27: the first is predicted, but less probable than 0.5."""
    class Torn(Remembers):
        def logits(self, x):
            one = super().logits(x)[:, 1:] - 8.47
            return torch.cat([torch.zeros_like(one), one, torch.zeros_like(one)], 1)
    model, pictures, classes, maps = setting
    torn = Torn(model.picture)
    assert 0.4 < torn(pictures[:1]).softmax(1)[0, 1] < 0.5
    paper, _ = score(torn, pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS)
    bee, _ = score(torn, pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS, protocol="bee")
    assert not paper["AIC"].isnan().any() and bee["AIC"].isnan().all() and bee["SIC"].isnan().all()


def test_ends_are_shared(setting):
    model, pictures, classes, maps = setting
    once, _ = score(model, pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS)
    originals = score_originals(model, pictures, classes, ["AIC", "SIC"], SEEDS)
    model.passes.clear()
    again, _ = score(model, pictures, classes, maps, ["AIC", "SIC"], originals)
    assert sum(model.passes) == 3 * len(ours.THRESHOLDS) - 6    # the third map has few levels: equal pictures
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.parametrize("threads", [1, 2])
def test_together_as_one_by_one(setting, threads):
    """In shared passes of any size, and in threads, each picture has the figures that it has alone."""
    model, pictures, classes, maps = setting
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together, curves = score(model, pictures, classes, maps, ["AIC", "SIC"], seeds=SEEDS, batch_size=7)
    finally:
        torch.set_num_threads(before)
    for b, seed in enumerate(SEEDS):
        one = slice(b, b + 1)
        alone, own = score(model, pictures[one], classes[one], maps[one], ["AIC", "SIC"], seeds=[seed],
                           batch_size=1)
        for name in alone:
            assert torch.allclose(together[name][one], alone[name], rtol=0, atol=1e-6), name
            assert torch.allclose(curves[name][one], own[name], rtol=0, atol=1e-6), name
    assert len(set(together["SIC"].tolist())) == 3


def test_filling_in_has_one_thread_of_linear_algebra(setting, monkeypatch):
    """Its threads wait for each other there; afterwards they are as many as before."""
    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    model, pictures, _, maps = setting
    pixels, known = ours.to_pixels(model, pictures), (maps > 0.5).numpy()
    wanted, seen, fill = [ours.fill(*given) for given in zip(pixels, known)], [], ours.fill
    monkeypatch.setattr(ours, "fill", lambda *given: seen.append(threads()) or fill(*given))
    with threadpool_limits(2, user_api="blas"):
        filled, sizes = ours.fill_all(pixels, known, exact=False)
        assert seen == [{1}] * 3 and threads() == {2}
    assert np.array_equal(filled, wanted) and sizes.tolist() == [ours.webp_size(one) for one in wanted]


def test_what_two_maps_show_alike_is_seen_once(setting, monkeypatch):
    """Another map with the same order of pixels has the same curves, without a picture more; of another
    picture it is seen anew."""
    model, pictures, classes, maps = setting
    ends, both = endpoints(model, pictures, classes), {"AIC", "SIC"}
    first = ours.information_curves(model, pictures, classes, maps, both, ends, 32)
    fill_all, filled = ours.fill_all, []

    def counted(picture, known, exact):
        filled.append(len(known))
        return fill_all(picture, known, exact)
    monkeypatch.setattr(ours, "fill_all", counted)
    again = ours.information_curves(model, pictures, classes, maps * 0.5, both, ends, 32)
    assert not filled and all(torch.equal(again[name], first[name]) for name in first)
    ours.information_curves(model, pictures, classes, maps.roll(1, 0), both, ends, 32)
    assert filled == [3 * len(ours.THRESHOLDS) - 6]


def test_a_picture_has_a_curve_where_the_answer_is_sure_and_blurring_takes_answer_and_information_away():
    cases = [(1.0, 0.2, 90.0, True), (0.79, 0.2, 90.0, False), (1.0, 1.0, 90.0, False),
             (1.0, 0.2, 100.0, False)]
    answer, blurred, size, wanted = zip(*cases)
    both = lambda column: torch.tensor(column)[:, None].repeat(1, 2)
    ends = ours.CurveEndpoints(None, None, False, torch.tensor(size), torch.full((4,), 100.0), both(blurred),
                               both(answer))
    assert [ends.usable(name, ours.SURE).tolist() for name in ("AIC", "SIC")] == [list(wanted)] * 2


def test_what_maps_show_alike_is_kept_for_its_own_picture():
    model, pictures, classes = Scrambles(32), torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    ends = ours.curve_endpoints(model, pictures, classes, [0, 0], ask(model, pictures, classes), 8)
    shown = np.zeros((2, 1, 32, 32), dtype=bool)
    shown[..., :9] = True                                      # the same of both
    sizes, answers = ours.see(model, pictures, classes, ends, torch.arange(2), shown, 8)
    for row, pixels in enumerate(ends.pixels):
        filled = ours.fill(pixels, shown[row, 0])
        wanted = ask(model, ours.from_pixels(model, filled[None], pictures), classes[:1])
        assert torch.allclose(answers[row].float(), wanted) and sizes[row] == ours.webp_size(filled)
