"""Overlays and panels: what a reader looks at."""

import math
import re
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


def safe(name: str) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "_"


def overlay(picture: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Jet colours over the picture, red = relevant: [H, W, 3] and [H, W] in [0, 1] -> [H, W, 3]."""
    colours = matplotlib.colormaps["jet"](heatmap)[..., :3]
    return (1 - OVERLAY) * picture + OVERLAY * colours


def save_mask(path: str | Path, picture: np.ndarray, heatmap: np.ndarray) -> None:
    """Write picture x map: what is relevant stays lit."""
    save_picture(path, picture * heatmap[..., None])


def save_picture(path: str | Path, pixels: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(temporary)


def save_panel(path: str | Path, title: str, tiles: Mapping[str, np.ndarray]) -> None:
    """Write a panel: pictures [H, W, 3] in [0, 1] in rows, each under its name, all under the title."""
    columns = min(len(tiles), COLUMNS)
    rows = math.ceil(len(tiles) / columns)
    columns = math.ceil(len(tiles) / rows)                # rows of even length
    name_lines = max(name.count("\n") + 1 for name in tiles)
    title = "\n".join(textwrap.wrap(title, width=max(24, 26 * columns)))
    head, name_height = 0.24 * (title.count("\n") + 1) + 0.06, 0.17 * name_lines + 0.08      # inches
    width, height = columns * (CELL + 0.08) + 0.08, head + rows * (CELL + name_height) + 0.08
    figure = Figure(figsize=(width, height), dpi=110)
    figure.text(0.5, 1 - 0.06 / height, title, ha="center", va="top", fontsize=12)
    for place, (name, pixels) in enumerate(tiles.items()):
        row, column = divmod(place, columns)
        left = (0.08 + column * (CELL + 0.08)) / width
        bottom = 1 - (head + (row + 1) * (CELL + name_height)) / height
        axes = figure.add_axes((left, bottom, CELL / width, CELL / height))
        axes.imshow(pixels.clip(0, 1))
        axes.set_axis_off()
        axes.set_title(name, fontsize=10, pad=3)
    with whole_file(path) as temporary:
        figure.savefig(temporary)


def save_curves(path: str | Path, title: str, axes: Mapping[str, np.ndarray],
                curves: Mapping[str, Mapping[str, Sequence[float]]], labels: Mapping[str, tuple[str, str]]) -> None:
    """Write the curves of several operations, a plot for each figure.

    Args:
        axes: {figure: where its points lie}. curves: {operation: {figure: its points}}.
        labels: {figure: what its x and y say}.
    """
    names = [name for name in axes if any(name in own for own in curves.values())]
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns + 2.2, 3.1 * rows + 0.4), dpi=110, layout="constrained")
    methods = list(dict.fromkeys(operation.partition("@")[0] for operation in curves))      # one colour under all definitions
    colours = {method: f"C{number % 10}" for number, method in enumerate(methods)} | {"random": "silver"}
    lines = {operation: ":" if "@" in operation else ("-", "--", "-.")[methods.index(operation) // 10 % 3] for operation in curves}
    plots = figure.subplots(rows, columns, squeeze=False).flat
    for name, plot in zip(names, plots):
        for operation, own in curves.items():
            if name in own:
                plot.plot(axes[name], own[name], lines[operation], label=operation, linewidth=1.5,
                          color=colours[operation.partition("@")[0]])
        plot.set(title=name, xlabel=labels[name][0], ylabel=labels[name][1], ylim=(0, None), xlim=(0, axes[name][-1]))
        plot.grid(alpha=0.3)
    for plot in list(plots):
        plot.set_axis_off()                                  # the last row may not be full
    handles = {line.get_label(): line for plot in figure.axes for line in plot.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary)
