"""The pages of runs that evaluate: what `page` needs to know of each."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from . import page, plots
from .datasets.pics import PicsDataset
from .datasets.pictures import denormalise
from .datasets.segmentation import SegmentationDataset
from .evaluation import segmentation
from .evaluation.comparison import cell
from .evaluation.protocols import Metric
from .evaluation.rows import measured

PERCENT = 100


def of_explanation_tests(folder: Path, title: str, rows: pd.DataFrame, summary: dict,
                         figures: Mapping[str, Metric], model, pics: PicsDataset,
                         heatmap: Callable[[int, str], np.ndarray | None]) -> None:
    """Write the page, with the best and worst pictures by INS, else NEG, else the first metric."""
    metric = next(name for name in ("INS", "NEG", *figures) if name in figures)
    table = [["operation", *(f"{name} {own.arrow}" for name, own in figures.items())]]
    table += [[operation, *("\n".join(cell(summary, operation, name, own)) for name, own in figures.items())]
              for operation in summary["figures"]]
    picture = lambda index: plots.rgb(denormalise(pics[index][0], model.mean, model.std))
    extremes = page.find_extremes(folder, rows.assign(value=rows[metric]), figures[metric].better, picture,
                                  heatmap)
    said = (f"{in_short(summary)}. * is the best, = not significantly different "
            f"from it at {PERCENT * summary['confidence']:.0f} %; [ , ] the interval of the mean.")
    page.write_run(folder, title, said, table, summary, metric, extremes)


def in_short(summary: dict) -> str:
    """What there is to know of the explanation tests beside their table."""
    skipped, degenerate = summary["skipped"]["count"], sum(summary["degenerate"].values())
    return (f"{summary['pictures']} pictures, base accuracy {PERCENT * summary['base accuracy']:.1f} %, "
            f"{skipped} skipped, {degenerate} degenerate maps")


def of_segmentation(folder: Path, title: str, rows: pd.DataFrame, summary: dict,
                    data: SegmentationDataset) -> None:
    """Write the page, with the best and worst pictures by F1."""
    rows, metrics = measured(rows), summary["figures"]
    names = list(next(iter(metrics.values())))
    table = [["operation", *names]]
    table += [[operation, *(f"{PERCENT * own[name]:.2f}" for name in names)]
              for operation, own in metrics.items()]
    extremes = page.find_extremes(folder, rows.assign(value=segmentation.picture_f1(rows)), "higher",
                                  lambda index: plots.rgb(data.pixels(data[index][0])))
    said = (f"{summary['pictures']} pictures, in percent; {summary['skipped']['count']} skipped, "
            f"{sum(summary['degenerate'].values())} degenerate maps")
    page.write_run(folder, title, said, table, summary, "F1", extremes)
