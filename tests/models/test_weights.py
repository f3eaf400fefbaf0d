"""Weights: the order of the places, strict loading, and what is said when there are none."""

import time
from functools import cache

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file

import iia
from iia import models
from iia.choosing import OF_NETWORK, load_or_fallback
from iia.datasets.photographs import photograph
from iia.models import weights
from iia.models.weights import Source, WeightsMissing, find, load_strictly, read_state_dict
from iia.settings import Settings

NAME = "resnet18-f37072fd.pth"


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """A machine with nothing on it and no network, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "PROJECT_DIR", tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repository, file: None)

    def refuse(address):
        raise OSError("no route to host")
    monkeypatch.setattr(weights, "_ask", refuse)


@cache
def published():
    return tv.resnet18().state_dict()


def put(path, **change):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(published() | change, path)
    return path


def test_data_weights_comes_before_torchs_cache(tmp_path):
    source = Source(url=tv.ResNet18_Weights.IMAGENET1K_V1.url)
    cached = put(tmp_path / "torch/hub/checkpoints" / NAME)
    assert find("resnet18", source) == cached
    own = put(tmp_path / "data/weights" / NAME)
    assert find("resnet18", source).resolve() == own


def test_missing_weights_name_the_file_and_the_folder():
    with pytest.raises(WeightsMissing) as said:
        iia.load_model("resnet18")
    for part in (NAME, "data/weights", "no route to host", "--allow_random_weights"):
        assert part in str(said.value)


def test_a_name_server_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(weights, "DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(weights, "urlopen", lambda *_, **__: time.sleep(5))
    with pytest.raises(TimeoutError):
        weights._ask("https://example.invalid/file")


def test_random_weights_only_when_asked_for_and_said(capsys):
    model = iia.load_model("resnet18", allow_random_weights=True)
    assert model.label == "resnet18 (random weights)" and "random weights" in capsys.readouterr().err


def settings(name):
    return Settings(model_name=name, **dict.fromkeys(OF_NETWORK) | {"precision": "fp32"})


def test_the_fallback_is_said_in_two_lines(capsys):
    model = load_or_fallback(settings("resnet18"), "efficientnet_lite0")
    said = capsys.readouterr().err.strip().splitlines()
    assert model.label == "efficientnet_lite0" and len(said) == 2
    assert "efficientnet_lite0 instead of resnet18" in said[0] and NAME in said[1]


def test_the_fallback_keeps_the_other_settings(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"class of mine {k}" for k in range(1000)))
    wanted = settings("resnet18")
    wanted.image_size, wanted.labels_file = 96, "names.txt"
    model = load_or_fallback(wanted, "efficientnet_lite0")
    assert model.size == (96, 96) and model.class_name(7) == "class of mine 7"


@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0", "timm/tf_efficientnet_lite1",
                                  "tf_efficientnet_lite1.in1k"])
def test_a_packages_weights_are_found_by_every_name_of_the_network(name):
    assert "random" not in iia.load_model(name).label


def test_without_a_fallback_it_is_an_error():
    with pytest.raises(WeightsMissing):
        load_or_fallback(settings("resnet18"), None)


def test_a_named_file_is_taken(tmp_path):
    path = put(tmp_path / "mine.pth", **{"fc.bias": torch.arange(1000.0)})
    assert iia.load_model("resnet18", weights_path=path).network.fc.bias[7] == 7


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrapped_and_parallel_checkpoints(key, tmp_path):
    torch.save({key: {"module.fc.bias": torch.zeros(2)}, "epoch": 3}, tmp_path / "mine.pth")
    assert read_state_dict(tmp_path / "mine.pth").keys() == {"fc.bias"}


def test_safetensors(tmp_path):
    save_file(published(), tmp_path / "mine.safetensors")
    assert iia.load_model("resnet18", weights_path=tmp_path / "mine.safetensors").label == "resnet18"


def test_densenets_names_of_2017(tmp_path):
    net = tv.DenseNet(4, (2, 2), 8, num_classes=5)
    old = {name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.").replace(".conv1.", ".conv.1.")
           .replace(".conv2.", ".conv.2.") if "denselayer" in name else name: value
           for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert any("denselayer1.norm.1.weight" in name for name in old)
    fresh = tv.DenseNet(4, (2, 2), 8, num_classes=5)
    load_strictly(fresh, old, "old.pth")
    name = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(fresh.state_dict()[name], net.state_dict()[name])


@pytest.mark.parametrize("spoil, said", [
    (lambda s: s.pop("fc.bias"), r"1 missing \(fc.bias\)"),
    (lambda s: s.update({"bn1.bias": torch.zeros(7)}),
     r"1 of another shape \(bn1.bias \(7,\) instead of \(64,\)"),
    (lambda s: s.update({"extra": torch.zeros(7)}), r"1 unknown \(extra\)"),
    (lambda s: s.update({"fc.bias": torch.zeros(1000, dtype=torch.int8)}), r"1 of whole numbers \(fc.bias\)"),
])
def test_loading_is_strict(spoil, said, tmp_path):
    state = dict(published())
    spoil(state)
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(iia.UserError, match=said):
        iia.load_model("resnet18", weights_path=tmp_path / "mine.pth")


def test_files_that_are_no_checkpoint(tmp_path):
    whole = put(tmp_path / "whole.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(tv.resnet18(), tmp_path / "pickled.pth")
    for name in ("short.pth", "text.pth", "text.safetensors", "list.pth", "pickled.pth", "absent.pth"):
        with pytest.raises(iia.UserError, match=name):
            iia.load_model("resnet18", weights_path=tmp_path / name)
    with pytest.raises(iia.UserError, match=r"save the state dict alone: torch.save\(network.state_dict"):
        iia.load_model("resnet18", weights_path=tmp_path / "pickled.pth")


def test_unknown_names_list_what_is_allowed():
    with pytest.raises(iia.UserError, match="Did you mean 'resnet101'.*densenet201"):
        iia.load_model("resnet110")


@pytest.mark.parametrize("name, size", [("efficientnet_lite0", 224), ("tf_efficientnet_lite1", 240)])
def test_the_packaged_weights_know_a_cat(name, size):
    """They sort two photographs right that the network has never seen squashed."""
    model = iia.load_model(name)
    assert model.size == (size, size)
    x = iia.load_pictures([photograph("chelsea.png"), photograph("coffee.png")], model)
    assert iia.predict(model, x).tolist() == [285, 967]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_networks(tmp_path, prefix):
    names = {"bn1.weight", "fc.bias"}
    torch.save({prefix + name: torch.zeros(2) for name in names}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").keys() == names


@pytest.mark.parametrize("value, said", [
    (torch.tensor([1., float("nan")]), "fc.bias has values that are not finite"),
    (torch.tensor([1., -float("inf")]), "fc.bias has values that are not finite"),
    (torch.zeros(2, dtype=torch.complex64), "fc.bias is a sparse, complex"),
    (torch.zeros(2, device="meta"), "fc.bias is .* empty"),
    (torch.zeros(2).to_sparse(), "fc.bias is a sparse")])
def test_tensors_that_make_no_map(tmp_path, value, said):
    torch.save({"fc.bias": value}, tmp_path / "w.pth")
    with pytest.raises(iia.UserError, match=said) as error:
        read_state_dict(tmp_path / "w.pth")
    assert "w.pth" in str(error.value)


def test_numbers_for_keys(tmp_path):
    torch.save({0: torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(iia.UserError, match="no state dict"):
        read_state_dict(tmp_path / "w.pth")


def test_without_its_package_a_network_has_no_weights(monkeypatch):
    monkeypatch.setitem(weights.PACKAGES, "tf_efficientnet_lite1", "no_such_module")
    with pytest.raises(WeightsMissing, match="tf_efficientnet_lite1"):
        iia.load_model("tf_efficientnet_lite1")


@pytest.mark.parametrize("way, said", [("whole", True), ("skipping", False), ("rows", False)])
def test_a_network_that_runs_whole_for_every_step_is_said_to_be_slow(way, said, monkeypatch, capsys):
    wrap = models.wrap

    def slow(*given, **how):
        model = wrap(*given, **how)
        model.way = way
        return model
    monkeypatch.setattr(models, "wrap", slow)
    iia.load_model("test_resnet", allow_random_weights=True, image_size=64)
    assert ("runs whole for every step" in capsys.readouterr().err) == said
