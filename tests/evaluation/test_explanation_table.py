"""The explanation tests as a user runs them: the files, the table, resuming, maps made elsewhere."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import iia
from iia import explanation_table, settings
from iia.evaluation import comparison, given_maps
from iia.datasets.photographs import NAMES, photograph
from iia.datasets.pictures import load_pictures
from iia.errors import UserError
from iia.evaluation.explanation_tests import score
from iia.evaluation.protocols import MASKED as METRICS, PAPER, PROTOCOLS
from iia.evaluation.runner import Run
from tests.evaluation.toys import Scrambles

ROOT = Path(__file__).resolve().parents[2]
SIX = list(PAPER[:6])
FOLDER = "list_toy_1_paper_target_paper"


def results(place, name=FOLDER, under="results"):
    """The folder of results whose name begins so, the latest where settings have changed."""
    return max((place / under).glob(f"{name}_????????"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def place(tmp_path):
    """Five pictures of noise with their list; line 3 is no picture, line 5 a broken one."""
    g = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(g.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(tmp_path / f"p{i}.png")
    (tmp_path / "broken.png").write_text("nothing")
    (tmp_path / "list.txt").write_text("p0.png 0\np1.png 1\nnothing\np2.png 2\nbroken.png 1\np3.png 3\np4.png 0\n")
    (tmp_path / "maps").mkdir()
    return tmp_path


def chosen(place, **more):
    values = dict(operations=["random", "mine"], figures=SIX, explained_class="target", protocol="paper", definition="paper",
                  device="cpu", batch_size=8, precision="fp32", images_dir=str(place), pics_file=str(place / "list.txt"),
                  max_images=None, heatmaps_dir=str(place / "maps"), num_workers=0, results_dir=str(place / "results"),
                  FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=1, every_nth=None, per_class=None)
    return settings.Settings(**values | more)


def write_maps(place, names=("p0", "p1", "p2", "p3", "p4")):
    """Maps of the operation "mine"; the lower left pixel is the most relevant."""
    for i, name in enumerate(names):
        saliency = np.random.default_rng(i).random((16, 16), dtype=np.float32)
        saliency[15, 0] = 2 + i
        np.save(place / "maps" / f"{name}_mine_toy.npy", saliency)


def rows_of(folder):
    with open(folder / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_maps_made_elsewhere(place, capsys):
    """The table's figures are those of `score`; what cannot be used is named, counted and an exit code of 1."""
    write_maps(place)
    model = Scrambles()
    assert explanation_table.table(model, chosen(place)) == 1
    folder = results(place)
    said = capsys.readouterr()
    assert "broken.png" in said.err and "list.txt:3" in said.err
    files = {path.name for path in folder.iterdir()}
    assert files == {".claims", "batches", "page", "index.html", "per_image.csv", "summary.json", "settings.json",
                     "curves.npz", "curves.png"}

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["pictures"], summary["skipped"]["count"], summary["degenerate"]) == (5, 2, {"random": 0, "mine": 0})
    pictures, targets = load_pictures([place / f"p{i}.png" for i in range(5)], model), torch.tensor([0, 1, 2, 3, 0])
    maps = torch.stack([torch.from_numpy(np.load(place / "maps" / f"p{i}_mine_toy.npy")) for i in range(5)])
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low)
    expected, curves = score(model, pictures, targets, maps, SIX)
    for name in SIX:
        assert summary["figures"]["mine"][name] == pytest.approx(expected[name].mean().item(), abs=1e-4)
        low, high = summary["intervals"]["mine"][name]
        assert low <= summary["figures"]["mine"][name] <= high
    right = (model(pictures).argmax(1) == targets).float().mean().item()
    assert summary["base accuracy"] == pytest.approx(right)
    saved = np.load(folder / "curves.npz")
    assert np.allclose(saved["mine DEL"], curves["DEL"].mean(0), atol=1e-6) and saved["x DEL"][-1] == 0.9
    table = said.out.splitlines()
    assert [name in table[0] for name in ("POS↓", "NEG↑", "DEL↓", "INS↑", "ADP↓", "PIC↑")] == [True] * 6
    assert f"{summary['figures']['mine']['DEL']:.2f}" in next(line for line in table if line.startswith("mine"))
    assert "2 skipped" in said.out and "5 pictures" in said.out


