"""The command for all tables: what it says is missing, what it makes, and the paper's figures beside it."""

import json
import re
import runpy
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from iia import explanation_table, reproduction, reproduction_page
from iia.datasets.photographs import NAMES, put_in_place
from iia.errors import UserError
from iia.evaluation import segmentation
from iia.models import weights
from iia.reproduction_page import PAPER, Result
from iia.settings import Settings, from_flags
from tests.segmentation_trees import coco_tree

ROOT = Path(__file__).parents[1]
LITE = "efficientnet_lite0"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two photographs, where no weights can be fetched."""
    def unreachable(*address, **how):
        raise OSError("no network")
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "PROJECT_DIR", tmp_path)
    monkeypatch.chdir(tmp_path)
    put_in_place(tmp_path / "pictures" / name for name in NAMES[:2])
    (tmp_path / "pics.txt").write_text("chelsea.png 285\ncoffee.png 967\n")
    return tmp_path


def reproduce(*flags):
    common = "--images_dir=pictures", "--pics_file=pics.txt", "--device=cpu", "--num_workers=0"
    settings = from_flags(runpy.run_path(str(ROOT / "reproduce.py")), [*common, *flags])
    return reproduction.reproduce(settings, ROOT)


QUICK = (f"--networks={LITE}", "--figures=POS,NEG", "--INTERPOLATION_STEPS=1")


def test_dry_run_with_nothing_there(place, capsys):
    """Every network and every table is named, with what it lacks and where that goes; nothing is written."""
    (place / "pics.txt").write_text("a.png 1\nb.png 2\n")
    assert reproduce("--dry_run", "--networks=resnet18,vit-tiny,resnet1000", "--timed_pictures=0") == 0
    said = capsys.readouterr().out
    for words in ("resnet18: no weights: not on this machine",
                  "put it at data/weights/resnet18-f37072fd.pth.",
                  "vit-tiny: no weights", "vit_tiny_patch16_224",
                  "resnet1000: model_name 'resnet1000' is unknown",
                  "gtsegs_ijcv.mat", "COCO val2017 is not in data/COCO", "VOC 2012 is not in data/VOC",
                  "none of the 2 pictures of the list is in images_dir 'pictures'"):
        assert words in said, words
    for table in ("explanation-cnn", "explanation-vit", "segmentation imagenet", "segmentation coco",
                  "segmentation voc",
                  "ablations", "ablations channel-minimum", "ablations zero", "ablations mean", "sanity",
                  "pointing voc", "pointing coco"):
        often = 1 if table.startswith(("explanation", "ablations ")) else 2
        assert said.count(f"  {table}; the paper: no figure known\n    cannot be made: ") == often, table
    assert said.count("annotations/instances_val2017.json") == 1                  # in full only once
    assert "--weights_path" not in said
    assert {path.name for path in place.iterdir()} == {"pictures", "pics.txt"}


def test_dry_run_times_a_few_pictures(place, capsys):
    coco_tree(place / "coco", 2)
    assert reproduce(*QUICK, "--dry_run", "--tables=segmentation,explanation-vit", "--coco_root=coco",
                     "--timed_pictures=1") == 0
    said = capsys.readouterr().out
    hours, seconds = map(float, re.search(r"([\d.e-]+) hours on cpu, ([\d.]+) s a picture", said).groups())
    assert f"{LITE}: weights found" in said and "segmentation coco; the paper: no" in said
    assert "    2 pictures found: " in said and 0.01 < seconds < 60
    assert hours == pytest.approx(2 * seconds / 3600, rel=0.1)
    assert "explanation-vit: none of `networks` is of its kind" in said
    assert not (place / "reproduction").exists()


def test_each_seed_costs_as_much_as_the_one_that_is_timed():
    asked = []

    def make(model, own):
        asked.append((own.max_images, own.seeds, own.INTERPOLATION_STEPS))
        return {"seconds": 8.0, "pictures": own.max_images}

    settings = Settings(max_images=50, seeds=3, INTERPOLATION_STEPS=10, results_dir="none")
    assert reproduction.timed(None, settings, make, 4) == 3 * 8 / 4
    assert asked == [(1, 1, 1), (4, 1, 10)]                                  # the first warms up


def test_all_that_can_be_made(place, capsys, monkeypatch):
    """A table without data and a network without weights are listed, the others are made.

    Once more: the same bytes, and nothing is computed.
    """
    coco_tree(place / "coco", 2)
    flags = (*QUICK, "--networks=resnet18,efficientnet_lite0", "--tables=explanation-cnn,segmentation",
             "--coco_root=coco")
    assert reproduce(*flags) == 1
    page = (place / "reproduction/reproduction.md").read_bytes()
    text = page.decode()
    made, lacking = text.split("## Not made")
    assert made.count("\n## ") == 2 and "Unfinished" not in text
    assert all(f"- {network}, {table}" in lacking for table, network in (
        ("explanation-cnn", "resnet18"), ("segmentation voc", LITE), ("segmentation imagenet", LITE)))
    assert "      Get https://download.pytorch.org/models/resnet18-f37072fd.pth and put it at" in lacking

    summary = json.loads(next((place / "reproduction/explanation-cnn").rglob("summary.json")).read_text())
    assert summary["figures"].keys() == {"random", "gradcam", "iia", "iia-triple", "iia-ablation-im",
                                         "iia-ablation-ac"}
    assert summary["settings"]["figures"] == ["POS", "NEG"]
    assert summary["identity"]["INTERPOLATION_STEPS"] == 1
    accuracy = f"{100 * summary['base accuracy']:.1f} %"
    assert f"## explanation-cnn, {LITE}\n\nbase accuracy {accuracy}, 2 pictures, 0 skipped" in made
    (low, high), mean = summary["intervals"]["iia"]["NEG"], summary["figures"]["iia"]["NEG"]
    line = next(line for line in made.splitlines() if line.startswith("| NEG |"))
    assert line.split(" | ")[3] == f"{mean:.2f} [{low:.2f}, {high:.2f}]"

    summary = json.loads(next((place / "reproduction/segmentation-coco").rglob("summary.json")).read_text())
    low, high = summary["intervals"]["iia"]["mF1"]
    assert f"{100 * summary['figures']['iia']['mF1']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in made

    def again(*arguments):
        raise AssertionError("computed again")
    monkeypatch.setattr(explanation_table, "score_batch", again)
    assert reproduce(*flags) == 1 and (place / "reproduction/reproduction.md").read_bytes() == page


def test_a_table_that_fails_does_not_stop_the_others(place, monkeypatch, capsys):
    def broken(model, settings):
        raise RuntimeError("a defect")
    monkeypatch.setattr(reproduction.sanity_table, "tested", broken)
    monkeypatch.setattr(explanation_table, "tested", lambda model, settings: None)    # another process has it
    assert reproduce(*QUICK, "--tables=sanity,ablations,pointing") == 1
    text = (place / "reproduction/reproduction.md").read_text()
    assert "RuntimeError: a defect" in text and text.count(reproduction.ELSEWHERE) == 1
    assert f"- {LITE}, ablations, ablations channel-minimum, ablations zero, ablations mean:\n" in text
    assert f"- {LITE}, pointing coco:" in text and "Traceback" in capsys.readouterr().err


def test_the_settings_are_those_of_the_scripts(place):
    """All that reproduce.py does not set is as its script has it; the paper's methods are rows."""
    settings = from_flags(runpy.run_path(str(ROOT / "reproduce.py")), ["--pictures=3", "--batch_size=7"])
    found = {}
    for network in ("resnet18", "vit-tiny"):
        model, missing = reproduction.network_or_stand_in(network)
        model.name = {"resnet18": "convnext_base"}.get(network, network)           # a small one in its place
        found[network] = {job.name: job.settings for job in reproduction.jobs(model, settings, ROOT)}
        assert missing.startswith("no weights: not on this machine")
    cnn, vit = found.values()
    assert list(cnn) == ["explanation-cnn", "segmentation imagenet", "segmentation coco", "segmentation voc",
                         "ablations", "ablations channel-minimum", "ablations zero", "ablations mean",
                         "sanity", "pointing voc", "pointing coco"]
    assert cnn["segmentation imagenet"].operations == ["iia", "iia-triple", "lift-cam"]
    assert cnn["segmentation coco"].operations == ["iia", "iia-triple"]
    assert {job.batch_size for job in cnn.values()} == {7} and cnn["sanity"].max_images == 500
    assert cnn["ablations zero"].baseline == "zero" and cnn["ablations"].baseline == "spatial-minimum"
    script = from_flags(runpy.run_path(str(ROOT / "seg_vit_datasets.py")), []).values()
    same = vit["segmentation voc"].values()
    changed = {name for name in script if script[name] != same[name]}
    assert changed == {"chosen_dataset", "batch_size", "dataset_root", "max_images", "results_dir"}
    assert same["chosen_dataset"] == "voc" and same["max_images"] == 3 and "baseline" not in same


