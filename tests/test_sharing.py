"""Operations share what they have in common, and a model keeps what it may."""

import pytest
import torch

import iia
from iia import vit_attribution
from iia.models.model import Shared

OPERATIONS = ("iia", "iia-triple", "iia-ablation-im", "iia-ablation-ac")
FIRST, SECOND = ({"classes": None, "target": lambda logits, y=y: logits[:, y]} for y in (1, 2))


@pytest.fixture
def pictures_through(monkeypatch):
    """How many pictures have gone through the first stage."""
    rows, stages = [], iia.models.cnn.CNN.stages

    def counted(self, start, stop, x):
        rows.extend([1] * len(x) if start == 0 < stop else [])
        return stages(self, start, stop, x)

    monkeypatch.setattr(iia.models.cnn.CNN, "stages", counted)
    return rows


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("batch_size", [2, 4])                 # 2: the pictures are explained in two parts
def test_shared_maps_are_the_same_maps(vgg, pictures, classes, definition, batch_size, pictures_through):
    model, n = iia.wrap(vgg, image_size=16), 3

    def maps():
        return [iia.explain(model, pictures, classes, name, layer=5, steps=n, batch_size=batch_size,
                            definition=definition) for name in OPERATIONS]

    alone = maps()
    before = len(pictures_through)
    with iia.sharing(model, pictures):
        together = maps()
    for one, other in zip(alone, together):
        assert torch.equal(one, other)
    if definition == "paper":       # the path once for three operations, and the picture alone for the fourth
        assert len(pictures_through) - before == len(pictures) * n + len(pictures)


