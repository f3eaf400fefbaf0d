"""The bridges, each asked by the package that it is for."""

import warnings

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (BinaryClassifierOutputTarget, ClassifierOutputSoftmaxTarget,
                                                  ClassifierOutputTarget, RawScoresOutputTarget)
from torch import nn

import iia
from iia.bridges import CaptumIIA, GradCamIIA, quantus_explain

from .conftest import random_weights


# ----------------------------------------------------------------------------------- Quantus

@pytest.fixture
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("quantus")


def asked(metric, model, pictures, classes, **options):
    return metric(model, pictures.numpy(), classes.numpy(), explain_func=quantus_explain,
                  explain_func_kwargs=options)


QUIET = {"disable_warnings": True, "display_progressbar": False}


def test_quantus_measures_the_maps_of_iia(quantus, vgg, pictures, classes):
    maps = iia.explain(vgg, pictures, classes, "iia-triple", layer=4, steps=3)
    seen = quantus_explain(vgg, pictures.numpy(), classes.numpy(), method="iia-triple", layer=4, steps=3)
    assert seen.shape == (3, 1, 16, 16) and np.array_equal(seen[:, 0], maps.numpy())
    scores = asked(quantus.Sparseness(**QUIET), vgg.float(), pictures, classes, operation="gradcam")
    own = iia.explain(vgg, pictures.float(), classes, "gradcam").flatten(1).double().sort(1).values
    gini = ((2 * torch.arange(1, 257) - 257) * own).sum(1) / (256 * own.sum(1))        # its closed form
    np.testing.assert_allclose(scores, gini, atol=1e-6)


def test_quantus_evaluates_operations_by_name(quantus, vgg, pictures, classes):
    table = quantus.evaluate({"max": quantus.MaxSensitivity(nr_samples=1, **QUIET)},
                             {"iia": quantus_explain, "gradcam": quantus_explain}, vgg.float(),
                             pictures.numpy(), classes.numpy(), explain_func_kwargs={"steps": 2})
    iia2, gradcam = (table[name]["max"] for name in ("iia", "gradcam"))
    assert len(iia2) == 3 and min(iia2) > 0 and iia2 != gradcam


def test_quantus_sees_randomised_weights_in_the_maps(quantus, vgg, pictures, classes):
    metric = quantus.MPRT(return_average_correlation=False, skip_layers=False,
                          similarity_func=quantus.similarity_func.correlation_pearson, **QUIET)
    found = asked(metric, vgg.float(), pictures, classes, steps=2)
    assert np.allclose(found.pop("original"), 1) and len(found) == 5
    assert np.max(found["features.0"]) < 0.9
    with pytest.raises(iia.UserError, match="give it the network itself"):
        asked(metric, iia.wrap(vgg), pictures, classes)


# ------------------------------------------------------------------------------------ captum

def test_captum_shape_of_call(vgg, pictures, classes):
    method = CaptumIIA(vgg, layer=4, steps=3)
    maps = iia.explain(vgg, pictures, classes, layer=4, steps=3)
    assert torch.equal(method.attribute(pictures, target=classes)[:, 0], maps)
    assert torch.equal(method.attribute((pictures,), target=classes.tolist())[0][:, 0], maps)
    more = method.attribute(pictures, target=2, operation="iia-triple", steps=2)
    assert torch.equal(more[:, 0], iia.explain(vgg, pictures, 2, "iia-triple", layer=4, steps=2))
    with pytest.raises(iia.UserError, match="not a tuple of 2"):
        method.attribute((pictures, pictures), target=2)
    with pytest.raises(iia.UserError, match="not the tuple"):
        method.attribute(pictures, target=(0, 1, 2))


def test_captum_noise_tunnel_averages_the_maps_of_noisy_pictures(vgg, pictures, classes):
    torch.manual_seed(0)
    smooth = NoiseTunnel(CaptumIIA(vgg, steps=2)).attribute(pictures, nt_type="smoothgrad", nt_samples=3,
                                                            stdevs=0.2, target=classes)
    torch.manual_seed(0)
    noisy = pictures.repeat_interleave(3, 0)
    noisy = noisy + torch.normal(0, torch.full_like(noisy, 0.2, dtype=torch.float32))
    maps = iia.explain(vgg, noisy, classes.repeat_interleave(3), steps=2)
    torch.testing.assert_close(smooth, maps.view(3, 3, 1, 16, 16).mean(1))


def test_captum_sensitivity_is_that_of_the_moved_pictures(vgg, pictures, classes):
    def moved(inputs):
        return inputs + 0.01
    found = sensitivity_max(CaptumIIA(vgg, steps=2).attribute, pictures, moved, n_perturb_samples=1,
                            target=classes)
    before, after = (iia.explain(vgg, x, classes, steps=2).flatten(1) for x in (pictures, pictures + 0.01))
    torch.testing.assert_close(found, (before - after).norm(dim=1) / before.norm(dim=1))


def test_captum_convergence_delta_is_the_estimated_error(vgg, pictures, classes):
    maps, error = iia.explain(vgg, pictures, classes, steps=4, return_error=True)
    seen, delta = CaptumIIA(vgg, steps=4).attribute(pictures, classes, return_convergence_delta=True)
    assert torch.equal(seen[:, 0], maps) and torch.equal(delta, error)
    _, delta = NoiseTunnel(CaptumIIA(vgg, steps=4)).attribute(pictures, nt_samples=2, target=classes,
                                                              return_convergence_delta=True)
    assert delta.shape == (6,)