def test_share_of_the_pictures(place):
    names = [f"{letter}.png" for letter in "abcdef"]
    for name in names:
        (place / "pictures" / name).write_bytes((place / "pictures/chelsea.png").read_bytes())
    (place / "pics.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    model, _ = reproduction.network_or_stand_in(LITE)
    for most, wanted, number in ((50000, {}, 6), (6, {}, 6), (3, {"per_class": 1}, 3),
                                 (4, {"every_nth": 2}, 3), (2, {"every_nth": 3}, 2)):
        settings = from_flags(runpy.run_path(str(ROOT / "reproduce.py")), [
            f"--pictures={most}", "--images_dir=pictures", "--pics_file=pics.txt"])
        chosen, count = reproduction.share(next(reproduction.jobs(model, settings, ROOT)))
        own = {name: value for name, value in chosen.values().items()
               if name in ("per_class", "every_nth") and value}
        assert (own, count, chosen.max_images) == (wanted, number, None)
        pics = reproduction.PicsDataset("pics.txt", "pictures", model, chosen.every_nth, chosen.per_class)
        assert len(pics.pics) == number


def result(table, network, mean, low, high):
    figures = {name: {"NEG": mean, "mF1": mean, "DEL": 1.0} for name in ("iia-triple", "iia")}
    ends = {name: {"NEG": [low, high], "mF1": [low, high], "DEL": [1, 1]} for name in figures}
    summary = {"figures": figures, "intervals": ends, "pictures": 9, "base accuracy": 0.774}
    return Result(table, network, summary)


def test_the_papers_figures_stand_beside_the_same_only():
    lines = list(reproduction_page.beside_the_paper(result("explanation-cnn", "resnet101", 56.5, 56.0, 57.0)))
    assert [line[4:6] for line in lines] == [["iia-triple", "NEG"], ["iia-triple", "POS"],
                                             ["iia-triple", "INS"], ["gradcam", "NEG"]]
    assert lines[0][2:4] + lines[0][6:] == ["9", "77.4 %", "56.50 [56.00, 57.00]", "56.89", "yes"]
    assert all(line[6:] == ["not made", paper, ""]
               for line, paper in zip(lines[1:], ("15.78", "48.53", "56.42")))
    verdicts = [next(reproduction_page.beside_the_paper(result("explanation-cnn", "resnet101", *ours)))[-1]
                for ours in ((55.5, 55, 56), (54.5, 54, 55), (58.0, 57.9, 58.1))]
    assert verdicts == ["no: -1.39, within 2 points", "no: -2.39", "no: +1.11, within 2 points"]
    made = result("segmentation imagenet", "convnext_base", .42, .41, .43)
    percent = next(reproduction_page.beside_the_paper(made))
    assert percent[6:] == ["42.00 [41.00, 43.00]", "42.32", "yes"]
    for other in (("explanation-cnn", "resnet50"), ("ablations", "resnet101"),
                  ("segmentation coco", "convnext_base")):
        assert not list(reproduction_page.beside_the_paper(result(*other, 1.0, 0, 2)))
    assert sum(map(len, PAPER.values())) == 8


def test_wrong_settings_are_refused(place):
    for flag, words in (("--tables=explanations", "Did you mean 'explanation-"),
                        ("--pictures=0", "pictures is 0"), ("--device=tpu", "cannot be used")):
        with pytest.raises(UserError, match=words):
            reproduce(flag)


def test_intervals_of_the_segmentation_metrics():
    """Against resamples by a loop, of which each is a data set with metrics of its own."""
    g = np.random.default_rng(0)
    rows = pd.DataFrame({name: g.integers(1, 50, 12) for name in ("tp", "fp", "fn", "tn")}
                        | {"ap": g.random(12), "row_f1": g.random(12)})
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 2000)
    drawn = pd.DataFrame([segmentation.metrics(rows.loc[np.repeat(np.arange(12), own)])
                          for own in counts[:300]])
    found = segmentation.metric_intervals(rows)
    for name, value in segmentation.metrics(rows).items():
        low, high = found[name]
        assert low < value < high
        assert [low, high] == pytest.approx(np.percentile(drawn[name], [2.5, 97.5]), abs=0.03), name
    with torch.no_grad():
        nothing = segmentation.metric_intervals(rows.assign(tp=0, fp=0, fn=0))
    assert nothing["mIoU"] == [0.5, 0.5] and nothing["F1"] == [0, 0]