def test_missing_misshapen_and_constant_maps(place, capsys):
    write_maps(place, ["p0", "p1", "p2", "p3"])
    np.save(place / "maps" / "p1_mine_toy.npy", np.zeros((7, 7)))
    np.save(place / "maps" / "p2_mine_toy.npy", np.full((16, 16), 3.0))
    (place / "maps" / "p3_mine_toy.npy").write_bytes(b"")
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    said = capsys.readouterr()
    for what in ("p1_mine_toy.npy holds no map (it is [7, 7], not [16, 16])", "p3_mine_toy.npy holds no map",
                 "p4_mine_toy.npy is missing"):
        assert what in said.err, what
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 2 and summary["counts"]["random"]["POS"] == 5
    assert summary["degenerate"] == {"random": 0, "mine": 1} and "1 degenerate" in said.out

    write_maps(place)                                        # better ones: the old figures do not stand for them
    explanation_table.table(Scrambles(), chosen(place))
    assert len(list((place / "results").iterdir())) == 2
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 5


def test_maps_of_no_picture_in_common(place, capsys):
    write_maps(place, ["p0", "p1"])
    for name in ("p2", "p3"):
        (place / "maps" / "p0_mine_toy.npy").with_name(f"{name}_other_toy.npy").write_bytes(
            (place / "maps" / "p0_mine_toy.npy").read_bytes())
    (place / "maps" / "p4_other_toy.npy").write_bytes(b"PK no archive")
    assert explanation_table.table(Scrambles(), chosen(place, operations=["mine", "other"])) == 1
    said = capsys.readouterr()
    assert "other" in said.out and "p4_other_toy.npy holds no map" in said.err


def test_resume_after_a_kill(place, monkeypatch):
    """What was done is not asked again, and the files end up the same to the last digit."""
    write_maps(place)
    explanation_table.table(Scrambles(), chosen(place, results_dir=str(place / "whole")))

    save, saved = Run.save, []

    def until_the_third(self, batch, rows):
        saved.append(batch.number)
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(self, batch, rows)
    monkeypatch.setattr(Run, "save", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        explanation_table.table(Scrambles(), chosen(place))
    explanation_table.table(Scrambles(), chosen(place))
    assert saved == [0, 1, 2, 2, 3]
    for name in ("per_image.csv", "curves.png"):
        assert (results(place, under="whole") / name).read_bytes() == (results(place) / name).read_bytes()


def test_random_maps_are_a_picture_s_own(place):
    write_maps(place)
    explanation_table.table(Scrambles(), chosen(place))
    explanation_table.table(Scrambles(), chosen(place, batch_size=100, results_dir=str(place / "other")))
    one, other = (rows_of(results(place, under=name)) for name in ("results", "other"))
    assert [row["DEL"][:6] for row in one] == [row["DEL"][:6] for row in other]
    maps = given_maps.random_maps(torch.zeros(3, 3, 16, 16), [1, 2, 1], "bicubic")
    assert torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[1]) and maps.amin() == 0 and maps.amax() == 1


def test_comparing_operations():
    """b is better than a by 1 on every picture, c by nothing on average; lower is better for DEL."""
    a = np.random.default_rng(0).normal(50, 10, 100)
    noise = np.random.default_rng(1).normal(0, 1, 100)
    values = {"a": a, "b": a + 1, "c": a + 1 + noise - noise.mean() - 1e-9}

    def compared(name, values):
        rows = {operation: pd.DataFrame({"index": np.arange(len(own)), name: own}) for operation, own in values.items()}
        return comparison.compare(rows, {name: METRICS[name]})
    said = compared("NEG", values)
    assert said["best"] == {"NEG": "b"} and said["behind the best"]["a"]["NEG"] == pytest.approx([-1, -1])
    assert [comparison.mark(said, name, "NEG") for name in "abc"] == [" ", "*", "="]
    assert compared("DEL", values)["best"] == {"DEL": "a"}
    nothing = compared("NEG", {name: own * np.nan for name, own in values.items()})
    assert nothing["intervals"]["a"]["NEG"] == [None, None] and nothing["best"] == {"NEG": None}
    assert nothing["counts"]["a"] == {"NEG": 0} and comparison.mark(nothing, "a", "NEG") == " "


def test_rows_are_compared_picture_by_picture():
    """Operations that have other pictures, in another order: the difference is that of the pictures in common."""
    one = pd.DataFrame({"index": [0, 1, 2, 5], "NEG": [10.0, 20, 30, 90]})
    two = pd.DataFrame({"index": [5, 2, 1], "NEG": [91.0, 31, 21]})
    said = comparison.compare({"one": one, "two": two}, {"NEG": METRICS["NEG"]})
    assert said["best"] == {"NEG": "two"} and said["counts"] == {"one": {"NEG": 4}, "two": {"NEG": 3}}
    assert said["behind the best"]["one"]["NEG"] == [-1, -1]


