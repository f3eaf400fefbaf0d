"""`iia.explain`: what it refuses, weights that change, and operations that share what they have in common."""

import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import functional as TF

import iia
from iia import vit_attribution
from iia.datasets.photographs import photograph
from iia.evaluation.answers import ask
from iia.integration import path_integral
from iia.maps import finish
from iia.models.model import Shared
from iia.options import IIAOptions
from iia.quadrature import Rule

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
    ("vit", {"operation": "iia-triple"}, {"operation": "iia"}), ("vit", {}, {"classes": [1, 1, 6]})])
def test_what_a_model_keeps_of_the_picture_zero_is_for_the_same_explanation_only(
        kind, first, second, pictures, classes, request):
    network, usual = request.getfixturevalue(kind), {"classes": classes, "steps": 2}
    model = iia.wrap(network, image_size=16)
    iia.explain(model, pictures, **usual | first)
    found = iia.explain(model, pictures, **usual | second)
    assert torch.equal(found, iia.explain(iia.wrap(network, image_size=16), pictures, **usual | second))


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


@pytest.mark.parametrize("kind, definition, usual, others", [
    ("vgg", "paper", 10, (5, 9, 11)), ("vit", "paper", 10, (5, 9, 11)), ("vit", "release", 5, (4, 6, 10))])
def test_the_models_own_number_of_steps(kind, definition, usual, others, pictures, classes, request):
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    found = iia.explain(model, pictures, classes, definition=definition)
    assert torch.equal(found, iia.explain(model, pictures, classes, steps=usual, definition=definition))
    for n in others:
        other = iia.explain(model, pictures, classes, steps=n, definition=definition)
        assert not torch.allclose(found, other, atol=1e-6)


@pytest.mark.parametrize("quadrature", ["riemann", "trapezoid", "gauss", "graded"])
@pytest.mark.parametrize("kind, operation", [("vgg", "iia"), ("vgg", "iia-triple"), ("vgg", "iia-previous"),
    ("vgg", "iia-ablation-im"), ("vgg", "iia-ablation-ac"), ("vit", "iia"), ("vit", "iia-triple"),
    ("vit", "iia-previous"), ("vit", "ablation-image"), ("vit", "ablation-attention")])
def test_the_error_is_known_beside_the_map_and_of_each_picture(kind, operation, quadrature, pictures, classes,
                                                               request):
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    how = dict(operation=operation, quadrature=quadrature, batch_size=7)
    maps, error = iia.explain(model, pictures, classes, **how, steps=4, return_error=True)
    torch.testing.assert_close(maps, iia.explain(model, pictures, classes, **how, steps=4))
    assert error.shape == (3,) and (error > 0).all() and (error < 1).all()
    one, error_of_one = iia.explain(model, pictures[:1], classes[:1], **how, steps=4, return_error=True)
    torch.testing.assert_close(error_of_one, error[:1])


def test_the_error_is_the_distance_from_the_guesses_of_the_limit(vgg, pictures, classes):
    """The trapezoid's map, and more of its difference from that of n = 2 and from that of 0, 1/4, 3/4 and 1."""
    model, more = iia.wrap(vgg, image_size=16), 1 / (2**1.6 - 1)
    how = IIAOptions(layer=6, steps=4, quadrature="trapezoid")
    score, u = model.score(6), model.features(pictures, 6)
    def raw(a, w):
        rule = Rule(torch.tensor(a).double(), torch.tensor(w).double())
        return path_integral(score, u, how.start(u), classes, rule, 32)
    full = raw([0, .25, .5, .75, 1], [.125, .25, .25, .25, .125])
    guesses = [full + more * (full - raw(*fewer)) for fewer in
               (([0, .5, 1], [.25, .5, .25]), ([0, .25, .75, 1], [.125, .375, .375, .125]))]
    maps, error = iia.explain(model, pictures, classes, "iia-ablation-ac", layer=6, steps=4,
                              quadrature="trapezoid", return_error=True)
    wanted = [(maps - finish(guess, (16, 16), "bicubic")).abs().amax((1, 2)) for guess in guesses]
    torch.testing.assert_close(error, (wanted[0] + wanted[1]) / 2)


