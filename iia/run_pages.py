"""The page of a run that evaluates.

    index.html                       the run's table, its curves, each operation's best and worst pictures
    page/{index}.jpg                 a picture
        /{index}_{hash}.png          its map under the operation of that hash
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from . import plots
from .datasets.pics import PicsDataset
from .datasets.pictures import denormalise
from .datasets.segmentation import SegmentationDataset
from .errors import UserError
from .evaluation import segmentation
from .evaluation.comparison import cell
from .evaluation.protocols import Metric
from .evaluation.rows import measured
from .page import PARTS, read_remark, run_map, save_jpeg, save_map, write_page

PERCENT = 100
SHOWN = 4               # pictures of an operation among the best, and among the worst


def of_explanation_tests(folder: Path, title: str, rows: pd.DataFrame, summary: dict,
                         figures: Mapping[str, Metric], model, pics: PicsDataset,
                         heatmap: Callable[[int, str], np.ndarray | None]) -> None:
    """Write the page, with the best and worst pictures by INS, else by NEG, else by the first metric."""
    metric = next(name for name in ("INS", "NEG", *figures) if name in figures)
    table = [["operation", *(f"{name} {figure.arrow}" for name, figure in figures.items())]]
    table += [[operation, *("\n".join(cell(summary, operation, *item)) for item in figures.items())]
              for operation in summary["figures"]]
    picture = lambda index: plots.rgb(denormalise(pics[index][0], model.mean, model.std))
    rows = rows.assign(value=rows[metric])
    extremes = find_extremes(folder, rows, figures[metric].better, picture, heatmap)
    subtitle = (f"{in_short(summary)}. * is the best, = not significantly different "
                f"from it at {PERCENT * summary['confidence']:.0f} %; [ , ] the interval of the mean.")
    write_run(folder, title, subtitle, table, summary, metric, extremes)


def in_short(summary: dict) -> str:
    """What the explanation tests say besides their table."""
    skipped, degenerate = summary["skipped"]["count"], sum(summary["degenerate"].values())
    return (f"{summary['pictures']} pictures, base accuracy {PERCENT * summary['base accuracy']:.1f} %, "
            f"{skipped} skipped, {degenerate} degenerate maps")


def of_segmentation(folder: Path, title: str, rows: pd.DataFrame, summary: dict,
                    data: SegmentationDataset) -> None:
    """Write the page, with the best and worst pictures by F1."""
    rows, figures = measured(rows), summary["figures"]
    table = [["operation", *next(iter(figures.values()))]]
    table += [[operation, *(f"{PERCENT * value:.2f}" for value in values.values())]
              for operation, values in figures.items()]
    extremes = find_extremes(folder, rows.assign(value=segmentation.picture_f1(rows)), "higher",
                             lambda index: plots.rgb(data.pixels(data[index][0])))
    subtitle = (f"{summary['pictures']} pictures, in percent; {summary['skipped']['count']} skipped, "
                f"{sum(summary['degenerate'].values())} degenerate maps")
    write_run(folder, title, subtitle, table, summary, "F1", extremes)


def write_run(folder: Path, title: str, subtitle: str, table: list[list[str]], summary: dict, metric: str,
              extremes: dict) -> None:
    """Write index.html.

    Args:
        table: its lines, the head first. summary: as `Run.write` returns it.
        metric: the name of the figure by which `find_extremes` found the extremes.
    """
    write_page(folder / "index.html", "run.html", title=title, subtitle=subtitle, table=table, metric=metric,
               settings=summary["settings"] | summary["versions"], size=summary["identity"]["picture size"],
               extremes=extremes, curves=(folder / "curves.png").exists())


def find_extremes(folder: Path, rows: pd.DataFrame, better: str, picture: Callable[[int], np.ndarray],
                  heatmap: Callable[[int, str], np.ndarray | None] = lambda *_: None) -> dict:
    """The best and worst pictures of each operation, as the page in `folder` shows them.

    Args:
        rows: "index" and "id" of a picture, "operation", and the "value" to rank by. better: whether a
            "higher" or a "lower" value is.
        picture: index -> [H, W, 3] in [0, 1]; raises UserError where it cannot be read any more.
        heatmap: (index, operation) -> its map, [H, W] in [0, 1]; None where there is none.
    """
    def tile(row) -> dict:
        jpeg, png = folder / PARTS / f"{row.index}.jpg", run_map(folder, row.index, row.operation)
        with suppress(UserError):
            if not jpeg.exists():
                save_jpeg(jpeg, picture(row.index))
            if not png.exists() and (values := heatmap(row.index, row.operation)) is not None:
                save_map(png, values)
        files = [f"{PARTS}/{file.name}" if read_remark(file) is not None else "" for file in (jpeg, png)]
        return {"name": row.id, "value": f"{row.value:.4g}", "picture": files[0], "map": files[1]}

    extremes = {}
    rows = rows[["index", "id", "operation", "value"]].dropna()
    for operation, of_operation in rows.groupby("operation", sort=False):
        ranked = of_operation.sort_values(["value", "index"], ascending=[better == "lower", True])
        ranked = list(ranked.itertuples(index=False))
        half = min(SHOWN, (len(ranked) + 1) // 2)
        extremes[operation] = {"best": [tile(row) for row in ranked[:half]],
                               "worst": [tile(row) for row in ranked[half:][:-SHOWN - 1:-1]]}
    return extremes
