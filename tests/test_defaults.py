"""What the scripts do where no flag is given."""

import runpy
from pathlib import Path

import pytest

from iia.settings import from_flags

ROOT = Path(__file__).resolve().parents[1]
TWO = ["iia", "iia-triple"]
CNN = {"model_name": "resnet101", "fallback_model_name": "efficientnet_lite0", "FEATURE_LAYER_NUMBER": "last",
       "INTERPOLATION_STEPS": 10, "batch_size": 32}
VIT = {"model_name": "vit-base", "ITERATION_STEPS": None, "batch_size": 10}
ALL = {"definition": "paper", "quadrature": "riemann", "device": "auto", "precision": "fp32",
       "weights_path": None, "labels_file": None, "image_size": None, "in_chans": None,
       "allow_random_weights": False, "max_images": None}
PICS = {"images_dir": "data/ILSVRC2012_img_val", "pics_file": "data/pics.txt"}
PART, READ = {"every_nth": None, "per_class": None}, {"num_workers": 2}
PANELS = PICS | PART | {"operations": TWO, "BY_MAX_CLASS": False, "results_dir": "qualitive_results",
                        "tables_dir": "explanation_results", "save_heatmaps_masks": False,
                        "heatmaps_dir": "heatmaps"}
TESTS = PICS | PART | READ | {"protocol": "paper", "figures": None, "explained_class": "target",
                              "heatmaps_dir": None, "results_dir": "explanation_results"}
SEGMENTS = READ | {"operations": TWO, "save_overlays": 0, "results_dir": "segmentation_results"}
POINTS = READ | {"operations": TWO, "chosen_dataset": "voc", "dataset_root": None,
                 "results_dir": "pointing_results"}
SANITY = PICS | READ | {"operations": TWO, "seeds": 5, "results_dir": "sanity_results"}
BASELINE, TOGETHER = {"baseline": "spatial-minimum"}, {"batch_size": 32}
WANTED = {
    "cnn_saliency_map_generator": ALL | CNN | PANELS | BASELINE,
    "vit_saliency_map_generator": ALL | VIT | PANELS,
    "explanation_tests_cnn": ALL | CNN | TESTS | BASELINE | {
        "operations": ["random", "gradcam", *TWO, "iia-ablation-im", "iia-ablation-ac"]},
    "explanation_tests_vit": ALL | VIT | TESTS | TOGETHER | {
        "operations": ["random", "gae", *TWO, "ablation-image", "ablation-attention"]},
    "segmentation_cnn_imagenet": ALL | CNN | SEGMENTS | BASELINE | {"dataset_root": "data"},
    "segmentation_cnn_coco": ALL | CNN | SEGMENTS | BASELINE | {"dataset_root": "data/COCO"},
    "segmentation_cnn_voc": ALL | CNN | SEGMENTS | BASELINE | {"dataset_root": "data/VOC"},
    "seg_vit_datasets": ALL | VIT | SEGMENTS | {"chosen_dataset": "coco", "dataset_root": None},
    "pointing_game_cnn": ALL | CNN | POINTS, "pointing_game_vit": ALL | VIT | POINTS,
    "sanity_checks_cnn": ALL | CNN | SANITY, "sanity_checks_vit": ALL | VIT | SANITY | TOGETHER,
    "reproduce": READ | {
        "tables": ["explanation-cnn", "explanation-vit", "segmentation", "ablations", "sanity", "pointing"],
        "networks": ["resnet101", "densenet201", "convnext_base", "vit-base", "vit-small"],
        "dry_run": False, "timed_pictures": 2, "pictures": 50000, "sanity_pictures": 500, "figures": None,
        "INTERPOLATION_STEPS": 10, "ITERATION_STEPS": None, "device": "auto", "batch_size": None,
        "images_dir": "data/ILSVRC2012_img_val", "pics_file": None, "imagenet_root": "data",
        "coco_root": "data/COCO", "voc_root": "data/VOC", "results_dir": "reproduction"}}


@pytest.mark.parametrize("script", WANTED)
def test_a_script_without_flags(script):
    found = from_flags(runpy.run_path(str(ROOT / f"{script}.py")), []).values()
    assert found.keys() == WANTED[script].keys()
    assert {name: (found[name], WANTED[script][name]) for name in found
            if found[name] != WANTED[script][name]} == {}


def test_every_script_is_among_them():
    assert {path.stem for path in ROOT.glob("*.py")} == WANTED.keys()


def test_figures_at_the_top_may_be_written_as_their_flag():
    script = runpy.run_path(str(ROOT / "explanation_tests_cnn.py"))
    assert from_flags(script | {"figures": "POS,NEG"}, []).figures == ["POS", "NEG"]
