"""The pages of the generator and of the tables: maps and figures of the same explanations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import iia
from iia import explanation_table, gallery, generator, plots, run_pages
from iia.datasets.pictures import open_picture, squash
from iia.errors import UserError

from .conftest import toy_vgg, toy_vit
from .pages import HEAT, PICTURE, Parsed, explain, files, measure, run, shown


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
