"""The pages: what is on them, who may write to them at once, and how a browser shows them."""

import json
import os
import runpy
import shutil
import signal
import time
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import iia
from iia import explanation_table, gallery, generator, page
from iia.datasets.photographs import photograph
from iia.errors import UserError
from iia.settings import from_flags

from .conftest import toy_vgg, toy_vit

ROOT = Path(__file__).resolve().parents[1]
PICTURE = np.random.default_rng(0).random((16, 20, 3))
HEAT = np.linspace(0, 1, 320).reshape(16, 20)


class Parsed(HTMLParser):
    """A page: `tags`, [(name, attributes)], and `text`, what a person reads of it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.inside = [], [], ""
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        self.words += [data] if self.inside not in ("script", "style") else []

    def of(self, tag, name):
        """An attribute of all tags that have it."""
        return [own[name] for found, own in self.tags if found == tag and name in own]


def facts(name="cat.png", **more):
    return {"picture": name, "pixels": "0", "target": 3, "explained": 3, "class": "cat", "model": "toy",
            "weights": "w", "layer": 6, "steps": 2, "definition": "paper", "precision": "fp32",
            "picture size": [16, 20], "images_dir": "."} | more


def add(folder, name="cat.png", operations=("iia",), heat=HEAT, **more):
    made = gallery.Gallery(folder, "nowhere")
    made.add(f"toy_{Path(name).stem}", facts(name, **more), PICTURE, dict.fromkeys(operations, heat))
    made.write()
    return made


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def shown(folder):
    """[(picture, class, network)] of the rows, and the maps' places."""
    parsed = Parsed(Path(folder) / "index.html")
    rows = [tuple(own[f"data-{name}"] for name in ("picture", "class", "network"))
            for tag, own in parsed.tags if tag == "tr" and "data-picture" in own]
    maps = [own["src"] for tag, own in parsed.tags if tag == "img" and own.get("class") == "map"]
    return rows, maps


# ------------------------------------------------------------------------ what is on the page

def test_runs_add_to_the_page_and_the_same_run_leaves_the_same_bytes(tmp_path):
    add(tmp_path)
    once = files(tmp_path)
    add(tmp_path)
    assert files(tmp_path) == once
    add(tmp_path, operations=["gradcam"])                                    # a column
    add(tmp_path, "dog.png")                                                 # a row
    add(tmp_path, model="other")                                             # a row, as of any other facts
    add(tmp_path, steps=5)
    rows, maps = shown(tmp_path)
    assert rows == [("cat.png", "cat", "other"), *[("cat.png", "cat", "toy")] * 2, ("dog.png", "cat", "toy")]
    assert sorted(Path(path).name for path in maps) == ["gradcam.png", *["iia.png"] * 4]
    assert all((tmp_path / path).exists() for path in Parsed(tmp_path / "index.html").of("img", "src"))
    now = files(tmp_path)
    assert all(now[path] == content for path, content in once.items() if path.name != "index.html")
    (tmp_path / "index.html").unlink()
    gallery.Gallery(tmp_path, "nowhere").write()                                # made of the files alone
    assert files(tmp_path) == now


def test_a_maps_file_is_the_map_in_256_steps_and_jet_colours(tmp_path):
    add(tmp_path)
    file, = tmp_path.glob("page/*/iia.png")
    np.testing.assert_allclose(np.asarray(Image.open(file)) / 256, HEAT, atol=1 / 255)
    jet = matplotlib.colormaps["jet"](HEAT)[..., :3]
    np.testing.assert_allclose(np.asarray(Image.open(file).convert("RGB")) / 255, jet, atol=1 / 255)
    size = [own for tag, own in Parsed(tmp_path / "index.html").tags if own.get("class") == "map"][0]
    assert (size["width"], size["height"], size["loading"]) == ("20", "16", "lazy")


def test_names_are_text_whatever_is_in_them(tmp_path):
    odd = '<script>alert("1")</script>&amp;\'.png'
    add(tmp_path, odd, **{"class": '<img src=x onerror="alert(2)">', "model": "</script>\ud800"})
    parsed = Parsed(tmp_path / "index.html")
    assert [tag for tag, _ in parsed.tags].count("script") == 1 and "x" not in parsed.of("img", "src")
    assert odd in parsed.text and '<img src=x onerror="alert(2)"> (3)' in parsed.text
    assert "</script>" in shown(tmp_path)[0][0][2]
    assert f'iia for <img src=x onerror="alert(2)"> in {odd}' in parsed.of("img", "alt")


