"""The explanation tests as a user runs them: the files, the table, resuming."""

import json
import shutil
import sys

import pytest
import torch

import iia
from iia import explanation_table
from iia.evaluation import given_maps
from iia.datasets.photographs import NAMES, photograph
from iia.datasets.pictures import load_pictures
from iia.errors import UserError
from iia.evaluation.explanation_tests import score
from iia.evaluation.protocols import PROTOCOLS
from iia.evaluation.runner import Run
from tests.evaluation.explanation_runs import chosen, results, rows_of, write_maps
from tests.evaluation.toys import Scrambles
from tests.scripts import run


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
    assert torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[1])
    assert maps.amin() == 0 and maps.amax() == 1
    shutil.copy(place / "p0.png", place / "twin.png")                  # the same picture by another name
    (place / "list.txt").write_text("p0.png 0\ntwin.png 0\n")
    explanation_table.table(Scrambles(), chosen(place, operations=["random"], heatmaps_dir=None))
    one, twin = rows_of(results(place))
    assert one["softmax"] == twin["softmax"] and one["DEL"] != twin["DEL"]


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


def test_predicted_class_is_explained_and_the_target_asked_for(place):
    """The target is wrong: top-1 is 0 throughout, whatever the map of the predicted class says."""
    model = iia.load_model("efficientnet_lite0", image_size=96)
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
    assert {row["target"] for row in rows.values()} == {"3"}
    assert {row["top1"] for row in rows.values()} == {"0.0"}
    assert (rows["target"]["explained"], rows["predicted"]["explained"]) == ("3", str(cat)) and cat != 3
    for which, explained in (("target", 3), ("predicted", cat)):
        maps = iia.explain(model, pictures, [explained], "iia-ablation-ac", steps=3)
        figures, _ = score(model, pictures, torch.tensor([3]), maps, ["INS"])
        assert float(rows[which]["INS"]) == pytest.approx(figures["INS"].item(), rel=1e-3)
    assert float(rows["target"]["INS"]) != pytest.approx(float(rows["predicted"]["INS"]), rel=1e-2)


def test_both_definitions_in_one_table_from_the_command_line(own_folder, capsys):
    (own_folder / "pics.txt").write_text(f"{NAMES[0]} 285\n")
    shutil.copy(photograph(NAMES[0]), own_folder)
    flags = ("--model_name=efficientnet_lite0", "--batch_size=8", "--figures=POS,INS,SIC",
             "--operations=random,iia-ablation-ac,iia-ablation-ac@release", "--images_dir=.",
             "--pics_file=pics.txt", "--num_workers=0", "--INTERPOLATION_STEPS=2", "--device=cpu")
    assert run("explanation_tests_cnn.py", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[:7] if not line.startswith(" ")]
    assert names == ["operation", "random", "iia-ablation-ac", "iia-ablation-ac@release"]
    folder = results(own_folder, "pics_efficientnet_lite0_9_paper_target_paper", "explanation_results")
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
        assert summaries[protocol]["protocol"] == protocol
        assert f"protocol {protocol}" in capsys.readouterr().out
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


def test_a_list_with_other_classes_is_another_run(place):
    """Its figures are not those of the classes that were asked for before."""
    found = []
    for target in (0, 1):
        (place / "list.txt").write_text(f"p0.png {target}\n")
        explanation_table.table(Scrambles(), chosen(place, operations=["random"], heatmaps_dir=None))
        found.append([row["target"] for row in rows_of(results(place))])
    assert found == [["0"], ["1"]] and len(list((place / "results").iterdir())) == 2


def test_road_without_its_package_is_said_first(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam.metrics.road", None)
    with pytest.raises(UserError, match="pip install grad-cam"):
        explanation_table.table(Scrambles(), chosen(place, protocol="road", figures=None))
    assert not (place / "results").exists()


def test_the_base_accuracy_counts_each_picture_once(place):
    """Also where an operation has no map of some of them."""
    model = Scrambles()
    first, second = model(load_pictures([place / "p0.png", place / "p1.png"], model)).argmax(1).tolist()
    (place / "list.txt").write_text(f"p0.png {first}\np1.png {(second + 1) % 4}\n")
    write_maps(place, ["p0"])
    explanation_table.table(model, chosen(place))
    assert json.loads((results(place) / "summary.json").read_text())["base accuracy"] == 0.5


def test_a_batch_that_does_not_fit_is_halved(place, monkeypatch, capsys):
    """Of the pictures themselves, and of what a map masks; the figures stay the same."""
    write_maps(place)
    (place / "list.txt").write_text("".join(f"p{k // 2}.png {k % 2}\n" for k in range(8)))
    explanation_table.table(Scrambles(), chosen(place, results_dir=str(place / "fits")))
    forward = Scrambles.forward

    def small(self, x):
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)
    monkeypatch.setattr(Scrambles, "forward", small)
    monkeypatch.setattr(explanation_table, "MASKED_TOGETHER", 1)              # a batch of eight
    capsys.readouterr()
    explanation_table.table(Scrambles(), chosen(place))
    said = capsys.readouterr().err
    assert said.count("going on with batch_size=4\n") == 3       # the pictures, and each operation
    one, other = (json.loads((results(place, under=name) / "summary.json").read_text())["figures"]
                  for name in ("fits", "results"))
    for name in one:
        assert one[name] == pytest.approx(other[name], abs=1e-4)
