"""`iia.explain`: what it refuses, weights that change, and operations that share what they have in common."""

import pytest
import timm
import torch

import iia
from iia.models.model import Shared

OPERATIONS = ("iia", "iia-triple", "iia-ablation-im", "iia-ablation-ac")


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
def test_shared_maps_are_the_same_maps(vgg, pictures, classes, definition, pictures_through):
    model, n = iia.wrap(vgg, image_size=16), 3

    def maps():
        return [iia.explain(model, pictures, classes, name, layer=5, steps=n, batch_size=4, definition=definition)
                for name in OPERATIONS]

    alone = maps()
    before = len(pictures_through)
    with iia.sharing(model, pictures):
        together = maps()
    for one, other in zip(alone, together):
        assert torch.equal(one, other)
    if definition == "paper":           # the path once for three operations, and the picture alone for the fourth
        assert len(pictures_through) - before == len(pictures) * n + len(pictures)


def test_only_the_very_pictures_share(vgg, pictures, classes):
    model = iia.wrap(vgg)
    others = pictures.flip(0)
    alone = iia.explain(model, others, classes, steps=2)
    with iia.sharing(model, pictures):
        iia.explain(model, pictures, classes, steps=2)
        assert torch.equal(iia.explain(model, others, classes, steps=2), alone)
        assert torch.equal(iia.explain(model, pictures, classes, steps=3, batch_size=5),
                           iia.explain(iia.wrap(vgg), pictures, classes, steps=3, batch_size=5))
    assert not model.shared.kept


def test_nothing_is_kept_after_an_error_and_a_vit_shares_nothing(vgg, vit, pictures):
    model = iia.wrap(vgg, image_size=16)
    with pytest.raises(ZeroDivisionError), iia.sharing(model, pictures):
        iia.explain(model, pictures, 0, steps=2)
        assert model.shared.kept
        raise ZeroDivisionError
    assert not model.shared.kept and model.shared.pictures is None
    with iia.sharing(iia.wrap(vit), pictures):
        pass


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


@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_a_wrapped_model_is_a_snapshot_and_a_network_is_explained_as_it_is_now(kind, request):
    network = request.getfixturevalue(kind)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = iia.wrap(network)
    before = iia.explain(model, x, [0, 1], steps=2)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
    assert torch.equal(iia.explain(model, x, [0, 1], steps=2), before)
    now = iia.explain(network, x, [0, 1], steps=2)
    assert not torch.allclose(before, now, atol=1e-3)
    assert torch.equal(now, iia.explain(iia.wrap(network, image_size=16), x, [0, 1], steps=2))


@pytest.mark.parametrize("wrong, said", [
    ({"classes": [0, 1, 7]}, "has the classes 0..6"), ({"classes": -1}, "has the classes 0..6"),
    ({"classes": [0, 1]}, "one for all, not \\[2\\]"), ({"classes": [[0], [1], [2]]}, "not \\[3, 1\\]"),
    ({"classes": [0.5, 1, 2]}, "whole numbers"), ({"classes": "cat"}, "whole numbers"), ({"classes": None}, "whole numbers"),
    ({"classes": True}, "whole numbers"), ({"steps": 2.5}, "steps \\(2.5\\)"), ({"batch_size": None}, "batch_size \\(None\\)"),
    ({"pictures": "float32"}, "the pictures are torch.float32 on cpu, the network is torch.float64"),
    ({"pictures": "list"}, "a torch tensor \\[B, C, H, W\\], not list"),
    ({"pictures": "flat"}, "not \\[3, 16, 16\\]"),
])
@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_what_cannot_be_explained(kind, wrong, said, request):
    x = torch.zeros(3, 3, 16, 16, dtype=torch.float64)
    named = {"float32": x.float(), "list": x.tolist(), "flat": x[0]}
    arguments = {"pictures": x, "classes": 0} | wrong
    if "pictures" in wrong:
        arguments["pictures"] = named[wrong["pictures"]]
    with pytest.raises(iia.UserError, match=said):
        iia.explain(request.getfixturevalue(kind), **arguments)


@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_no_pictures_and_inference_mode(kind, request):
    network = request.getfixturevalue(kind)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert iia.explain(network, x[:0], 0).shape == (0, 16, 16)
    wanted = iia.explain(network, x, 0, steps=2)
    with torch.inference_mode():
        assert torch.equal(iia.explain(network, x.clone(), 0, steps=2), wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_a_network_is_wrapped_and_asked_inside_any_mode(kind, mode, request):
    """The predicted class of a network of the user's own, which is wrapped on the way."""
    network, x = request.getfixturevalue(kind), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    wanted, heat = network(x).argmax(1), iia.explain(network, x, 0, steps=2)
    with mode():
        assert torch.equal(iia.predict(network, x), wanted)
        assert torch.equal(iia.explain(iia.wrap(network), x, 0, steps=2), heat)


def test_a_timm_network_brings_its_normalisation():
    assert iia.wrap(timm.create_model("tf_efficientnet_lite0")).mean == (0.5, 0.5, 0.5)