# ---------------------------------------------------------------------------------- grad-cam

def test_gradcam_shape_of_call(vgg, pictures, classes):
    """Each picture with its own target; the same network and layer as grad-cam's own classes take."""
    with GradCamIIA(vgg, [vgg.features[3]], steps=3) as cam:
        maps = cam(input_tensor=pictures, targets=[ClassifierOutputTarget(y) for y in classes.tolist()])
        assert maps.dtype == np.float32 and maps.shape == (3, 16, 16)
        wanted = iia.explain(vgg, pictures, classes, layer=4, steps=3)
        np.testing.assert_allclose(maps, wanted, atol=1e-6)
        predicted = iia.explain(vgg, pictures, iia.predict(vgg, pictures), layer=4, steps=3)
        np.testing.assert_allclose(cam(pictures), predicted, atol=1e-6)
    shown = show_cam_on_image(np.full((16, 16, 3), 0.5, np.float32), maps[0], use_rgb=True)
    assert shown.dtype == np.uint8 and shown.shape == (16, 16, 3)


def test_gradcam_explains_each_pictures_own_prediction(vgg, pictures):
    vgg.classifier[-1].bias.data[:] -= vgg(pictures).mean(0)          # no class is always the first
    predicted = iia.predict(vgg, pictures)
    assert len(set(predicted.tolist())) > 1
    wanted = iia.explain(vgg, pictures, predicted, steps=1)
    np.testing.assert_allclose(GradCamIIA(vgg, steps=1)(pictures), wanted, atol=1e-6)


def test_gradcam_other_targets(vgg, pictures):
    targets = [ClassifierOutputSoftmaxTarget(2), lambda row: row[3] - row[1]]
    maps = GradCamIIA(vgg, steps=2)(pictures[:2], targets)
    softmax = iia.explain(vgg, pictures[:1], target=lambda logits: logits.softmax(1)[:, 2], steps=2)
    versus = iia.explain(vgg, pictures[1:2], target=lambda logits: logits[:, 3] - logits[:, 1], steps=2)
    np.testing.assert_allclose(maps, torch.cat([softmax, versus]), atol=1e-6)
    one = random_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                       nn.Linear(4, 1)))
    against = GradCamIIA(one)(pictures.float(), [BinaryClassifierOutputTarget(0)] * 3)
    wanted = iia.explain(one, pictures.float(), target=lambda logits: -logits[:, 0])
    np.testing.assert_allclose(against, wanted, atol=1e-6)


def test_gradcam_averages_layers(vgg, pictures):
    cam = GradCamIIA(vgg, [vgg.features[1], "features.3"], steps=2)
    maps = cam(pictures, [ClassifierOutputTarget(5)] * 3)
    both = sum(iia.explain(vgg, pictures, 5, layer=layer, steps=2) for layer in (2, 4)) / 2
    low, high = both.amin((1, 2), keepdim=True), both.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(maps, (both - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("how, said", [
    ({"aug_smooth": True}, "leave them out"), ({"eigen_smooth": True}, "leave them out"),
    ({"targets": [ClassifierOutputTarget(1)]}, "1 targets for 3 pictures"),
    ({"targets": [RawScoresOutputTarget()] * 3}, "one number for each row")])
def test_gradcam_refuses_in_a_sentence(how, said, vgg, pictures):
    with pytest.raises(iia.UserError, match=said):
        GradCamIIA(vgg, steps=1)(pictures, **how)


@pytest.mark.parametrize("how, said", [
    ({"targets": [1, 2, 0]}, "targets are functions"),
    ({"targets": ClassifierOutputTarget(1)}, "targets are functions"),
    ({"input_tensor": None}, "VGG and NoneType are no network and its pictures")])
def test_gradcam_inputs_of_other_kinds(how, said, vgg, pictures):
    with pytest.raises(iia.UserError, match=said):
        GradCamIIA(vgg, steps=1)(**{"input_tensor": pictures} | how)


def test_gradcam_one_layer_no_layer_and_no_picture(vgg, pictures):
    layer = vgg.features[3]
    assert np.array_equal(*(GradCamIIA(vgg, layers, steps=1)(pictures) for layers in (layer, [layer])))
    with pytest.raises(iia.UserError, match="target_layers is empty"):
        GradCamIIA(vgg, [])
    assert GradCamIIA(vgg, steps=1)(pictures[:0]).shape == (0, 16, 16)


def test_estimates_beside_the_maps_have_no_place(vgg, pictures):
    for ask in (lambda: GradCamIIA(vgg, return_error=True),
                lambda: CaptumIIA(vgg, return_error=True).attribute(pictures, 1),
                lambda: quantus_explain(vgg, pictures.numpy(), [1, 2, 0], return_error=True)):
        with pytest.raises(iia.UserError, match="return_error has no place"):
            ask()


@pytest.mark.parametrize("targets", [np.array([0.5, 1, 2]), None, np.array(["a", "b", "c"])])
def test_quantus_classes_that_are_none(targets, vgg, pictures):
    with pytest.raises(iia.UserError, match="classes are whole numbers"):
        quantus_explain(vgg, pictures.numpy(), targets, steps=1)
