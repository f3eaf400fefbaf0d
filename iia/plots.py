"""Draws overlays, panels and curves, and writes pictures."""

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
COLUMNS = 5         # of a panel, at most
OVERLAY = 0.5       # the share of the map's colours in an overlay


def rgb(picture: Tensor) -> np.ndarray:
    """A raw picture [C, H, W] (grey, RGB or RGBA) as it is shown, [H, W, 3]."""
    return picture[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()


def overlay(picture: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Jet colours over the picture, red = relevant: [H, W, 3] and [H, W] in [0, 1] -> [H, W, 3]."""
    colours = matplotlib.colormaps["jet"](heatmap)[..., :3]
    return (1 - OVERLAY) * picture + OVERLAY * colours


def save_picture(path: str | Path, pixels: np.ndarray, **options: object) -> None:
    """Write a picture [H, W, 3] in [0, 1]; the options are Pillow's."""
    with whole_file(path) as temporary:
        Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(temporary, **options)


def save_panel(path: str | Path, title: str, tiles: Mapping[str, np.ndarray],
               captions: Mapping[str, str] | None = None) -> None:
    """Write a panel of pictures [H, W, 3] in [0, 1], each with its name above and its caption below."""
    rows = math.ceil(len(tiles) / COLUMNS)
    columns = math.ceil(len(tiles) / rows)                # rows of even length
    title = textwrap.fill(title, max(24, 26 * columns))
    figure = Figure(figsize=(CELL * columns, (CELL + 0.25) * rows + 0.22 * (title.count("\n") + 1)), dpi=110,
                    layout="compressed")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for plot, (name, pixels) in zip(axes, tiles.items()):
        plot.imshow(pixels.clip(0, 1))
        plot.set_title(name, fontsize=10)
        plot.text(0.5, -0.02, (captions or {}).get(name, ""), fontsize=8, ha="center", va="top",
                  transform=plot.transAxes)
    for plot in figure.axes:
        plot.set_axis_off()
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def save_curves(path: str | Path, title: str, axes: Mapping[str, np.ndarray],
                curves: Mapping[str, Mapping[str, Sequence[float]]],
                labels: Mapping[str, tuple[str, str]], ticks: Sequence[str] = ()) -> None:
    """Write the curves of several operations, in a plot for each metric.

    An operation has one colour under all definitions; the line of one that is named, as in "iia@release", is
    dotted.

    Args:
        axes: {metric: x of its points}. curves: {operation: {metric: y of its points}}.
        labels: {metric: (label of x, label of y)}. ticks: names for x = 0, 1, ... instead of the numbers.
    """
    names = [name for name in axes if any(name in points for points in curves.values())]
    rows, columns = math.ceil(len(names) / 4), min(len(names), 4)
    methods = list(dict.fromkeys(operation.partition("@")[0] for operation in curves))
    figure = Figure(figsize=(3.4 * columns + 2.2, 3.1 * rows + 0.4), dpi=110, layout="constrained")
    for place, name in enumerate(names, 1):
        plot = figure.add_subplot(rows, columns, place)
        for operation, points in curves.items():
            method, _, definition = operation.partition("@")
            number = methods.index(method)
            if name in points:
                plot.plot(axes[name], points[name], label=operation,
                          linestyle=":" if definition else ("-", "--", "-.")[number // 10 % 3],
                          color="silver" if method == "random" else f"C{number % 10}")
        lowest = min(0, *(y for points in curves.values() for y in points.get(name, ())))
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
