"""The pages of the generator and of the tables: maps and figures of the same explanations."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import iia
from iia import explanation_table, gallery, generator, plots, run_pages
from iia.datasets.pictures import normalise, open_picture, squash
from iia.errors import UserError
from iia.evaluation.explanation_tests import score
from iia.evaluation.given_maps import random_maps
from iia.page import run_map

from .conftest import toy_vgg, toy_vit
from .pages import HEAT, PICTURE, Parsed, explain, facts, files, measure, run, shown

NAMES = ("chelsea.png", "coffee.png", "rocket.jpg")


def test_the_generator_writes_the_maps_that_it_explains(toy):
    assert explain(toy, "--operations=iia,iia-ablation-ac", "--save_heatmaps_masks") == 0
    rows, maps = shown("qualitive_results")
    assert rows == [(name, f"class {number}", "toy")
                    for name, number in (("chelsea.png", 2), ("coffee.png", 5), ("rocket.jpg", 1))]
    assert len(maps) == 6
    for path in maps:
        operation, picture = Path(path).stem, path.split("_")[-2]
        heat = np.load(f"heatmaps/{picture}_{operation}_toy.npy")
        saved = np.asarray(Image.open(f"qualitive_results/{path}"))
        np.testing.assert_allclose(saved / 256, heat, atol=1 / 255)
    once = files("qualitive_results")
    explain(toy, "--operations=iia,iia-ablation-ac", "--save_heatmaps_masks")
    assert files("qualitive_results") == once
    explain(toy, "--operations=iia-triple")
    explain(toy, "--operations=iia", "--definition=release", "--max_images=1")
    rows, maps = shown("qualitive_results")
    assert len(rows) == 4 and len(maps) == 10


def test_what_is_explained_otherwise_has_a_row_of_its_own(toy):
    ways = ["--quadrature=gauss", "--baseline=zero", "--FEATURE_LAYER_NUMBER=5", "--INTERPOLATION_STEPS=3",
            "--definition=release"]
    for flags in [], *([way] for way in ways):
        explain(toy, "--operations=iia-ablation-ac", "--max_images=1", *flags)
    other = toy_vgg()
    with torch.no_grad():
        other.classifier[2].weight += 0.1
    explain(iia.wrap(other, "toy", toy.mean, toy.std, image_size=32), "--operations=iia-ablation-ac",
            "--max_images=1")
    shutil.copy("coffee.png", "chelsea.png")                                 # another picture of its name
    explain(toy, "--operations=iia-ablation-ac", "--max_images=1")
    assert len(shown("qualitive_results")[0]) == len(ways) + 3


def test_a_photograph_is_shown_upright(toy):
    camera = Image.Exif()
    camera[0x0112] = 6                                                       # it was held on its side
    Image.open("rocket.jpg").save("turned.jpg", exif=camera)
    Path("pics.txt").write_text("turned.jpg 2\n")
    explain(toy, "--operations=iia-ablation-ac")
    path, = Path("qualitive_results").glob("page/*/picture.jpg")
    found = np.asarray(Image.open(path)) / 255
    upright, stored = (plots.rgb(squash(open_picture("turned.jpg", upright=way), 32))
                       for way in (True, False))
    assert np.abs(found - upright).mean() < 0.05 < np.abs(found - stored).mean()


def test_figures_come_from_the_tables_of_the_same_explanations(toy, capsys):
    folder = measure(toy, "--operations=iia,iia-ablation-ac@release")
    measure(toy, "--operations=iia", "--INTERPOLATION_STEPS=1")              # of other maps
    explain(toy, "--operations=iia,iia-ablation-ac")
    explain(toy, "--operations=iia-ablation-ac", "--definition=release")
    rows = pd.read_csv(folder / "per_image.csv").set_index(["id", "operation"])
    figures = [json.loads(text) for text in Parsed("qualitive_results/index.html").of("td", "data-figures")]
    wanted = []
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        of = [{metric: rows.loc[(name, operation), metric] for metric in ("POS", "INS")}
              for operation in ("iia", "iia-ablation-ac@release")]
        wanted += [of[0], {}, of[1]]
    assert sorted(figures, key=str) == sorted(wanted, key=str) and len({str(own) for own in wanted}) == 7
    (folder / "summary.json").write_text("{")
    gallery.Gallery("qualitive_results", "explanation_results").write()
    assert f"{folder}/per_image.csv is no table of the explanation tests" in capsys.readouterr().err
    assert set(Parsed("qualitive_results/index.html").of("td", "data-figures")) == {"{}"}


def test_figures_of_another_number_of_steps_are_not_shown(toy):
    """Of a ViT, None is 10 steps, and under "release" 5; a table has both."""
    vit = iia.wrap(toy_vit(), name="toy", image_size=16)
    run("explanation_tests_vit.py", explanation_table.table, vit, "--num_workers=0", "--figures=POS",
        "--max_images=1", "--operations=iia,iia@release")
    for definition in ("paper", "release"):
        run("vit_saliency_map_generator.py", generator.explain_pics, vit, "--operations=iia",
            "--max_images=1", "--ITERATION_STEPS=10", f"--definition={definition}")
    figures = [json.loads(text) for text in Parsed("qualitive_results/index.html").of("td", "data-figures")]
    assert sorted(map(list, figures)) == [[], ["POS"]]


def test_the_page_of_an_explanation_run(toy):
    explain(toy, "--operations=iia", "--save_heatmaps_masks")
    flags = "--operations=random,iia", "--heatmaps_dir=heatmaps", "--figures=NEG,POS,INS"
    folder = measure(toy, *flags)
    summary, parsed = json.loads((folder / "summary.json").read_text()), Parsed(folder / "index.html")
    for operation in ("random", "iia"):
        assert f"{summary['figures'][operation]['INS']:.2f}" in parsed.text
    assert "curves.png" in parsed.of("img", "src") and "INTERPOLATION_STEPS 2" in parsed.text
    assert "NEG ↑ POS ↓ INS ↑" in parsed.text and "Best and worst pictures, by INS" in parsed.text
    maps = [own["src"] for _, own in parsed.tags if own.get("class") == "map"]
    assert len(maps) == 6 and all((folder / path).exists() for path in parsed.of("img", "src"))
    rows = pd.read_csv(folder / "per_image.csv").sort_values("INS", ascending=False)
    order = list(rows[rows["operation"] == "iia"]["id"])
    assert [text.removesuffix(", iia") for text in parsed.of("img", "alt") if text.endswith(", iia")] == [
        order[0], order[1], order[2]]
    best = folder / maps[3]
    np.testing.assert_allclose(np.asarray(Image.open(best)) / 256,
                               np.load(f"heatmaps/{Path(order[0]).stem}_iia_toy.npy"), atol=1 / 255)
    once = files(folder)
    measure(toy, *flags)
    assert files(folder) == once


@pytest.mark.parametrize("figures, metric", [("POS,NEG", "NEG"), ("POS,DEL", "POS")])
def test_without_ins_pictures_are_ranked_by_neg_or_by_the_first_figure(figures, metric, toy):
    folder = measure(toy, "--operations=random", f"--figures={figures}")
    assert f"Best and worst pictures, by {metric}" in Parsed(folder / "index.html").text


def test_tiles_are_as_wide_and_high_as_the_pictures(tmp_path):
    summary = {"settings": {}, "versions": {}, "identity": {"picture size": [16, 20]}}
    tile = {"name": "cat", "value": "1", "picture": "page/0.jpg", "map": "page/0_a.png"}
    run_pages.write_run(tmp_path, "title", "", [["operation"]], summary, "INS", {"iia": {"best": [tile]}})
    parsed = Parsed(tmp_path / "index.html")
    assert parsed.of("img", "width") == ["20", "20"] and parsed.of("img", "height") == ["16", "16"]


@pytest.mark.parametrize("better, best, worst", [("higher", [8, 7, 6, 5], [0, 1, 2, 3]),
                                                 ("lower", [0, 1, 2, 3], [8, 7, 6, 5])])
def test_the_best_and_the_worst(better, best, worst, tmp_path):
    rows = pd.DataFrame({"index": range(10), "id": [str(k) for k in range(10)], "operation": "a/b",
                         "value": [*np.arange(9.0), np.nan]})

    def picture(index):
        if index == 8:
            raise UserError("gone")
        return PICTURE

    heatmap = lambda index, _: HEAT if index == 7 else None
    found = run_pages.find_extremes(tmp_path, rows, better, picture, heatmap)
    assert [[int(own["name"]) for own in found["a/b"][part]] for part in ("best", "worst")] == [best, worst]
    tiles = {own["name"]: own for part in found["a/b"].values() for own in part}
    assert not tiles["8"]["picture"] and tiles["7"]["map"] and not tiles["6"]["map"]
    assert tiles["6"]["value"] == "6"
    few = run_pages.find_extremes(tmp_path, rows[:3], better, picture)["a/b"]
    assert [len(few["best"]), len(few["worst"])] == [2, 1]                   # no picture twice
    same = run_pages.find_extremes(tmp_path, rows[:4].assign(value=1.0), better, picture)["a/b"]
    assert [own["name"] for own in same["best"]] == ["0", "1"]


@pytest.mark.parametrize("change", [
    {}, {"weights": "v"}, {"layer": 5}, {"INTERPOLATION_STEPS": 3}, {"quadrature": "gauss"},
    {"baseline": "zero"}, {"precision": "bf16"}, {"picture size": [16, 16]}, {"images_dir": "elsewhere"},
    {"definition": "release"}, {"protocol": "bee"}, {"heatmaps_dir": "maps"}])
def test_a_figure_is_shown_at_a_map_of_the_very_same_explanation(change, tmp_path):
    own = facts(quadrature="riemann", baseline="spatial-minimum")
    run = own | {"INTERPOLATION_STEPS": 2, "protocol": "paper"} | change
    assert shown_figures(tmp_path, own, run, "cat.png,iia,3,3") == ({} if change else {"POS": 12.5})


@pytest.mark.parametrize("line", ["dog.png,iia,3,3", "cat.png,gradcam,3,3", "cat.png,iia,4,3",
                                  "cat.png,iia,3,4", "cat.png,iia@release,3,3"])
def test_a_figure_of_another_picture_operation_or_class_is_not_shown(line, tmp_path):
    run = facts() | {"INTERPOLATION_STEPS": 2, "protocol": "paper"}
    assert shown_figures(tmp_path, facts(), run, line) == {}


def shown_figures(folder, own, run, line):
    """What the page says of a row with its `own` facts, where a table of this run has this line."""
    table = folder / "tables/run"
    table.mkdir(parents=True)
    (table / "summary.json").write_text(json.dumps({"identity": run, "settings": {}}))
    (table / "per_image.csv").write_text(f"id,operation,target,explained,POS\n{line},12.5\n")
    made = gallery.Gallery(folder, folder / "tables")
    made.add("toy_cat", own, PICTURE, {"iia": HEAT})
    made.write()
    figures, = Parsed(folder / "index.html").of("td", "data-figures")
    return json.loads(figures)


def test_the_noise_that_is_measured_is_that_of_the_page_and_of_the_files_name(toy):
    folder = measure(toy, "--operations=random")
    x = torch.cat([normalise(squash(open_picture(name), 32), toy.mean, toy.std)[None] for name in NAMES])
    noise = random_maps(x, [zlib.crc32(name.encode()) for name in NAMES], "bicubic")
    wanted, _ = score(toy, x, torch.tensor([2, 5, 1]), noise, ["INS"])
    rows = pd.read_csv(folder / "per_image.csv")
    assert rows["INS"].tolist() == pytest.approx(wanted["INS"].tolist(), abs=1e-3)
    for index, heat in enumerate(noise):
        saved = np.asarray(Image.open(run_map(folder, index, "random")))
        np.testing.assert_allclose(saved / 256, heat.numpy(), atol=1 / 255)


def test_the_page_of_a_run_says_what_was_explained_and_shows_the_raw_pictures(toy, capsys):
    predicted = iia.predict(toy, iia.load_pictures(NAMES, toy)).tolist()
    classes = zip(NAMES, [predicted[0], *((y + 1) % 7 for y in predicted[1:])])         # the first is right
    Path("pics.txt").write_text("".join(f"{name} {y}\n" for name, y in classes))
    folder = measure(toy, "--operations=random", "--figures=NEG,INS", "--explained_class=predicted")
    text, said = Parsed(folder / "index.html").text, capsys.readouterr().out
    short = "3 pictures, base accuracy 33.3 %, 0 skipped, 0 degenerate maps"
    assert short in text and short in said
    assert "toy, cut at 6, predicted class explained, protocol paper" in text
    assert "Best and worst pictures, by INS" in text
    assert all(f"{name} INS " in text for name in NAMES)
    for index, name in enumerate(NAMES):
        raw = plots.rgb(squash(open_picture(name), 32))
        saved = np.asarray(Image.open(folder / f"page/{index}.jpg")) / 255
        assert np.abs(saved - raw).mean() < 0.05                      # not as the network reads it


def test_a_table_says_how_far_maps_are_from_their_limit(toy, capsys):
    folder = measure(toy, "--operations=random,iia")
    x = iia.load_pictures(NAMES, toy)
    _, wanted = iia.explain(toy, x, [2, 5, 1], "iia", steps=2, return_error=True)
    rows = pd.read_csv(folder / "per_image.csv").set_index("operation")["distance"]
    assert rows["iia"].tolist() == pytest.approx(wanted.tolist(), abs=1e-4) and rows["random"].isna().all()
    assert [run_map(folder, 0, name).exists() for name in ("random", "iia")] == [True, False]    # no new map
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["distance"] == {"iia": pytest.approx(wanted.mean().item(), abs=1e-4)}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("  distance") and lines[3].split()[-1] == f"{summary['distance']['iia']:.3f}"