def test_a_map_that_says_nothing_is_marked_and_another_class_than_the_target_is_told(tmp_path):
    add(tmp_path, heat=0 * HEAT, explained=4)
    text = Parsed(tmp_path / "index.html").text
    assert "constant or not finite" in text and "cat (4), target 3" in text
    add(tmp_path)
    assert Parsed(tmp_path / "index.html").text.count("constant or not finite") == 1


def test_nothing_is_fetched_from_elsewhere(tmp_path):
    add(tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "http" not in text and "//" not in text.replace("// ", "") and "@import" not in text
    parsed = Parsed(tmp_path / "index.html")
    assert not parsed.of("script", "src") and not [tag for tag, _ in parsed.tags if tag == "link"]
    assert all(own.get("alt") is not None for tag, own in parsed.tags if tag == "img")


# ------------------------------------------------------------------------------- other files

def test_what_is_broken_or_foreign_is_named_and_stays(tmp_path, capsys):
    for name in ("cat.png", "dog.png", "owl.png", "elk.png"):
        add(tmp_path, name)
    cat, dog, elk, owl = sorted((tmp_path / "page").iterdir())
    wrong = {tmp_path / "page/notes.txt": b"mine", tmp_path / "page/album/me.png": b"mine",
             cat / "row.json": b'{"picture": "cat.png"',
             dog / "iia.png": (dog / "iia.png").read_bytes()[:200],
             owl / "gradcam.png": b"mine", elk / "picture.jpg": b""}
    for path, content in wrong.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Image.new("RGB", (9, 9)).save(owl / "ig.png")                            # a picture, but none of ours
    kept = (owl / "ig.png").read_bytes()
    for name in ("cat.png", "dog.png", "elk.png"):
        add(tmp_path, name)
    add(tmp_path, "owl.png", ["iia", "gradcam", "ig"])
    said = capsys.readouterr().err
    for path in (*wrong, owl / "ig.png"):
        named = path if path.parent != tmp_path / "page/album" and path.name != "row.json" else path.parent
        assert f"note: {named} " in said, path
    assert all(path.read_bytes() == content for path, content in wrong.items())
    assert (owl / "ig.png").read_bytes() == kept
    rows, maps = shown(tmp_path)
    assert [row[0] for row in rows] == ["dog.png", "owl.png"] and len(maps) == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("my own page"), lambda path: path.mkdir(),
                                  lambda path: path.write_bytes(b"")])
def test_someone_elses_index_is_named_and_stays_but_the_rows_are_kept(make, tmp_path, capsys):
    make(tmp_path / "index.html")
    before = files(tmp_path)
    add(tmp_path)
    assert "index.html is no page of these scripts" in capsys.readouterr().err
    assert files(tmp_path).items() >= before.items()
    (tmp_path / "index.html").rename(tmp_path / "mine")
    gallery.Gallery(tmp_path, "nowhere").write()
    assert len(shown(tmp_path)[0]) == 1


# ------------------------------------------------------------------------- several processes

def test_a_row_that_comes_while_another_process_writes_the_page_is_not_lost(tmp_path, monkeypatch):
    first, write_page = add(tmp_path), gallery.write_page

    def another_comes_between(*given, **values):
        monkeypatch.setattr(gallery, "write_page", write_page)
        add(tmp_path, "dog.png")                             # adds its row and writes the page
        write_page(*given, **values)                         # of the rows seen before
    monkeypatch.setattr(gallery, "write_page", another_comes_between)
    first.write()
    assert [row[0] for row in shown(tmp_path)[0]] == ["cat.png", "dog.png"]


def in_a_process(folder, names):
    """Add rows in a process of its own; returns its number."""
    if not (child := os.fork()):
        try:
            made = gallery.Gallery(folder, "nowhere")
            for name in names:
                made.add(f"toy_{name}", facts(name), PICTURE, {"iia": HEAT, "gradcam": HEAT})
            made.write()
        finally:
            os._exit(0)
    return child


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@needs_fork
def test_two_processes_at_once(tmp_path):
    for child in [in_a_process(tmp_path, [f"{one}{k}" for k in range(4)] + ["both"]) for one in "ab"]:
        os.waitpid(child, 0)
    rows, maps = shown(tmp_path)
    assert [row[0] for row in rows] == sorted([*(f"{one}{k}" for one in "ab" for k in range(4)), "both"])
    assert len(maps) == 2 * 9


