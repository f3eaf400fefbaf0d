"""Which classes a network has, what a target function explains, and what wrap refuses."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

import iia

from ..conftest import random_weights, toy_vgg, toy_vit
from ..oracle_hooks import grid_map
from .networks_of_users import check, check_vit, differ, picture, refused, resnet, with_head


@pytest.mark.parametrize("operation", ["iia", "gradcam", "ig"])
@pytest.mark.parametrize("wrong", [-1, 10, 285])
def test_classes_that_a_head_of_several_layers_has_not(operation, wrong):
    network = with_head(nn.Linear(64, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, 10))
    with refused(r"0\.\.9"):
        iia.explain(network, picture(), wrong, operation, steps=1)
    if operation == "iia":
        check(network, picture(), 9)


def test_a_network_without_a_head_says_so():
    network, x = with_head(nn.Identity()), picture()
    headless = random_weights(timm.create_model("test_resnet", num_classes=0)).double()
    for headless in (network, headless, toy_vit(num_classes=0).double()):
        with refused("head"):
            iia.explain(headless, picture(16) if hasattr(headless, "blocks") else x, 3, steps=1)
    direction = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(network, x, lambda features: F.cosine_similarity(features, direction[None]))


class OfGroups(nn.Module):
    """Two logits that are made of ten by no layer with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ten = with_head(nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.logsumexp(1) for part in self.ten(x).split([4, 6], 1)], 1)


def test_logits_that_are_combined_without_weights_are_no_features():
    groups = OfGroups()
    found = iia.explain(groups, picture(), 1, steps=2)
    same = iia.explain(groups.ten, picture(), target=lambda rows: rows[:, 4:].logsumexp(1), steps=2)
    torch.testing.assert_close(found, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how, said", [
    ({"image_size": -1}, "sides of at least 1"), ({"image_size": (3, 32, 32)}, "is no size"),
    ({"image_size": 32.0}, "is no size"), ({"in_chans": -1}, "in_chans is -1"),
    ({"mean": 0.5}, "mean is 0.5"), ({"mean": (1, 2)}, "for each of the 3 channels"),
    ({"std": (1, 0, 1)}, "above 0"), ({"std": (1, float("nan"), 1)}, "above 0"),
    ({"labels": "abcdefghij"}, "list of names")])
def test_what_wrap_is_told_wrong(how, said):
    with refused(said):
        iia.wrap(resnet(), **how)


def test_what_is_no_network():
    for network, said in ((None, "not NoneType"), ("resnet50", "not str"), (resnet, "not function"),
                          (resnet().to("meta"), "on the device meta")):
        with refused(said):
            iia.wrap(network)
    for name in (None, 5):
        with refused(f"model_name '{name}' is unknown"):
            iia.load_model(name)


def test_one_output_is_explained_and_its_probability_is_the_sigmoid():
    network, x = with_head(nn.Linear(64, 1)), 0.2 * picture()
    check(network, x, 0)
    two = copy.deepcopy(network)                        # softmax of (0, z) is the sigmoid of z
    two.fc = nn.Linear(64, 2).double()
    with torch.no_grad():
        for weight, one in zip(two.fc.parameters(), network.fc.parameters()):
            weight.copy_(torch.cat([0 * one, one]))
    for name in ("ig", "guidedig"):
        found = iia.explain(network, x, 0, name, steps=2)
        assert found.max() == 1
        torch.testing.assert_close(found, iia.explain(two, x, 1, name, steps=2), rtol=0, atol=1e-4)
    assert iia.explain(network, x, 0, "blurig", steps=2).max() == 1
    with refused(r"0\.\.0|class 0"):
        iia.explain(network, x, 1)


def spread(logits):
    return logits[:, 3] - logits[:, 5]


def test_a_target_function():
    network, x = resnet(), picture()
    assert differ(check(network, x, spread), grid_map("iia", network, x, 3, 2, "layer4"))
    check(network, x, lambda logits: logits.logsumexp(1))
    check_vit(toy_vit().double(), picture(16), spread, (4, 4), ("iia", "iia-triple", "gae"))
    probability = iia.explain(network, x, None, "ig", target=lambda logits: logits.softmax(1)[:, 3])
    torch.testing.assert_close(probability, iia.explain(network, x, 3, "ig"), rtol=0, atol=1e-4)
    two = copy.deepcopy(network)
    two.fc.weight.data[0], two.fc.bias.data[0] = (p.data[3] - p.data[5]
                                                  for p in (network.fc.weight, network.fc.bias))
    for name in ("ig", "x-gradcam", "layercam", "gradcampp", "lift-cam"):
        found = iia.explain(network, x, operation=name, target=spread)
        assert found.max() == 1
        torch.testing.assert_close(found,
                                   iia.explain(two, x, operation=name, target=lambda logits: logits[:, 0]),
                                   rtol=0, atol=1e-4)


def test_weights_that_are_not_finite_are_named():
    network = resnet()
    network.layer2[0].conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(iia.UserError, match="layer2.0.conv1.weight is not finite"):
        iia.wrap(network)


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, picture(32))])
def test_scripted_networks_are_refused_in_a_sentence(make):
    network = resnet()
    with pytest.raises(iia.UserError, match="scripted by torch.jit"):
        iia.wrap(make(network))


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("name", ["iia", "iia-triple", "iia-previous", "iia-ablation-im", "iia-ablation-ac",
                                  "gradcam", "hirescam", "ablation-cam", "score-cam", "fullgrad", "blurig",
                                  "guidedig"])
def test_a_target_function_of_one_logit_is_that_class(name, definition):
    """Of one probability, for the methods that explain it."""
    model, x = iia.wrap(toy_vgg().double(), image_size=16), picture(16)
    soft = name in ("blurig", "guidedig")
    y = next(y for y in range(1, 7) if iia.explain(model, x, y, name, steps=2).any())
    found = iia.explain(model, x, operation=name, definition=definition, steps=2,
                        target=lambda logits: (logits.softmax(1) if soft else logits)[:, y])
    wanted, other = (iia.explain(model, x, own, name, definition=definition, steps=2) for own in (y, 0))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert differ(wanted, other)


@pytest.mark.parametrize("kind", ["VisionTransformer", "ViTForImageClassification",
                                  "BeitForImageClassification", "Data2VecVisionForImageClassification",
                                  "ResNet", "SwinForImageClassification"])
def test_what_a_network_is_called_tells_its_normalisation(kind):
    """Of those that bring none of their own."""
    usual = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = random_weights(type(kind, (nn.Sequential,), {})(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    half = kind not in ("ResNet", "SwinForImageClassification")
    model = iia.wrap(network, image_size=16)
    assert (model.mean, model.std) == (((0.5,) * 3, (0.5,) * 3) if half else usual)
    network.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    model = iia.wrap(network, image_size=16)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert iia.wrap(network, image_size=16, mean=(0.7,) * 3).mean == (0.7,) * 3


def test_torchvisions_vit_reads_other_pictures_than_timms():
    network = random_weights(tv.VisionTransformer(16, 4, 3, 3, 24, 48, num_classes=7)).eval()
    assert iia.wrap(network).mean == (0.485, 0.456, 0.406) and iia.wrap(toy_vit()).mean == (0.5,) * 3
