"""Networks by name: whose they are, their pictures, and what a file of the user's own makes of them."""

import json

import pytest
import timm
import torch
import torchvision.models as tv

import iia
from iia.evaluation.identity import weights_of
from iia.models import CNN, ViT
from iia.models.loading import load_model, shape_of
from iia.models.names import IMAGENET, build, torchvision_network


@pytest.mark.parametrize("name, module, own", [
    ("resnet18", "torchvision.", "resnet18"), ("timm/resnet18", "timm.", "timm/resnet18"),
    ("resnet18.a1_in1k", "timm.", "resnet18.a1_in1k"), ("densenet121", "torchvision.", "densenet121"),
    ("densnet", "torchvision.", "densenet201"), ("resnet26", "timm.", "resnet26"),
    ("efficientnet_lite0", "timm.", "efficientnet_lite0"), ("vit-tiny", "timm.", "vit-tiny")])
def test_a_plain_name_is_torchvisions_first_and_a_tag_or_prefix_means_timm(name, module, own):
    network, facts = build(name)
    assert type(network).__module__.startswith(module) and facts.name == own


def test_short_names_and_what_is_known_of_them():
    _, first = build("resnet50")
    assert first.source.url == tv.ResNet50_Weights.IMAGENET1K_V1.url and first.labels[285] == "Egyptian cat"
    _, newest = build("resnext50_32x4d")
    assert newest.source.url == tv.ResNeXt50_32X4D_Weights.DEFAULT.url
    _, lite0 = build("efficientnet_lite0")
    assert lite0.mean == lite0.std == (0.5, 0.5, 0.5) and lite0.image_size == (224, 224)
    _, tagged = build("resnet18.a1_in1k")
    assert (tagged.source.hub == "timm/resnet18.a1_in1k"
            and tagged.source.names[0] == "resnet18_a1_0-d63eafa0.pth")
    assert build("vit-tiny")[1].source.address.endswith("/model.safetensors")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "densenet201",
                                  "convnext_base", "vgg16", "vgg19"])
def test_the_paper_and_the_release_have_the_first_published_weights(name):
    with torch.device("meta"):
        _, facts = build(name)
    assert facts.source.url == tv.get_model_weights(name).IMAGENET1K_V1.url


@pytest.mark.parametrize("name, size", [("efficientnet_b4", 380), ("inception_v3", 299),
                                        ("timm/efficientnet_b4", 320), ("test_vit", 160)])
def test_pictures_have_the_networks_own_size(name, size):
    assert build(name)[1].image_size == (size, size)


@pytest.mark.parametrize("name, near", [("resnet110", "resnet101"), ("resnet18.a1_in1", "resnet18.a1_in1k"),
                                        ("vit-basic", "vit-base"),
                                        ("timm/vit_bass_patch16_224", "vit_base_patch16_224"),
                                        ("regnet_y_400mg", "regnet_y_400mf")])
def test_an_unknown_name_brings_its_nearest(name, near):
    with pytest.raises(iia.UserError, match=f"Did you mean '{near}'.*any name of torchvision or timm"):
        build(name)


@pytest.mark.parametrize("name, said", [
    ("mine.pth", "'mine.pth' is a file; .*weights_path"),
    (torch.nn.Linear(2, 3), "a network itself .Linear.; iia.wrap")])
def test_what_is_no_name_is_told_where_it_goes(name, said):
    with pytest.raises(iia.UserError, match=said):
        load_model(name)


def test_what_a_network_does_not_allow_is_one_sentence():
    with pytest.raises(iia.UserError, match="maxvit_t cannot be built so .*image_size"):
        build("maxvit_t", image_size=(100, 100))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_published_files_with_heads_for_training_fit(name, tmp_path):
    published = tv.get_model_builder(name)(init_weights=False, aux_logits=True)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    model = load_model(name, tmp_path / "published.pth", image_size=96)
    assert model.name == name and not any("aux" in part.lower() for part in model.network.state_dict())


@pytest.mark.parametrize("name, kind", [("shufflenet_v2_x0_5", CNN), ("squeezenet1_1", CNN),
                                        ("test_resnet", CNN), ("test_vit", ViT)])