def test_only_the_very_pictures_share(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    others = pictures.flip(0)
    alone = iia.explain(model, others, classes, steps=2)
    with iia.sharing(model, pictures):
        iia.explain(model, pictures, classes, steps=2)
        assert torch.equal(iia.explain(model, others, classes, steps=2), alone)
        turned = pictures.mT                                   # in the same memory
        assert torch.equal(iia.explain(model, turned, classes, steps=2),
                           iia.explain(iia.wrap(vgg, image_size=16), turned.clone(), classes, steps=2))
    assert not model.shared.kept


@pytest.mark.parametrize("changed", [{"steps": 3}, {"batch_size": 5}, {"layer": 4}, {"definition": "release"},
                                     {"operation": "iia-triple"}])
def test_what_is_shared_is_shared_for_the_same_path_only(changed, vgg, pictures, classes):
    """One thing at a time: each of them alone must lead to layers of its own."""
    model, usual = iia.wrap(vgg, image_size=16), {"steps": 2, "batch_size": 4, "layer": 6}
    with iia.sharing(model, pictures):
        iia.explain(model, pictures, classes, **usual)
        assert model.shared.kept
        found = iia.explain(model, pictures, classes, **usual | changed)
    assert torch.equal(found, iia.explain(iia.wrap(vgg, image_size=16), pictures, classes, **usual | changed))


@pytest.mark.parametrize("kind, first, second", [
    ("vgg", {"steps": 2}, {"steps": 3}), ("vgg", {"layer": 4}, {"layer": 6}),
    ("vgg", {}, {"operation": "iia-triple"}), ("vgg", {}, {"definition": "release"}),
    ("vit", {"steps": 2}, {"steps": 3}), ("vit", {"operation": "iia"}, {"operation": "iia-triple"}),
    ("vit", {"operation": "iia-triple"}, {"operation": "iia"}), ("vit", {}, {"classes": [1, 1, 6]}),
    ("vit", {}, {"quadrature": "trapezoid"}), ("vit", {}, {"quadrature": "graded"}),
    ("vit", {}, {"definition": "release"}), ("vit", {}, {"return_error": True}),
    ("vit", {"return_error": True}, {}),
    ("vgg", {}, {"quadrature": "graded"}),
    ("vit", {"classes": 0}, {"classes": None, "target": lambda logits: logits[:, 2] - logits[:, 5]}),
    ("vit", {"classes": None, "target": lambda logits: logits[:, 3]}, {"classes": [0, 0, 0]})])
def test_what_a_model_keeps_of_the_picture_zero_is_for_the_same_explanation_only(
        kind, first, second, pictures, classes, request):
    network, usual = request.getfixturevalue(kind), {"classes": classes, "steps": 2}
    model = iia.wrap(network, image_size=16)
    iia.explain(model, pictures, **usual | first)
    found = iia.explain(model, pictures, **usual | second)
    fresh = iia.explain(iia.wrap(network, image_size=16), pictures, **usual | second)
    for one, other in zip(found, fresh, strict=True):
        assert torch.equal(one, other)


def test_what_a_model_keeps_of_the_picture_zero_is_for_pictures_of_one_size(vgg, pictures, classes):
    model, larger = iia.wrap(vgg, image_size=16), torch.cat([pictures, pictures.flip(3)], 3)
    iia.explain(model, pictures, classes, steps=2)
    found = iia.explain(model, larger, classes, steps=2)
    assert torch.equal(found, iia.explain(iia.wrap(vgg, image_size=(16, 32)), larger, classes, steps=2))
    assert model.at_zero(2, pictures).shape[2:] == (16, 16) and model.at_zero(2, larger).shape[2:] == (16, 32)


def test_a_vit_keeps_the_picture_zero_of_few_classes(vit, pictures, monkeypatch):
    monkeypatch.setattr(vit_attribution, "ZERO_CLASSES", 2)
    model = iia.wrap(vit)
    found = [iia.explain(model, pictures, [y, y + 1, y + 2], steps=2) for y in range(4)]
    assert len(model.contributions_at_zero) == 2
    for y, maps in enumerate(found):
        torch.testing.assert_close(maps, iia.explain(iia.wrap(vit), pictures, [y, y + 1, y + 2], steps=2))


def test_nothing_is_kept_after_an_error_and_a_vit_shares_nothing(vgg, vit, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    with pytest.raises(ZeroDivisionError), iia.sharing(model, pictures):
        iia.explain(model, pictures, 0, steps=2)
        assert model.shared.kept
        raise ZeroDivisionError
    assert not model.shared.kept and model.shared.pictures is None
    model = iia.wrap(vit)
    wanted = iia.explain(model, pictures, classes, steps=2)
    with iia.sharing(model, pictures):
        assert torch.equal(iia.explain(model, pictures, classes, steps=2), wanted)


@pytest.mark.parametrize("operation", ["iia", "iia-triple", "iia-previous"])
def test_inside_sharing_a_vits_maps_do_not_depend_on_what_was_explained_before(operation, vit, pictures):
    """To the last digit: so a run that is resumed has the numbers of one that was not disturbed."""
    vit, pictures, maps = vit.float(), pictures.float(), []
    for earlier in ([], [2, 3]):
        model = iia.wrap(vit)
        iia.explain(model, pictures[:len(earlier)], earlier, operation, steps=2)
        with iia.sharing(model, pictures):
            maps.append(iia.explain(model, pictures, [2, 3, 4], operation, steps=2))
    assert torch.equal(*maps)


def test_the_pictures_path_is_shared_by_operations_of_one_quadrature_alone(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    how = [dict(operation=name, quadrature=rule, steps=3)
           for name in ("iia", "iia-triple") for rule in ("riemann", "gauss", "trapezoid", "graded")]
    with iia.sharing(model, pictures):
        shared = [iia.explain(model, pictures, classes, **one) for one in how]
    for one, found in zip(how, shared):
        assert torch.equal(found, iia.explain(model, pictures, classes, **one))


def test_what_is_kept_is_bounded():
    pictures, made = torch.zeros(1), []
    shared = Shared(pictures, room=12)

    def values(size):
        made.append(size)
        return torch.zeros(size)

    for key, size in (("a", 2), ("b", 2), ("c", 1)):            # 8 bytes, 8 that find no room, 4
        shared.get(pictures, (key,), lambda: values(size))
        shared.get(pictures, (key,), lambda: values(size))
    assert made == [2, 2, 2, 1]


def test_a_model_keeps_few_sizes_and_what_it_is_called_at_each(vgg):
    model = iia.wrap(vgg, image_size=16)
    model.label = "vgg (random weights)"
    for side in range(17, 24):
        assert model.sized((3, side, side)).label == "vgg (random weights)"
        assert model.sized((3, side, side)) is model.sized((3, side, side))
    assert [side for _, side, _ in model._sizes] == [20, 21, 22, 23]


def test_a_layer_that_is_a_module_is_found_for_pictures_of_another_size(vgg):
    model, x = iia.wrap(vgg, image_size=16), torch.randn(1, 3, 24, 20, dtype=torch.float64)
    found = iia.explain(model, x, 2, layer=vgg.features[3], steps=1)
    assert torch.equal(found, iia.explain(model, x, 2, layer=4, steps=1))
