"""How a browser shows the pages."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from .pages import add, explain, measure


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
