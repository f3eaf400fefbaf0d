"""Explaining the pictures of a list: which class, which pictures, and what a person sees of it."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iia
from iia import generator, plots
from iia.datasets.photographs import photograph
from iia.datasets.pictures import open_picture, squash
from iia.settings import from_flags

from .conftest import toy_vgg, toy_vit
from .pages import shown

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
LABELS = list("abcdefg")
OPERATIONS = ["iia", "iia-ablation-ac"]


@pytest.fixture
def explained(tmp_path, monkeypatch):
    """Runs the generator on a toy network and chelsea.png, whose target is not the class that it predicts.

    Returns the panels as they would be drawn, [(path, title, tiles, below)], the model, and the target.
    """
    monkeypatch.chdir(tmp_path)

    def explain(*flags, model=None, script="cnn_saliency_map_generator.py"):
        model = model or iia.wrap(toy_vgg(), "toy", MEAN, STD, image_size=32, labels=LABELS)
        x = iia.load_pictures(photograph("chelsea.png"), model)
        target = (int(iia.predict(model, x)) + 1) % model.classes
        Path("pics.txt").write_text(f"chelsea.png {target}\n")
        panels, draw = [], plots.save_panel
        monkeypatch.setattr(plots, "save_panel", lambda *panel: panels.append(panel) or draw(*panel))
        settings = from_flags(runpy.run_path(str(ROOT / script)),
                              ["--pics_file=pics.txt", "--images_dir=.", "--device=cpu", *flags])
        assert generator.explain_pics(model, settings) == 0
        return panels, model, target

    return explain


FEW = "--operations=" + ",".join(OPERATIONS), "--INTERPOLATION_STEPS=2"


@pytest.mark.parametrize("flag, predicted", [((), False), (("--BY_MAX_CLASS=false",), False),
                                             (("--BY_MAX_CLASS",), True)])
def test_the_target_is_explained_or_the_prediction_and_the_panel_says_which(flag, predicted, explained):
    ((path, title, *_),), model, target = explained(*FEW, *flag, "--save_heatmaps_masks")
    x = iia.load_pictures(photograph("chelsea.png"), model)
    number = target - 1 if predicted else target
    number %= model.classes
    assert path.name == f"toy_{LABELS[number]}_chelsea.png"
    assert title == f"{LABELS[number]} ({number}) · toy · chelsea.png"
    for operation in OPERATIONS:
        wanted = iia.explain(model, x, number, operation, steps=2)[0].numpy()
        np.testing.assert_allclose(np.load(f"heatmaps/chelsea_{operation}_toy.npy"), wanted, atol=1e-6)
        other = iia.explain(model, x, (number + 1) % 7, operation, steps=2)[0].numpy()
        assert np.abs(wanted - other).max() > 0.1


@pytest.mark.parametrize("definition", ["paper", "release"])
def test_the_definition_is_the_one_asked_for_and_the_title_says_so(definition, explained):
    ((_, title, *_),), model, target = explained(*FEW, f"--definition={definition}", "--save_heatmaps_masks")
    assert title.endswith(" · release") == (definition == "release")
    x = iia.load_pictures(photograph("chelsea.png"), model)
    wanted, other = (iia.explain(model, x, target, "iia", steps=2, definition=name)[0].numpy()
                     for name in (definition, "release" if definition == "paper" else "paper"))
    np.testing.assert_allclose(np.load("heatmaps/chelsea_iia_toy.npy"), wanted, atol=1e-6)
    assert np.abs(wanted - other).max() > 0.05


def test_the_panel_shows_the_raw_picture_and_each_operations_map_under_its_name(explained):
    ((_, _, tiles, below),), model, target = explained(*FEW, "--save_heatmaps_masks")
    raw = plots.rgb(squash(open_picture(photograph("chelsea.png")), 32))
    assert list(tiles) == ["picture", *OPERATIONS]
    np.testing.assert_array_equal(tiles["picture"], raw)               # not as the network reads it
    for operation in OPERATIONS:
        heatmap = np.load(f"heatmaps/chelsea_{operation}_toy.npy")
        np.testing.assert_allclose(tiles[operation], plots.overlay(raw, heatmap), atol=1e-6)
        x = iia.load_pictures(photograph("chelsea.png"), model)
        _, error = iia.explain(model, x, target, operation, steps=2, return_error=True)
        assert below[operation] == f"± {error.item():.2g} from its limit"
        masked = np.asarray(Image.open(f"heatmaps/chelsea_{operation}_toy_mask.png")) / 255
        np.testing.assert_allclose(masked, raw * heatmap[..., None], atol=1 / 255)


def test_the_same_run_writes_the_same_bytes_and_its_seconds_go_to_the_terminal(explained, capsys):
    def files():
        explained(*FEW, "--save_heatmaps_masks")
        return {path: path.read_bytes() for path in Path().glob("*/*") if path.suffix in (".png", ".npy")}

    first = files()
    assert len(first) == 1 + 2 * len(OPERATIONS)           # a panel; of each map its numbers and a mask
    assert "seconds a picture: iia " in capsys.readouterr().out
    assert files() == first


def test_a_vits_own_settings(explained):
    model = iia.wrap(toy_vit(), "toy", MEAN, STD)
    explained("--operations=iia", "--save_heatmaps_masks", model=model,
              script="vit_saliency_map_generator.py")
    x = iia.load_pictures(photograph("chelsea.png"), model)
    number = (int(iia.predict(model, x)) + 1) % 7
    by_steps = {n: iia.explain(model, x, number, "iia", steps=n)[0].numpy() for n in (5, 9, 10)}
    found = np.load("heatmaps/chelsea_iia_toy.npy")
    np.testing.assert_allclose(found, by_steps[10], atol=1e-6)
    assert min(np.abs(found - by_steps[n]).max() for n in (5, 9)) > 1e-4


def test_broken_pictures_are_skipped_and_the_others_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_text("no picture")
    Path("pics.txt").write_text("broken.png 1\nchelsea.png 2\nabsent.png 3\nrocket.jpg 4\n")
    model = iia.wrap(toy_vgg(), "toy", MEAN, STD, image_size=32)
    settings = from_flags(runpy.run_path(str(ROOT / "cnn_saliency_map_generator.py")),
                          ["--pics_file=pics.txt", "--images_dir=.", "--operations=iia-ablation-ac",
                           "--device=cpu", "--batch_size=20"])         # two pictures at once, one is broken
    assert generator.explain_pics(model, settings) == 1
    said = capsys.readouterr()
    assert "2 panels in qualitive_results/, explained with toy; 2 skipped" in said.out and "4/4" in said.err
    assert {path.name for path in Path("qualitive_results").glob("*.png")} == {
        "toy_class_2_chelsea.png", "toy_class_4_rocket.png"}


@pytest.mark.parametrize("flag, said", [
    ("--INTERPOLATION_STEPS=0", "INTERPOLATION_STEPS is 0; it is a whole number, at least 1"),
    ("--batch_size=-3", "batch_size is -3"), ("--max_images=0", "max_images is 0"),
    ("--operations=", "operations is empty"), ("--operations=iia,ia", "operation 'ia' is unknown"),
    ("--FEATURE_LAYER_NUMBER=9", "layer 9 is no layer"), ("--definition=papers", "Did you mean 'paper'"),
])
def test_wrong_settings_are_named_before_anything_is_written(flag, said, explained):
    with pytest.raises(iia.UserError, match=said):
        explained(flag)
    assert not Path("qualitive_results").exists()


def test_choices_are_taken_in_any_case(explained):
    ((_, title, tiles, _),), _, _ = explained("--operations=IIA,iia-Ablation-AC", "--definition=Release",
                                           "--INTERPOLATION_STEPS=1")
    assert title.endswith(" · release") and list(tiles) == ["picture", *OPERATIONS]
    model, x = iia.wrap(toy_vgg(), image_size=32), torch.rand(1, 3, 32, 32)
    assert torch.equal(iia.explain(model, x, 2, "IIA", definition="Release", steps=1),
                       iia.explain(model, x, 2, "iia", definition="release", steps=1))


ONE = "--operations=iia-ablation-ac", "--INTERPOLATION_STEPS=1"


def test_a_picture_that_was_replaced_is_another_row(explained):
    for name in ("chelsea.png", "coffee.png", "coffee.png"):
        Path("chelsea.png").write_bytes(photograph(name).read_bytes())
        explained(*ONE)
    assert len(shown("qualitive_results")[0]) == 2


def test_a_photograph_is_shown_and_explained_upright(explained):
    stored, exif = Image.open(photograph("chelsea.png")).convert("RGB"), Image.Exif()
    exif[0x0112] = 6                                         # turned by 90° as the camera was held
    stored.transpose(Image.Transpose.ROTATE_90).save("chelsea.png", exif=exif)
    ((_, _, tiles, _),), _, _ = explained(*ONE)
    np.testing.assert_array_equal(tiles["picture"], plots.rgb(squash(stored, 32)))


@pytest.mark.parametrize("flag, how", [
    ("--baseline=zero", {"baseline": "zero"}), ("--quadrature=gauss", {"quadrature": "gauss"}),
    ("--FEATURE_LAYER_NUMBER=4", {"layer": 4}), ("--INTERPOLATION_STEPS=3", {"steps": 3})])
def test_a_setting_of_the_paths_is_that_of_the_map(flag, how, explained):
    _, model, target = explained("--operations=iia", "--INTERPOLATION_STEPS=2", flag, "--save_heatmaps_masks")
    x = iia.load_pictures(photograph("chelsea.png"), model)
    wanted, usual = (iia.explain(model, x, target, **{"steps": 2} | own)[0].numpy() for own in (how, {}))
    np.testing.assert_allclose(np.load("heatmaps/chelsea_iia_toy.npy"), wanted, atol=1e-6)
    assert np.abs(wanted - usual).max() > 1e-3