def test_the_same_rows_are_marked_as_no_different(capsys):
    rows = pd.DataFrame({"index": range(5), "NEG": [1.0, 2, 3, 4, 5]})
    said = comparison.compare({"a": rows, "b": rows}, {"NEG": METRICS["NEG"]}) | {"figures": {"a": {"NEG": 3}, "b": {"NEG": 3}}}
    assert [comparison.mark(said, name, "NEG") for name in "ab"] == ["*", "="]
    comparison.print_table(said, {"NEG": METRICS["NEG"]})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4:2]] == [["a", "3.00*", "5"], ["b", "3.00=", "5"]]
    assert "= not significantly different from it at 95 %" in lines[-1]


@pytest.mark.parametrize("wrong, said", [
    ({"operations": ["iia@relase"], "heatmaps_dir": None}, "Did you mean 'release'"),
    ({"operations": ["iiaa"], "heatmaps_dir": None}, "Did you mean 'iia'"),
    ({"figures": ["NEGG"]}, "Did you mean 'NEG'"), ({"figures": []}, "figures is empty"),
    ({"operations": []}, "operations is empty"), ({"explained_class": "targets"}, "Did you mean 'target'"),
    ({"heatmaps_dir": "nowhere"}, "is no folder"), ({"batch_size": 0}, "at least 1")])
def test_wrong_settings_are_found_first(place, wrong, said):
    with pytest.raises(UserError, match=said):
        explanation_table.table(Scrambles(), chosen(place, **wrong))
    assert not (place / "results").exists()


# ------------------------------------------------------------------------- with a real network

def test_predicted_class_is_explained_and_the_target_asked_for(place):
    """The target is wrong: top-1 is 0 throughout, whatever the map of the predicted class says."""
    model = iia.load_model("efficientnet_lite0")
    shutil.copy(photograph("chelsea.png"), place / "cat.png")
    (place / "list.txt").write_text("cat.png 3\n")
    rows = {}
    for which in ("target", "predicted"):
        how = chosen(place, operations=["iia-ablation-ac"], figures=["POS", "INS"], heatmaps_dir=None,
                     explained_class=which, INTERPOLATION_STEPS=3)
        assert explanation_table.table(model, how) == 0
        rows[which], = rows_of(results(place, f"list_efficientnet_lite0_9_paper_{which}_paper"))
    pictures = load_pictures([place / "cat.png"], model)
    cat = iia.predict(model, pictures).item()
    assert {row["target"] for row in rows.values()} == {"3"} and {row["top1"] for row in rows.values()} == {"0.0"}
    assert (rows["target"]["explained"], rows["predicted"]["explained"]) == ("3", str(cat)) and cat != 3
    for which, explained in (("target", 3), ("predicted", cat)):
        maps = iia.explain(model, pictures, [explained], "iia-ablation-ac", steps=3)
        figures, _ = score(model, pictures, torch.tensor([3]), maps, ["INS"])
        assert float(rows[which]["INS"]) == pytest.approx(figures["INS"].item(), rel=1e-3)
    assert float(rows["target"]["INS"]) != pytest.approx(float(rows["predicted"]["INS"]), rel=1e-2)