def test_the_error_of_one_step_is_not_known_and_that_of_many_is_small(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    assert iia.explain(model, pictures, classes, steps=1, return_error=True)[1].isnan().all()
    limit = iia.explain(model, pictures, classes, steps=60, quadrature="graded")
    maps, error = iia.explain(model, pictures, classes, steps=10, return_error=True)
    true = (maps - limit).abs().amax((1, 2))
    assert ((error > true / 4) & (error < 4 * true)).all(), (error, true)
    assert iia.explain(model, pictures, classes, steps=40, quadrature="graded", return_error=True)[1].max() < error.min()
    maps, error = iia.explain(model, pictures[:0], [], return_error=True)
    assert maps.shape == (0, 16, 16) and error.shape == (0,)


def test_the_error_of_a_map_that_says_nothing_is_not_known(vgg, pictures, classes):
    torch.nn.init.zeros_(vgg.classifier[-1].weight[2])
    maps, error = iia.explain(iia.wrap(vgg, image_size=16), pictures, classes, steps=2, return_error=True)
    assert error.isnan().tolist() == [True, False, True] and not maps[0].any()


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


@pytest.mark.parametrize("kind, arguments, message", [
    ("vgg", dict(quadrature="simpson"), "quadrature"), ("vgg", dict(baseline="black"), "baseline"),
    ("vgg", dict(quadrature="gauss", definition="release"), "sums and baselines of its own"),
    ("vit", dict(baseline="zero"), "starts at 0"), ("vgg", dict(operation="gradcam", return_error=True), "no limit"),
    ("vgg", dict(definition="release", return_error=True), "no limit"),
    ("vit", dict(operation="gae", return_error=True), "no limit")])
def test_quadrature_and_baseline_where_there_is_none(kind, arguments, message, pictures, classes, request):
    with pytest.raises(iia.UserError, match=message):
        iia.explain(request.getfixturevalue(kind), pictures, classes, **arguments)


def test_the_pictures_path_is_shared_by_operations_of_one_quadrature_alone(vgg, pictures, classes):
    model = iia.wrap(vgg, image_size=16)
    how = [dict(operation=name, quadrature=rule, steps=3)
           for name in ("iia", "iia-triple") for rule in ("riemann", "gauss", "trapezoid")]
    with iia.sharing(model, pictures):
        shared = [iia.explain(model, pictures, classes, **one) for one in how]
    for one, found in zip(how, shared):
        assert torch.equal(found, iia.explain(model, pictures, classes, **one))


@pytest.mark.parametrize("operation, fits", [("iia", 2), ("ig", 4)])   # ig: in sets of three pictures
def test_a_batch_that_does_not_fit_is_halved_until_it_does(operation, fits, vgg, pictures, classes, capsys):
    """A device that holds three rows at once."""
    model, seen = iia.wrap(vgg, image_size=16), []
    wanted = iia.explain(model, pictures, classes, operation, batch_size=2)

    def full(module, inputs):
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(full)
    torch.testing.assert_close(iia.explain(model, pictures, classes, operation, batch_size=16), wanted)
    assert max(seen) > 3 and f"going on with batch_size={fits}\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["vgg", "vit"])
@pytest.mark.parametrize("operation", ["iia", "iia-triple", "ig", "lift-cam", "gradcam", "gae"])
def test_many_pictures_are_explained_in_parts(kind, operation, request, pictures, monkeypatch):
    """No function sees more pictures at once than batch_size, and the parts come back in order."""
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    if operation not in iia.operations(model):
        pytest.skip("of the other kind of network")
    x, y = torch.cat([pictures, pictures.flip(3), pictures.flip(2)])[:7], torch.arange(7) % 7
    together, seen = iia.explain(model, x, y, operation, steps=2, batch_size=14), []
    under = type(iia.operations(model)[operation]).under

    def watched(row, definition):
        method = under(row, definition)
        return lambda model, x, y, options: seen.append(len(x)) or method(model, x, y, options)

    monkeypatch.setattr(type(iia.operations(model)[operation]), "under", watched)
    parts = iia.explain(model, x, y, operation, steps=2, batch_size=4)
    assert seen == ([2, 2, 2, 1] if operation == "lift-cam" else [4, 3])
    torch.testing.assert_close(parts, together, rtol=0, atol=1e-8)


def test_a_prediction_of_nan_is_of_no_class_that_was_asked_for(vgg, pictures):
    """argmax takes NaN for the greatest: such an answer must not count as right."""
    nothing = torch.full((3, 7), torch.nan, dtype=torch.float64)
    assert ask(lambda x: nothing, pictures, torch.tensor([0, 1, 2]))[:, 0].tolist() == [0, 0, 0]
    one = torch.zeros(3, 7, dtype=torch.float64)
    one[:, 2] = torch.nan
    assert ask(lambda x: one, pictures, torch.tensor([2, 2, 2]))[:, 0].tolist() == [0, 0, 0]
    one[:, 2] = 1
    assert ask(lambda x: one, pictures, torch.tensor([2, 1, 2]))[:, 0].tolist() == [1, 0, 1]


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
    model = iia.wrap(network, image_size=16)
    before = iia.explain(model, x, [0, 1], steps=2)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.Generator().manual_seed(1)
            weight += 0.3 * torch.randn(weight.shape, dtype=weight.dtype, generator=noise)
    assert torch.equal(iia.explain(model, x, [0, 1], steps=2), before)
    now = iia.explain(network, x, [0, 1], steps=2)
    assert not torch.allclose(before, now, atol=1e-3)
    assert torch.equal(now, iia.explain(iia.wrap(network, image_size=16), x, [0, 1], steps=2))


@pytest.mark.parametrize("wrong, said", [
    ({"classes": [0, 1, 7]}, "has the classes 0..6"), ({"classes": -1}, "has the classes 0..6"),
    ({"classes": [0, 1]}, "one for all, not \\[2\\]"), ({"classes": [[0], [1], [2]]}, "not \\[3, 1\\]"),
    ({"classes": [0.5, 1, 2]}, "whole numbers"), ({"classes": "cat"}, "whole numbers"),
    ({"classes": None}, "whole numbers"), ({"classes": True}, "whole numbers"),
    ({"steps": 2.5}, "steps \\(2.5\\)"), ({"steps": 0}, "at least 1"), ({"batch_size": 0}, "at least 1"),
    ({"batch_size": None}, "batch_size \\(None\\)"), ({"operation": "iiaa"}, "Did you mean 'iia'"),
    ({"definition": "papers"}, "Did you mean 'paper'"),
    ({"pictures": "float32"}, "the pictures are torch.float32 on cpu, the network is torch.float64"),
    ({"pictures": "list"}, "a torch tensor \\[B, C, H, W\\], not list"),
    ({"pictures": "flat"}, "not \\[3, 16, 16\\]"),
    ({"pictures": "sparse"}, "not a sparse or nested one"), ({"classes": 1j}, "whole numbers"),
    ({"classes": torch.tensor([1, 1, 1], dtype=torch.uint64)}, "whole numbers"),
    ({"classes": torch.tensor([1, 1, 1]).to_sparse()}, "whole numbers"),
    ({"steps": 10**20}, "at most 10000"), ({"steps": True}, "steps \\(True\\)"),
])
@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_what_cannot_be_explained(kind, wrong, said, request):
    x = torch.zeros(3, 3, 16, 16, dtype=torch.float64)
    named = {"float32": x.float(), "list": x.tolist(), "flat": x[0], "sparse": x.to_sparse()}
    arguments = {"pictures": x, "classes": 0} | wrong
    if "pictures" in wrong:
        arguments["pictures"] = named[wrong["pictures"]]
    with pytest.raises(iia.UserError, match=said):
        iia.explain(request.getfixturevalue(kind), **arguments)


@pytest.mark.parametrize("target, said", [
    ("a", "target is a function"), (lambda rows: rows.argmax(1), "no gradient"),
    (lambda rows: torch.ones(len(rows)), "no gradient"), (lambda rows: rows[:, 0].detach(), "no gradient"),
    (lambda rows: rows[:, 0] * 1j, "no gradient"), (lambda rows: rows[:1, 0], "for 2 rows"),
    (lambda rows: rows[:, 0] - rows[:, 0].mean(), "mixes the rows"),
    (lambda rows: rows[:1, 0].expand(len(rows)) + rows[-1:, 1], "mixes the rows")])
def test_targets_that_explain_nothing_or_another_row(target, said, vgg, pictures):
    with pytest.raises(iia.UserError, match=said):
        iia.explain(vgg, pictures, target=target, steps=1)
    iia.explain(vgg, pictures, target=lambda rows: rows[:, 0] - rows.logsumexp(1), steps=1)


def test_a_layer_that_is_no_layer_is_named_shortly(vgg, vit, pictures):
    for network, layer, operation in ((vit, vit.blocks[0], "gae"), (vgg, vgg, "iia")):
        with pytest.raises(iia.UserError) as why:
            iia.explain(network, pictures, 0, operation, layer=layer)
        assert type(layer).__name__ in str(why.value) and len(str(why.value)) < 100


def test_operations_of_a_network_as_it_is(vit):
    assert "gae" in iia.operations(vit) and "gradcam" in iia.operations(timm.create_model("test_resnet"))


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


@pytest.mark.parametrize("name, mean, std", [
    ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("deit_tiny_patch16_224", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_a_timm_network_brings_its_normalisation(name, mean, std):
    depth = {"depth": 2} if "deit" in name else {}
    model = iia.wrap(timm.create_model(name, **depth))
    assert (model.mean, model.std) == (mean, std)
    found = iia.load_pictures(photograph("chelsea.png"), model)[0]
    raw = TF.to_tensor(TF.resize(Image.open(photograph("chelsea.png")).convert("RGB"), [224, 224]))
    for channel in range(3):
        torch.testing.assert_close(found[channel], (raw[channel] - mean[channel]) / std[channel])