@needs_fork
def test_a_kill_leaves_a_whole_page_and_the_next_run_ends_as_an_undisturbed_one(tmp_path, capsys):
    names = [f"p{k}" for k in range(8)]
    os.waitpid(in_a_process(tmp_path / "undisturbed", names), 0)
    for k in range(4):
        child = in_a_process(tmp_path / "killed", names)
        time.sleep(0.02 + 0.03 * k)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "killed/index.html").exists():
            assert (tmp_path / "killed/index.html").read_text().endswith("</html>")
    os.waitpid(in_a_process(tmp_path / "killed", names), 0)
    killed, undisturbed = ({path.relative_to(tmp_path / name): content for path, content in
                            files(tmp_path / name).items()} for name in ("killed", "undisturbed"))
    assert killed == undisturbed and len(killed) == 4 * 8 + 1


# ------------------------------------------------------------------- runs, and their figures

@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A network and three photographs with their list; the working directory is theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        shutil.copy(photograph(name), name)
    Path("pics.txt").write_text("chelsea.png 2\ncoffee.png 5\nrocket.jpg 1\n")
    return iia.wrap(toy_vgg(), "toy", (0.5,) * 3, (0.5,) * 3, image_size=32)


def run(script, main, model, *flags):
    settings = from_flags(runpy.run_path(str(ROOT / script)), [
        "--pics_file=pics.txt", "--images_dir=.", "--device=cpu", *["--INTERPOLATION_STEPS=2"] * ("cnn" in script),
        *flags])
    return main(model, settings)


def explain(model, *flags):
    return run("cnn_saliency_map_generator.py", generator.explain_pics, model, *flags)


def measure(model, *flags):
    assert run("explanation_tests_cnn.py", explanation_table.table, model, "--num_workers=0",
               "--figures=POS,INS", *flags) == 0
    return max(Path("explanation_results").iterdir(), key=lambda path: path.stat().st_mtime_ns)


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
    run("explanation_tests_vit.py", explanation_table.table, vit, "--num_workers=0", "--figures=POS", "--max_images=1",
        "--operations=iia,iia@release")
    for definition in ("paper", "release"):
        run("vit_saliency_map_generator.py", generator.explain_pics, vit, "--operations=iia", "--max_images=1",
            "--ITERATION_STEPS=10", f"--definition={definition}")
    figures = [json.loads(text) for text in Parsed("qualitive_results/index.html").of("td", "data-figures")]
    assert sorted(map(list, figures)) == [[], ["POS"]]


def test_the_page_of_an_explanation_run(toy):
    explain(toy, "--operations=iia", "--save_heatmaps_masks")
    folder = measure(toy, "--operations=random,iia", "--heatmaps_dir=heatmaps")
    summary, parsed = json.loads((folder / "summary.json").read_text()), Parsed(folder / "index.html")
    for operation in ("random", "iia"):
        assert f"{summary['figures'][operation]['INS']:.2f}" in parsed.text
    assert "curves.png" in parsed.of("img", "src") and "INTERPOLATION_STEPS 2" in parsed.text
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
    measure(toy, "--operations=random,iia", "--heatmaps_dir=heatmaps")
    assert files(folder) == once


@pytest.mark.parametrize("better, best, worst", [("higher", [8, 7, 6, 5], [0, 1, 2, 3]),
                                                 ("lower", [0, 1, 2, 3], [8, 7, 6, 5])])
def test_the_best_and_the_worst(better, best, worst, tmp_path):
    rows = pd.DataFrame({"index": range(10), "id": [str(k) for k in range(10)], "operation": "a/b",
                         "value": [*np.arange(9.0), np.nan]})

    def picture(index):
        if index == 8:
            raise UserError("gone")
        return PICTURE

    found = page.find_extremes(tmp_path, rows, better, picture, lambda index, _: HEAT if index == 7 else None)
    assert [[int(own["name"]) for own in found["a/b"][part]] for part in ("best", "worst")] == [best, worst]
    tiles = {own["name"]: own for part in found["a/b"].values() for own in part}
    assert not tiles["8"]["picture"] and tiles["7"]["map"] and not tiles["6"]["map"]
    assert tiles["6"]["value"] == "6"
    few = page.find_extremes(tmp_path, rows[:3], better, picture)["a/b"]
    assert [len(few["best"]), len(few["worst"])] == [2, 1]                   # no picture twice
    same = page.find_extremes(tmp_path, rows[:4].assign(value=1.0), better, picture)["a/b"]
    assert [own["name"] for own in same["best"]] == ["0", "1"]