def test_both_definitions_in_one_table_from_the_command_line(tmp_path):
    (tmp_path / "pics.txt").write_text(f"{NAMES[0]} 285\n")
    (tmp_path / NAMES[0]).write_bytes(photograph(NAMES[0]).read_bytes())
    done = subprocess.run([sys.executable, ROOT / "explanation_tests_cnn.py", "--model_name=efficientnet_lite0",
                           "--batch_size=8", "--operations=random,iia-ablation-ac,iia-ablation-ac@release",
                           "--figures=POS,INS,SIC", "--images_dir=.", "--pics_file=pics.txt", "--num_workers=0",
                           "--INTERPOLATION_STEPS=2"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()[:7] if not line.startswith(" ")]
    assert names == ["operation", "random", "iia-ablation-ac", "iia-ablation-ac@release"]
    folder = results(tmp_path, "pics_efficientnet_lite0_9_paper_target_paper", "explanation_results")
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    assert list(figures) == ["random", "iia-ablation-ac", "iia-ablation-ac@release"]
    assert figures["iia-ablation-ac"]["INS"] != figures["iia-ablation-ac@release"]["INS"]
    assert figures["random"]["INS"] < figures["iia-ablation-ac"]["INS"]


def test_a_process_that_has_nothing_to_do_leaves_the_table_to_the_first(place, monkeypatch, capsys):
    """torchrun stops all processes when one ends with an error: it is the one that has made the table."""
    write_maps(place)
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    assert explanation_table.table(Scrambles(), chosen(place)) == 0
    assert "operation" not in capsys.readouterr().out


@pytest.mark.parametrize("values, said", [
    ([[np.nan]], "not all of its numbers are finite"), ([[np.inf]], "not all of its numbers are finite"),
    ([[1j]], "it is of complex128, no real numbers"), ([["one"]], "it is of <U3, no real numbers")])
def test_maps_that_are_no_real_numbers_are_skipped_and_named(place, capsys, values, said):
    write_maps(place)
    saliency = np.array(np.broadcast_to(values, (16, 16)))
    if saliency.dtype == float:
        saliency = np.where(np.arange(256).reshape(16, 16) == 7, saliency, np.random.default_rng(0).random((16, 16)))
    np.save(place / "maps" / "p2_mine_toy.npy", saliency)
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    assert f"p2_mine_toy.npy holds no map ({said})" in capsys.readouterr().err
    summary = json.loads((results(place) / "summary.json").read_text())
    assert summary["counts"]["mine"]["POS"] == 4 and summary["degenerate"]["mine"] == 0
    assert len(summary["skipped"]["reasons"]) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_among_the_maps_is_skipped_and_waited_for_by_nobody(place, capsys):
    write_maps(place)
    (place / "maps" / "p2_mine_toy.npy").unlink()
    os.mkfifo(place / "maps" / "p2_mine_toy.npy")
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    assert "p2_mine_toy.npy holds no map (it is no file)" in capsys.readouterr().err


def test_a_line_twice_is_counted_once(place, capsys):
    write_maps(place)
    (place / "list.txt").write_text("p0.png 0\np1.png 1\np0.png 0\np0.png 1\n")
    assert explanation_table.table(Scrambles(), chosen(place)) == 1
    assert "list.txt:3: p0.png with class 0 is listed already" in capsys.readouterr().err
    assert json.loads((results(place) / "summary.json").read_text())["pictures"] == 3


def test_each_protocol_is_a_run_of_its_own(place, capsys):
    """Under bee the predicted class is asked for; the base accuracy stays that of the targets."""
    write_maps(place)
    model, summaries = Scrambles(), {}
    for protocol in PROTOCOLS:
        explanation_table.table(model, chosen(place, protocol=protocol, figures=None))
        folder = results(place, f"list_toy_1_paper_target_{protocol}")
        summaries[protocol] = json.loads((folder / "summary.json").read_text())
        rows = rows_of(folder)
        assert summaries[protocol]["protocol"] == protocol and f"protocol {protocol}" in capsys.readouterr().out
        assert {"SRG", "INS-DEL", "ROAD_combined"} & {*PROTOCOLS[protocol].figures} <= rows[0].keys()
        rows = [row for row in rows if not row["skipped"]]
        predicted = [model(load_pictures([place / row["id"]], model)).argmax(1).item() for row in rows]
        assert [row["asked"] == str(mine if protocol == "bee" else row["target"])
                for row, mine in zip(rows, predicted)] == [True] * 10
        assert any(str(mine) != row["target"] for row, mine in zip(rows, predicted))
    assert len({summary["base accuracy"] for summary in summaries.values()}) == 1
    paper, bee = (summaries[name]["figures"]["mine"] for name in ("paper", "bee"))
    assert paper["SRG"] == pytest.approx(paper["NEG"] - paper["POS"]) and paper["INS-DEL"] != bee["INS-DEL"]
    assert 0 < summaries["bee"]["base accuracy"] < 1
    assert len({path.name for path in (place / "results").iterdir()}) == len(PROTOCOLS)
    with pytest.raises(UserError, match="figure of protocol paper 'ADD' is unknown"):
        explanation_table.table(model, chosen(place, figures=["ADD"]))


def test_a_list_of_other_files_of_the_same_names_is_another_run(place):
    """Its figures are not those of the pictures that were there before."""
    figures = []
    for folder in ("one", "other"):
        (place / folder).mkdir()
        for name in ("p0.png", "p1.png"):
            shutil.copy(place / ("p2.png" if folder == "other" else name), place / folder / name)
        (place / "list.txt").write_text(f"{folder}/p0.png 0\n{folder}/p1.png 1\n")
        explanation_table.table(Scrambles(), chosen(place, operations=["random"], heatmaps_dir=None))
        figures.append([row["softmax"] for row in rows_of(results(place))])
    assert len(list((place / "results").iterdir())) == 2 and figures[0][0] != figures[1][0]


def test_road_without_its_package_is_said_first(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam.metrics.road", None)
    with pytest.raises(UserError, match="pip install grad-cam"):
        explanation_table.table(Scrambles(), chosen(place, protocol="road", figures=None))
    assert not (place / "results").exists()
