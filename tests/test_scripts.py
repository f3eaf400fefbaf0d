"""The two saliency map scripts, run as a user runs them: in a folder of his own, with flags."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from iia.datasets.photographs import photograph
from iia.evaluation.protocols import PROTOCOLS
from iia.models import weights
from iia.models.names import build
from tests import scripts


COMMON = ("--pics_file=pics.txt", "--images_dir=pictures", "--device=cpu")


def run(script, *flags):
    return scripts.run(script, *COMMON, *flags)


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine without weights and without a network."""
    def refuse(address):
        raise OSError("no route to host")
    monkeypatch.setattr(weights, "_ask", refuse)
    monkeypatch.setattr(weights, "PROJECT_DIR", tmp_path)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics.txt").write_text("chelsea.png 285\nrocket.jpg 657\n")
    return tmp_path


def test_cnn_panels_maps_and_masks(folder):
    """The one script that has a process of its own here."""
    flags = ("--model_name=efficientnet_lite0", "--save_heatmaps_masks", "--operations=iia,iia-ablation-ac",
             "--INTERPOLATION_STEPS=4", "--max_images=1")
    done = subprocess.run([sys.executable, scripts.ROOT / "cnn_saliency_map_generator.py", *COMMON, *flags],
                          cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 panel in qualitive_results/" in done.stdout
    panel = Image.open(folder / "qualitive_results/efficientnet_lite0_Egyptian_cat_chelsea.png")
    assert panel.width > 2 * panel.height
    heat = np.load(folder / "heatmaps/chelsea_iia_efficientnet_lite0.npy")
    assert heat.dtype == np.float32 and heat.shape == (224, 224) and heat.min() == 0 and heat.max() == 1
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 50 < row < 190 and 40 < column < 180                      # the cat's face
    mask = np.asarray(Image.open(folder / "heatmaps/chelsea_iia_efficientnet_lite0_mask.png"))
    assert mask[row, column].sum() > 0 and mask[heat < 0.001].max(initial=0) <= 1
    saved = json.loads((folder / "qualitive_results/efficientnet_lite0_settings.json").read_text())
    assert saved["settings"]["INTERPOLATION_STEPS"] == 4 and saved["versions"]["torch"]


def test_what_cannot_be_used_is_named_and_counted(folder, capsys):
    (folder / "pictures").mkdir()
    (folder / "pictures/broken.png").write_text("no picture")
    (folder / "pics.txt").write_text("absent.png 1\nchelsea.png feline\nbroken.png 2\nchelsea.png 285\n")
    flags = fine_tuned(folder, classes=1000)
    assert run("cnn_saliency_map_generator.py", *flags, "--image_size=64") == 1
    done = capsys.readouterr()
    for said in ("pics.txt:1: pictures/absent.png is missing", "pics.txt:2: class 'feline'",
                 "pics.txt:3: pictures/broken.png cannot be decoded"):
        assert said in done.err
    assert "1 panel in" in done.out and "3 skipped" in done.out


def test_the_default_network_falls_back_but_a_named_one_does_not(folder, no_weights, capsys):
    script, few = "cnn_saliency_map_generator.py", ("--operations=iia-ablation-ac", "--max_images=1")
    assert run(script, *few) == 0
    assert "explaining efficientnet_lite0 instead of resnet101" in capsys.readouterr().err
    assert run(script, *few, "--model_name=resnet101") == 2
    assert "resnet101-63fe2227.pth" in capsys.readouterr().err


@pytest.mark.parametrize("flag, said", [
    ("--operations=iia,iia-tripel", "Did you mean 'iia-triple'"),
    ("--FEATURE_LAYER_NUMBER=10", "9 (bn2)"), ("--definition=papers", "Did you mean 'paper'"),
    ("--batch_size=0", "at least 1"), ("--weights_path=absent.pth", "absent.pth"),
    ("--device=tpu", "cannot be used here"), ("--precision=fp8", "fp32, bf16"),
    ("--max_images=0", "at least 1"), ("--per_class=0", "at least 1"), ("--every_nth=0", "at least 1"),
    ("--pics_file=none", "pics_file is None"),
])
def test_wrong_settings_are_one_sentence(flag, said, folder, capsys):
    network = "--model_name=efficientnet_lite0", "--image_size=64"
    assert run("cnn_saliency_map_generator.py", *network, flag) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ")
    assert not (folder / "qualitive_results").exists()


def test_vit_without_weights_says_where_to_put_them(folder, no_weights, capsys):
    assert run("vit_saliency_map_generator.py") == 2
    error = capsys.readouterr().err
    assert "jx_vit_base_p16_224-80ecf9dd.pth" in error and "--allow_random_weights" in error
    assert len(error.strip().splitlines()) <= 4


def test_vit_with_random_weights(folder, no_weights, capsys):
    assert run("vit_saliency_map_generator.py", "--model_name=test_vit",
               "--allow_random_weights", "--max_images=1", "--operations=iia,gae,rollout,t-attr",
               "--ITERATION_STEPS=2", "--save_heatmaps_masks") == 0
    assert "random weights" in capsys.readouterr().out
    assert np.load(folder / "heatmaps/chelsea_gae_test_vit.npy").shape == (160, 160)


# ------------------------------------------------------------------------- a network of the user's own

def fine_tuned(folder, name="test_resnet", classes=3, **how):
    """The flags of a fine-tuned network of a few classes whose weights lie in the folder."""
    torch.save(build(name, num_classes=classes, **how)[0].state_dict(), folder / "mine.pth")
    return (f"--model_name={name}", "--weights_path=mine.pth", "--operations=iia-ablation-ac",
            "--INTERPOLATION_STEPS=1")


def test_a_fine_tuned_network_with_names_size_and_channels(folder, capsys):
    (folder / "names.txt").write_text("cat\nspace rocket\ncup\n")
    (folder / "pics.txt").write_text(
        "chelsea.png 0\nrocket.jpg space rocket\ncoffee.png 12\ncoffee.png mug\n")
    flags = fine_tuned(folder, in_chans=1)
    flags += "--labels_file=names.txt", "--image_size=64,96", "--save_heatmaps_masks"
    assert run("cnn_saliency_map_generator.py", *flags) == 1
    error = capsys.readouterr().err
    assert ("pics.txt:3: class 12 is not in 0..2" in error
            and "pics.txt:4: class 'mug' is not a number and no class's name" in error)
    assert {path.name for path in (folder / "qualitive_results").glob("*.png")} == {
        "test_resnet_cat_chelsea.png", "test_resnet_space_rocket_rocket.png"}
    assert np.load(folder / "heatmaps/chelsea_iia-ablation-ac_test_resnet.npy").shape == (64, 96)
    assert Image.open(folder / "heatmaps/chelsea_iia-ablation-ac_test_resnet_mask.png").size == (96, 64)


def test_classes_without_names_are_numbered(folder):
    (folder / "pics.txt").write_text("chelsea.png 2\n")
    flags = fine_tuned(folder, in_chans=4)
    assert run("cnn_saliency_map_generator.py", *flags, "--image_size=64") == 0
    assert (folder / "qualitive_results/test_resnet_class_2_chelsea.png").exists()


@pytest.mark.parametrize("channels, protocol", [(1, "paper"), (4, "rise"), (1, "road"), (4, "bee")])
def test_explanation_tests_of_other_sizes_and_channels(channels, protocol, folder):
    (folder / "pics.txt").write_text("chelsea.png 2\n")
    flags = fine_tuned(folder, in_chans=channels)
    assert run("explanation_tests_cnn.py", *flags, "--image_size=64,96",
               "--num_workers=0", f"--protocol={protocol}") == 0
    (summary,) = (folder / "explanation_results").glob(f"*_target_{protocol}_*/summary.json")
    summary = json.loads(summary.read_text())
    assert summary["protocol"] == protocol and list(summary["better"]) == list(PROTOCOLS[protocol].figures)
    if protocol == "rise":
        assert len(summary["axes"]["DEL"]) == -(-64 * 96 // 224) + 1


@pytest.mark.parametrize("flag, said", [
    ("--labels_file=absent.txt", "absent.txt"), ("--image_size=big", "height,width"),
    ("--labels_file=pics.txt", "2 labels were given, but test_resnet has 3 classes")])
def test_wrong_labels_and_sizes_are_one_sentence(flag, said, folder, capsys):
    assert run("cnn_saliency_map_generator.py", *fine_tuned(folder), flag) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("script, name, other", [
    ("cnn_saliency_map_generator.py", "test_vit", "vit_saliency_map_generator.py"),
    ("vit_saliency_map_generator.py", "test_resnet", "cnn_saliency_map_generator.py"),
    ("explanation_tests_cnn.py", "test_vit", "explanation_tests_vit.py"),
    ("explanation_tests_vit.py", "test_resnet", "explanation_tests_cnn.py"),
    ("sanity_checks_cnn.py", "test_vit", "sanity_checks_vit.py"),
    ("sanity_checks_vit.py", "test_resnet", "sanity_checks_cnn.py")])
def test_each_script_names_the_other_for_networks_that_it_does_not_explain(
        script, name, other, folder, capsys):
    assert run(script, f"--model_name={name}", "--allow_random_weights") == 2
    assert f"give it to {other}" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ ImageNet's layout

def class_folders(folder):
    """Photographs in class folders: two cats and a missile, numbers 285 and 657."""
    for place, source in (("n02124075/chelsea.png", "chelsea.png"), ("n02124075/again.png", "chelsea.png"),
                          ("n03773504/rocket.jpg", "rocket.jpg")):
        (folder / "val" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photograph(source), folder / "val" / place)
    return "--pics_file=none", "--images_dir=val"


def test_panels_of_class_folders(folder):
    flags = ("--model_name=efficientnet_lite0", "--operations=iia-ablation-ac", "--INTERPOLATION_STEPS=1",
             "--image_size=96", "--every_nth=2", *class_folders(folder))
    assert run("cnn_saliency_map_generator.py", *flags) == 0
    assert {path.name for path in (folder / "qualitive_results").glob("*.png")} == {
        "efficientnet_lite0_Egyptian_cat_again.png", "efficientnet_lite0_missile_rocket.png"}
    saved = json.loads((folder / "qualitive_results/efficientnet_lite0_settings.json").read_text())
    assert [saved["settings"][name] for name in ("every_nth", "per_class", "pics_file")] == [2, None, None]


def test_a_table_of_class_folders(folder):
    flags = ("--model_name=efficientnet_lite0", "--operations=iia-ablation-ac", "--INTERPOLATION_STEPS=1",
             "--image_size=96", "--figures=POS", "--num_workers=0", *class_folders(folder))
    for more in ("--per_class=1", "--per_class=none"):
        assert run("explanation_tests_cnn.py", *flags, more) == 0
    parts = {len(rows): (path, rows) for path in (folder / "explanation_results").glob("val_*/per_image.csv")
             if len(rows := path.read_text().splitlines()[1:])}
    assert parts.keys() == {2, 3}                       # each in a folder of its own
    path, rows = parts[2]
    assert json.loads((path.parent / "summary.json").read_text())["identity"]["per_class"] == 1
    first = min(("chelsea.png", "again.png"), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    named = [(row.split(",")[1], row.split(",")[5]) for row in rows]
    assert named == [(first, "285"), ("rocket.jpg", "657")]


@pytest.mark.parametrize("script", ["vit_saliency_map_generator.py", "explanation_tests_vit.py"])
def test_class_folders_for_a_vit_whose_labels_are_wordnet_ids(script, folder, capsys):
    (folder / "names.txt").write_text("n03773504\ndog\nn02124075\n")
    flags = [flag for flag in fine_tuned(folder, "test_vit") if "INTERPOLATION" not in flag]
    flags += ["--labels_file=names.txt", "--operations=gae", *class_folders(folder)]
    flags += ["--figures=POS", "--num_workers=0"] if "tests" in script else []
    assert run(script, *flags) == 0
    if "tests" in script:
        rows = next((folder / "explanation_results").glob("*/per_image.csv")).read_text().splitlines()
        assert [row.split(",")[5] for row in rows] == ["target", "2", "2", "0"]
    else:
        assert (folder / "qualitive_results/test_vit_n03773504_rocket.png").exists()