def test_a_file_of_other_classes_and_channels_makes_the_network(name, kind, tmp_path):
    network, _ = build(name, num_classes=10, in_chans=1)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    model = load_model(name, tmp_path / "mine.pth", image_size=None if kind is ViT else "64,96")
    assert isinstance(model, kind) and (model.classes, model.channels, model.labels) == (10, 1, None)
    assert model.class_name(3) == "class 3" and len(model.mean) == len(model.std) == 1
    assert kind is ViT or model.size == (64, 96)
    x = torch.randn(2, 1, *model.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), network.eval()(x), rtol=1e-3, atol=1e-5)


def test_a_head_for_a_network_that_has_none():
    network = timm.create_model("test_vit", num_classes=0)
    assert shape_of(network, timm.create_model("test_vit", num_classes=5).state_dict()) == {"num_classes": 5}


def test_what_else_does_not_fit_is_an_error(tmp_path):
    torch.save(tv.resnet34().state_dict(), tmp_path / "other.pth")
    with pytest.raises(iia.UserError, match="other.pth do not fit ResNet.*in_chans those of"):
        load_model("resnet18", tmp_path / "other.pth")
    torch.save(tv.resnet18(num_classes=10).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(iia.UserError, match=r"conv1.weight \(64, 3, 7, 7\) instead of \(64, 1, 7, 7\)"):
        load_model("resnet18", tmp_path / "mine.pth", in_chans=1)


@pytest.mark.parametrize("write", [lambda names: "\n".join(names), json.dumps])
def test_labels_name_the_classes_of_a_fine_tuned_network(write, tmp_path):
    torch.save(build("test_resnet", num_classes=3)[0].state_dict(), tmp_path / "mine.pth")
    file = tmp_path / ("names.json" if write is json.dumps else "names.txt")
    file.write_text(write(["cat", "dog", "red fox"]))
    model = load_model("test_resnet", tmp_path / "mine.pth", labels_file=file, image_size=64)
    assert model.labels == ["cat", "dog", "red fox"] and model.class_name(2) == "red fox"
    file.write_text(write(["cat", "dog"]))
    with pytest.raises(iia.UserError, match="2 labels were given, but test_resnet has 3 classes"):
        load_model("test_resnet", tmp_path / "mine.pth", labels_file=file, image_size=64)


def test_only_imagenets_1000_classes_are_named_by_themselves():
    named = load_model("test_resnet", allow_random_weights=True, image_size=64)
    assert named.labels == IMAGENET and named.class_name(3) == "tiger shark"
    assert build("vit_tiny_patch16_224.augreg_in21k")[1].labels is None


def test_a_prefix_stays_out_of_file_names():
    model = load_model("timm/test_resnet", allow_random_weights=True, image_size=64)
    assert model.name == "timm_test_resnet" and model.label == "timm/test_resnet (random weights)"


@pytest.mark.parametrize("name, kind", [("test_vit", ViT), ("test_resnet", CNN)])
def test_maps_of_another_size(name, kind):
    model = load_model(name, allow_random_weights=True, image_size="64,96")
    assert isinstance(model, kind) and model.size == (64, 96)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert iia.explain(model, x, [3], "iia", steps=1).shape == (1, 64, 96)


def test_published_position_embeddings_fit_another_size(tmp_path, monkeypatch):
    network, _ = build("test_vit")
    (tmp_path / "data/weights").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "data/weights/test_vit.pth")
    monkeypatch.chdir(tmp_path)
    model = load_model("test_vit", image_size="64,96")
    assert model.label == "test_vit" and model.size == (64, 96)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_a_network_that_changes_colour_pictures_itself_leaves_others_as_they_are(name):
    with torch.device("meta"):
        for channels, changes in ((None, True), (3, True), (1, False)):
            assert torchvision_network(name, 5, channels, None)[0].transform_input == changes


def test_random_weights_are_the_same_in_every_run():
    one, other = (load_model("test_resnet", allow_random_weights=True, image_size=64) for _ in range(2))
    assert weights_of(one) == weights_of(other)
