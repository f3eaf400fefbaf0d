"""Draws overlays, panels and curves."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .runs import whole_file

CELL = 2.3          # inches, the side of a picture in a panel
COLUMNS = 5         # at most, in a row
OVERLAY = 0.5       # the share of the colours in an overlay


def rgb(picture: Tensor) -> np.ndarray:
    """A raw picture [C, H, W] (grey, RGB or RGBA) as it is looked at, [H, W, 3]."""
    return picture[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()


def overlay(picture: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Jet colours over the picture, red = relevant: [H, W, 3] and [H, W] in [0, 1] -> [H, W, 3]."""
    colours = matplotlib.colormaps["jet"](heatmap)[..., :3]
    return (1 - OVERLAY) * picture + OVERLAY * colours


def save_picture(path: str | Path, pixels: np.ndarray) -> None:
    """Write a picture [H, W, 3] in [0, 1]."""
    with whole_file(path) as temporary:
        Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(temporary)


def save_panel(path: str | Path, title: str, tiles: Mapping[str, np.ndarray],
               below: Mapping[str, str] | None = None) -> None:
    """Write a panel: pictures [H, W, 3] in [0, 1] in rows, each under its name and above what is said `below`
    it, all under the title."""
    rows = math.ceil(len(tiles) / COLUMNS)
    columns = math.ceil(len(tiles) / rows)                # rows of even length
    title = textwrap.fill(title, max(24, 26 * columns))
    figure = Figure(figsize=(CELL * columns, (CELL + 0.25) * rows + 0.22 * (title.count("\n") + 1)), dpi=110,
                    layout="compressed")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for place, (name, pixels) in zip(axes, tiles.items()):
        place.imshow(pixels.clip(0, 1))
        place.set_title(name, fontsize=10)
        place.text(0.5, -0.02, (below or {}).get(name, ""), fontsize=8, ha="center", va="top",
                   transform=place.transAxes)
    for place in figure.axes:
        place.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def save_curves(path: str | Path, title: str, axes: Mapping[str, np.ndarray],
                curves: Mapping[str, Mapping[str, Sequence[float]]],
                labels: Mapping[str, tuple[str, str]], ticks: Sequence[str] = ()) -> None:
    """Write the curves of several operations, a plot for each metric.

    An operation keeps its colour under all definitions ("iia", "iia@release"), whose lines are dotted.

    Args:
        axes: {metric: where its points lie}. curves: {operation: {metric: its points}}.
        labels: {metric: what its x and y say}. ticks: names of x = 0, 1, ..., instead of numbers.
    """
    names = [name for name in axes if any(name in own for own in curves.values())]
    rows, columns = math.ceil(len(names) / 4), min(len(names), 4)
    methods = list(dict.fromkeys(operation.partition("@")[0] for operation in curves))
    figure = Figure(figsize=(3.4 * columns + 2.2, 3.1 * rows + 0.4), dpi=110, layout="constrained")
    for place, name in enumerate(names, 1):
        plot = figure.add_subplot(rows, columns, place)
        for operation, own in curves.items():
            method, _, definition = operation.partition("@")
            number = methods.index(method)
            if name in own:
                plot.plot(axes[name], own[name], ":" if definition else ("-", "--", "-.")[number // 10 % 3],
                          color="silver" if method == "random" else f"C{number % 10}", label=operation)
        lowest = min(0, *(point for own in curves.values() for point in own.get(name, ())))
        plot.set(title=name, xlabel=labels[name][0], ylabel=labels[name][1], ylim=(lowest, None),
                 xlim=(0, axes[name][-1]))
        if ticks:
            plot.set_xticks(range(len(ticks)), ticks, rotation=90)
        plot.grid(alpha=0.3)
    handles = {line.get_label(): line for plot in figure.axes for line in plot.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary)
