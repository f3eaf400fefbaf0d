"""How far a map is from its limit, as `iia.explain` estimates it."""

import pytest
import torch

import iia


@pytest.mark.parametrize("quadrature", ["riemann", "trapezoid", "gauss"])
@pytest.mark.parametrize("kind, operation", [("vgg", "iia"), ("vgg", "iia-triple"), ("vgg", "iia-previous"),
    ("vgg", "iia-ablation-im"), ("vgg", "iia-ablation-ac"), ("vit", "iia"), ("vit", "iia-triple"),
    ("vit", "iia-previous"), ("vit", "ablation-image"), ("vit", "ablation-attention")])
def test_the_error_is_the_difference_from_the_map_of_half_the_steps(
        kind, operation, quadrature, pictures, classes, request):
    """Of riemann and trapezoid the points of n = 2 are among those of n = 4. The maps stay as they are."""
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    how = dict(operation=operation, quadrature=quadrature, batch_size=7)
    maps, error = iia.explain(model, pictures, classes, **how, steps=4, return_error=True)
    torch.testing.assert_close(maps, iia.explain(model, pictures, classes, **how, steps=4))
    assert error.shape == (3,) and (error > 0).all() and (error < 1).all()
    one, error_of_one = iia.explain(model, pictures[:1], classes[:1], **how, steps=4, return_error=True)
    torch.testing.assert_close(error_of_one, error[:1])
    if quadrature != "gauss":
        half = iia.explain(model, pictures, classes, **how, steps=2)
        scale = 2**{"riemann": 1.3, "trapezoid": 1.7}[quadrature] - 1
        torch.testing.assert_close(error * scale, (maps - half).abs().amax((1, 2)))


def test_the_error_of_one_step_is_not_known_and_that_of_many_is_small(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    assert iia.explain(model, pictures, classes, steps=1, return_error=True)[1].isnan().all()
    limit = iia.explain(model, pictures, classes, steps=60, quadrature="gauss")
    maps, error = iia.explain(model, pictures, classes, steps=10, return_error=True)
    true = (maps - limit).abs().amax((1, 2))
    assert ((error > true / 4) & (error < 4 * true)).all(), (error, true)
    more = iia.explain(model, pictures, classes, steps=40, quadrature="gauss", return_error=True)[1]
    assert more.max() < error.min()
    maps, error = iia.explain(model, pictures[:0], [], return_error=True)
    assert maps.shape == (0, 16, 16) and error.shape == (0,)


def test_the_error_of_a_map_that_says_nothing_is_not_known(vgg, pictures, classes):
    torch.nn.init.zeros_(vgg.classifier[-1].weight[2])
    maps, error = iia.explain(iia.wrap(vgg, image_size=16), pictures, classes, steps=2, return_error=True)
    assert error.isnan().tolist() == [True, False, True] and not maps[0].any()
