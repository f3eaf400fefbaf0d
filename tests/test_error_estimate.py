"""How far a map is from its limit, as `iia.explain` estimates it."""

import pytest
import torch

import iia
from iia.explaining import explain_and_measure
from iia.integration import BASELINES, path_integral
from iia.maps import finish
from iia.quadrature import Rule


@pytest.mark.parametrize("quadrature", ["riemann", "trapezoid", "gauss", "graded"])
@pytest.mark.parametrize("kind, operation", [("vgg", "iia"), ("vgg", "iia-triple"), ("vgg", "iia-previous"),
    ("vgg", "iia-ablation-im"), ("vgg", "iia-ablation-ac"), ("vit", "iia"), ("vit", "iia-triple"),
    ("vit", "iia-previous"), ("vit", "ablation-image"), ("vit", "ablation-attention")])
def test_the_error_is_known_beside_the_map_and_of_each_picture(
        kind, operation, quadrature, pictures, classes, request):
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    how = dict(operation=operation, quadrature=quadrature, batch_size=7)
    maps, error = iia.explain(model, pictures, classes, **how, steps=4, return_error=True)
    torch.testing.assert_close(maps, iia.explain(model, pictures, classes, **how, steps=4))
    assert error.shape == (3,) and (error > 0).all() and (error < 1).all()
    one, error_of_one = iia.explain(model, pictures[:1], classes[:1], **how, steps=4, return_error=True)
    torch.testing.assert_close(error_of_one, error[:1])


def test_the_error_is_the_distance_from_the_guesses_of_the_limit(vgg, pictures, classes):
    """The trapezoid's map, and more of its difference from that of n = 2 and from that of 0, 1/4, 3/4, 1."""
    model, more = iia.wrap(vgg, image_size=16), 1 / (2**1.6 - 1)
    score, u = model.score(6), model.features(pictures, 6)

    def raw(a, w):
        rule = Rule(torch.tensor(a).double(), torch.tensor(w).double())
        return path_integral(score, u, BASELINES["spatial-minimum"](u), classes, rule, 32)

    full = raw([0, .25, .5, .75, 1], [.125, .25, .25, .25, .125])
    guesses = [full + more * (full - raw(*fewer)) for fewer in
               (([0, .5, 1], [.25, .5, .25]), ([0, .25, .75, 1], [.125, .375, .375, .125]))]
    maps, error = iia.explain(model, pictures, classes, "iia-ablation-ac", layer=6, steps=4,
                              quadrature="trapezoid", return_error=True)
    wanted = [(maps - finish(guess, (16, 16), "bicubic")).abs().amax((1, 2)) for guess in guesses]
    torch.testing.assert_close(error, (wanted[0] + wanted[1]) / 2)


@pytest.mark.parametrize("quadrature", ["riemann", "trapezoid", "gauss", "graded"])
@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_the_error_of_one_step_is_not_known(kind, quadrature, pictures, classes, request):
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    maps, error = iia.explain(model, pictures, classes, steps=1, quadrature=quadrature, return_error=True)
    assert error.isnan().all() and maps.amax((1, 2)).tolist() == [1, 1, 1]


def test_names_are_told_in_any_case(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    _, error = explain_and_measure(model, pictures, classes, "IIA", definition="Paper", steps=3)
    assert error.isfinite().all()


def test_the_error_of_many_steps_is_small(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    limit = iia.explain(model, pictures, classes, steps=60, quadrature="graded")
    maps, error = iia.explain(model, pictures, classes, steps=10, return_error=True)
    true = (maps - limit).abs().amax((1, 2))
    assert ((error > true / 4) & (error < 4 * true)).all(), (error, true)
    more = iia.explain(model, pictures, classes, steps=40, quadrature="graded", return_error=True)[1]
    assert more.max() < error.min()
    maps, error = iia.explain(model, pictures[:0], [], return_error=True)
    assert maps.shape == (0, 16, 16) and error.shape == (0,)


def test_the_error_of_a_map_that_says_nothing_is_not_known(vgg, pictures, classes):
    torch.nn.init.zeros_(vgg.classifier[-1].weight[2])
    maps, error = iia.explain(iia.wrap(vgg, image_size=16), pictures, classes, steps=2, return_error=True)
    assert error.isnan().tolist() == [True, False, True] and not maps[0].any()