# ----------------------------------------------------------------------------------- a browser

@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser):
    """A tab without a network; the test fails where anything is said in its console."""
    context, said = browser.new_context(offline=True), []
    opened = context.new_page()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("requestfailed", lambda request: said.append(request.url))
    yield opened
    context.close()
    assert not said


def order(tab):
    return tab.eval_on_selector_all("tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.picture)")


def test_the_page_in_a_browser(toy, tab):
    folder = measure(toy, "--operations=iia,gradcam")
    explain(toy, "--operations=iia,gradcam")
    explain(toy, "--operations=iia-ablation-ac", "--max_images=1")
    tab.goto(Path("qualitive_results/index.html").resolve().as_uri())
    assert order(tab) == ["chelsea.png", "coffee.png", "rocket.jpg"]
    drawn = tab.eval_on_selector_all(".tile img", "all => all.map(one => one.complete && one.naturalWidth)")
    assert drawn[0] == drawn[1] == 32

    strength = tab.locator("header .strength")
    opacity = "getComputedStyle(document.querySelector('.map')).opacity"
    assert tab.evaluate(opacity) == "0.5"
    strength.fill("20")
    assert tab.evaluate(opacity) == "0.2"
    strength.press("ArrowRight")
    assert tab.evaluate(opacity) == "0.21"

    tab.get_by_label("Filter").fill("Class 5")
    assert order(tab) == ["coffee.png"] and tab.locator("#count").inner_text() == "1 of 3 rows"
    tab.get_by_label("Filter").fill("")

    tab.get_by_label("Sort by").select_option("class")
    assert order(tab) == ["rocket.jpg", "chelsea.png", "coffee.png"]
    rows = pd.read_csv(folder / "per_image.csv")
    for operation in ("iia", "gradcam"):
        tab.get_by_label("Sort by").select_option("POS")
        tab.locator("#operation").select_option(operation)
        values = rows[rows["operation"] == operation].set_index("id")["POS"]
        assert list(values[order(tab)]) == sorted(values)
        tab.get_by_label("reversed").check()
        assert list(values[order(tab)]) == sorted(values, reverse=True)
        tab.get_by_label("reversed").uncheck()
    assert f"POS {float(f'{values.min():.4g}'):g}" in tab.locator("td small").all_inner_texts()

    dialog, tile = tab.get_by_role("dialog"), tab.get_by_role("button", name="iia for class 5 in coffee.png")
    tile.click()
    assert dialog.is_visible() and dialog.locator("img").count() == 2
    assert dialog.locator("p").inner_text() == "iia for class 5 in coffee.png"
    dialog.get_by_label("Overlay").fill("70")
    assert tab.evaluate(opacity) == "0.7" and strength.input_value() == "70"
    dialog.get_by_role("button").focus()
    tab.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text() == "coffee.png"
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    tile.focus()
    tab.keyboard.press("Enter")
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_odd_names_in_a_browser(tmp_path, tab):
    odd = '<script>alert("1")</script>#%?.png'
    add(tmp_path, odd, **{"class": '<img src=x onerror="alert(2)">'})
    tab.goto((tmp_path / "index.html").as_uri())
    tab.locator("td .tile").click()
    assert odd in tab.locator("dialog p").inner_text() and odd in tab.locator("th b").inner_text()


@pytest.mark.parametrize("scheme, light", [("light", True), ("dark", False)])
def test_light_and_dark(scheme, light, tmp_path, tab):
    add(tmp_path)
    tab.emulate_media(color_scheme=scheme)
    tab.goto((tmp_path / "index.html").as_uri())
    red = tab.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0]
    assert (int(red) > 128) == light
    head = tab.locator("thead th").first
    tab.set_viewport_size({"width": 400, "height": 200})
    tab.mouse.wheel(0, 150)
    tab.wait_for_function("scrollY > 20")
    below = tab.locator("header").bounding_box()["height"]
    assert head.bounding_box()["y"] >= below - 1                            # both have stayed


def test_the_page_of_a_run_in_a_browser(toy, tab):
    folder = measure(toy, "--operations=random,iia")
    tab.goto((folder / "index.html").resolve().as_uri())
    tab.get_by_role("button").nth(0).click()
    assert tab.get_by_role("dialog").locator("img").count() == 2                # noise is shown, too
    tab.keyboard.press("Escape")
    tab.get_by_text("Settings and versions").click()
    assert tab.get_by_text("INTERPOLATION_STEPS").is_visible()
