"""`iia.explain`: its steps and parts, weights that change, and what it refuses."""

import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import functional as TF

import iia
from iia.datasets.photographs import photograph
from iia.evaluation.answers import ask


@pytest.mark.parametrize("kind, definition, usual, others", [
    ("vgg", "paper", 10, (5, 9, 11)), ("vit", "paper", 10, (5, 9, 11)), ("vit", "release", 5, (4, 6, 10))])
def test_the_models_own_number_of_steps(kind, definition, usual, others, pictures, classes, request):
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
    found = iia.explain(model, pictures, classes, definition=definition)
    assert torch.equal(found, iia.explain(model, pictures, classes, steps=usual, definition=definition))
    for n in others:
        other = iia.explain(model, pictures, classes, steps=n, definition=definition)
        assert not torch.allclose(found, other, atol=1e-6)


@pytest.mark.parametrize("kind, arguments, message", [
    ("vgg", dict(quadrature="simpson"), "quadrature"), ("vgg", dict(baseline="black"), "baseline"),
    ("vgg", dict(quadrature="gauss", definition="release"), "sums and baselines of its own"),
    ("vit", dict(baseline="zero"), "starts at 0"),
    ("vgg", dict(operation="gradcam", return_error=True), "no limit"),
    ("vgg", dict(definition="release", return_error=True), "no limit"),
    ("vit", dict(operation="gae", return_error=True), "no limit")])
def test_quadrature_and_baseline_where_there_is_none(kind, arguments, message, pictures, classes, request):
    with pytest.raises(iia.UserError, match=message):
        iia.explain(request.getfixturevalue(kind), pictures, classes, **arguments)


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


@pytest.mark.parametrize("kind, operation", [
    ("vgg", "iia"), ("vgg", "iia-triple"), ("vgg", "ig"), ("vgg", "lift-cam"), ("vgg", "gradcam"),
    ("vit", "iia"), ("vit", "iia-triple"), ("vit", "gae")])
def test_many_pictures_are_explained_in_parts(kind, operation, request, pictures, monkeypatch):
    """No function sees more pictures at once than batch_size, and the parts come back in order."""
    model = iia.wrap(request.getfixturevalue(kind), image_size=16)
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
    ({"classes": [0, 1]}, "one for all, not \\[0, 1\\]; iia.predict"),
    ({"classes": [[0], [1], [2]]}, "not \\[\\[0\\], "),
    ({"classes": [0.5, 1, 2]}, "whole numbers"), ({"classes": "cat"}, "whole numbers"),
    ({"classes": None}, "whole numbers"), ({"classes": True}, "whole numbers"),
    ({"steps": 2.5}, "steps is 2.5"), ({"steps": 0}, "at least 1"), ({"batch_size": 0}, "at least 1"),
    ({"batch_size": None}, "batch_size is None"), ({"operation": "iiaa"}, "Did you mean 'iia'"),
    ({"definition": "papers"}, "Did you mean 'paper'"),
    ({"pictures": "float32"}, "the pictures are torch.float32 on cpu, the network is torch.float64"),
    ({"pictures": "list"}, "a torch tensor \\[B, C, H, W\\], not list"),
    ({"pictures": "flat"}, "not \\[3, 16, 16\\]"),
    ({"pictures": "sparse"}, "not a sparse or nested one"), ({"classes": 1j}, "whole numbers"),
    ({"classes": torch.tensor([1, 1, 1], dtype=torch.uint64)}, "whole numbers"),
    ({"classes": torch.tensor([1, 1, 1]).to_sparse()}, "whole numbers"),
    ({"steps": 10**20}, "at most 10000"), ({"steps": True}, "steps is True"),
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
    (lambda rows: rows[:, 0] + 0.02 * rows[:, 0].mean(), "mixes the rows"),         # a little
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
        assert torch.equal(iia.explain(iia.wrap(network, image_size=16), x, 0, steps=2), heat)


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
