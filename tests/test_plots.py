"""Overlays, panels and curves: what is drawn."""

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from iia import plots
from iia.maps import safe


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures, save = [], matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig",
                        lambda self, *args, **more: figures.append(self) or save(self, *args, **more))
    return figures


def test_what_is_relevant_is_red_and_what_is_not_is_blue():
    heatmap = np.array([[0, 0.5, 1]])
    low, middle, high = plots.overlay(np.full((1, 3, 3), 0.5), heatmap)[0]
    assert high.argmax() == 0 and low.argmax() == 2 and middle.argmax() == 1
    picture, hot = np.random.default_rng(0).random((4, 5, 3)), np.full((4, 5), 1.0)
    same = plots.overlay(picture, hot) - plots.overlay(np.zeros((4, 5, 3)), hot)
    np.testing.assert_allclose(same, 0.5 * picture)                                # half of it is the picture


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (3, (1, 3)), (5, (1, 5)), (6, (2, 3)), (7, (2, 4)),
                                          (16, (4, 4))])
def test_a_panel_has_its_title_and_a_name_over_every_tile(count, shape, tmp_path, drawn):
    tiles = {f"tile {k}": np.full((8, 8, 3), k / 20) for k in range(count)}
    below = {f"tile {k}": f"said of {k}" for k in range(1, count)}                      # the first has none
    plots.save_panel(tmp_path / "panel.png", "cat (3) · network · cat.png", tiles, below)
    figure, = drawn
    shown = [place for place in figure.axes if place.images]
    assert " ".join(figure.get_suptitle().split()) == "cat (3) · network · cat.png"
    assert [place.get_title() for place in shown] == list(tiles)
    assert [place.texts[0].get_text() for place in shown] == ["", *below.values()]
    for place, pixels in zip(shown, tiles.values()):
        np.testing.assert_array_equal(place.images[0].get_array(), pixels)
    assert figure.axes[0].get_subplotspec().get_geometry()[:2] == shape
    assert not any(place.axison for place in figure.axes)                # no frame round an empty place
    assert min(Image.open(tmp_path / "panel.png").size) > 200


def test_a_picture_is_written_as_it_is(tmp_path):
    pixels = np.array([[[0, 0.5, 1], [2, -1, 0.2]]])
    plots.save_picture(tmp_path / "a.png", pixels)
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[[0, 128, 255], [255, 0, 51]]]


def test_curves_keep_an_operations_colour_under_both_definitions(tmp_path, drawn):
    axes = {"POS": np.array([0, 10, 20]), "NEG": np.array([0, 10, 20])}
    curves = {"random": {"POS": [1, 0.5, 0.2], "NEG": [1, 1, 1]}, "iia": {"POS": [1, 0.3, 0.1]},
              "iia@release": {"POS": [1, 0.4, 0.1], "NEG": [1, 0.9, 0.8]}}
    labels = {"POS": ("share", "top-1"), "NEG": ("steps", "softmax")}
    plots.save_curves(tmp_path / "curves.png", "a network", axes, curves, labels)
    figure, = drawn
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("POS", "NEG")
    assert [(plot.get_xlabel(), plot.get_ylabel()) for plot in (first, second)] == list(labels.values())
    assert first.get_ylim()[0] == 0
    lines = {line.get_label(): line for line in first.get_lines()}
    assert list(lines) == list(curves)
    assert [line.get_label() for line in second.get_lines()] == ["random", "iia@release"]
    assert lines["iia"].get_color() == lines["iia@release"].get_color() != lines["random"].get_color()
    assert (lines["iia"].get_linestyle(), lines["iia@release"].get_linestyle()) == ("-", ":")
    assert lines["iia"].get_xydata().tolist() == [[0, 1], [10, 0.3], [20, 0.1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)


@pytest.mark.parametrize("name, wanted", [("Egyptian cat", "Egyptian_cat"), ("a/b: c", "a_b_c"), ("..", ".."),
                                          ("/", "_"), ("", "_"), ("läufer", "läufer")])
def test_names_as_parts_of_file_names(name, wanted):
    assert safe(name) == wanted


def test_curves_over_named_steps_go_below_zero(tmp_path, drawn):
    points = {"a": {"spearman": [1, -0.4, float("nan")]}, "b": {"spearman": [1, 0.5, 0.2]}}
    plots.save_curves(tmp_path / "curves.png", "toy", {"spearman": np.arange(3)}, points,
                      {"spearman": ("down to", "rank correlation")}, ["original", "head", "conv1"])
    plot, = drawn[0].axes
    assert [text.get_text() for text in plot.get_xticklabels()] == ["original", "head", "conv1"]
    assert plot.get_ylim()[0] == -0.4 and plot.get_xlim() == (0, 2)
    np.testing.assert_array_equal(plot.get_lines()[0].get_ydata(), [1, -0.4, np.nan])
