"""Networks of timm and of transformers."""

import pytest
import timm

from ..conftest import random_weights
from .networks_of_users import check, picture


def nhwc(u):
    return u.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name, layer, module, size, places", [
    ("test_resnet", "last", "layer4", 64, {}), ("test_byobnet", "last", "stages.3", 64, {}),
    ("test_convnext", "stages.3", "stages.3", 64, {}), ("test_convnext2", "stages.2", "stages.2", 64, {}),
    ("test_efficientnet", "conv_head", "conv_head", 64, {}), ("test_efficientnet", "last", "bn2", 64, {}),
    ("test_efficientnet_gn", "blocks", "blocks", 64, {}),
    ("test_nfnet", "last", "final_act", 64, {}), ("test_mambaout", "last", "stages.3", 64, {"to_grid": nhwc}),
    ("test_maxvit", "last", "norm", 160, {}), ("test_coatnet", "stages.2", "stages.2", 160, {}),
])
def test_timm(name, layer, module, size, places):
    network = random_weights(timm.create_model(name, num_classes=7)).double()
    check(network, picture(size), 3, layer, module=module, operations=("iia", "gradcam"), places=places,
          tolerance=1e-5)


def hugging_face(kind: str, **settings):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(num_labels=7, **settings)
    return random_weights(getattr(transformers, f"{kind}ForImageClassification")(config)).double()


def tokens(u):
    side = round(u.shape[1] ** 0.5)
    return u.transpose(1, 2).unflatten(2, (side, side))


@pytest.mark.parametrize("kind, settings, module, before, places", [
    ("ResNet", dict(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"),
     "resnet.encoder.stages.3", "resnet.encoder.stages.2", {}),
    ("ConvNext", dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=64),
     "convnext.encoder.stages.3", "convnext.encoder.stages.2", {}),
    ("Swin", dict(embed_dim=12, depths=[1, 2], num_heads=[2, 4], window_size=4, image_size=64),
     "swin.layernorm", None, {"to_grid": tokens}),
])
def test_cnns_of_transformers(kind, settings, module, before, places):
    network = hugging_face(kind, **settings)
    operations = ("iia", "gradcam") if before is None else ("iia", "iia-triple", "gradcam")
    check(network, picture(), 3, "last", module=module, before=before, operations=operations, places=places)
    if before:
        check(network, picture(), 3, module, before=before)
