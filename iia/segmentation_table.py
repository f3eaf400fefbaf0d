"""Explains a network's predictions on a segmentation data set, and writes a table of how well the maps
segment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import page, plots, run_pages
from .choosing import explain_options
from .datasets.coco import Coco
from .datasets.imagenet_segmentation import ImageNetSegmentation
from .datasets.segmentation import SegmentationDataset
from .datasets.voc import Voc
from .datasets.wordnet import has_imagenet_classes
from .errors import check_choice
from .evaluation import segmentation
from .evaluation.batches import Batch
from .evaluation.identity import file_signatures
from .evaluation.rows import Metrics, Row, by_operation, mean_distances
from .evaluation.runner import begin, exit_code
from .explaining import explain_and_measure, predict, sharing
from .maps import is_degenerate, safe
from .run_pages import PERCENT
from .settings import Settings

DATASETS = {dataset.name: dataset for dataset in (ImageNetSegmentation, Coco, Voc)}


def table(model, settings: Settings, dataset: str) -> int:
    """Make the table as `tested` does. Returns 1 when a picture had to be skipped, else 0."""
    return exit_code(tested(model, settings, dataset))


def tested(model, settings: Settings, dataset: str) -> dict | None:
    """Explain the class that `model` predicts for each picture, and score the maps against its mask.

    Prints the table, and writes per_image.csv, summary.json, a page (index.html) and the panels that
    `settings.save_overlays` asks for to {results_dir}/{dataset}_{model}_{cut}_{definition}_{hash}/.

    Returns what `Run.write` does; None where another process makes the table.

    Raises:
        UserError: a setting is wrong, or no picture can be used.
    """
    options = explain_options(model, settings)
    data = open_dataset(dataset, settings.dataset_root, model, settings.definition)
    columns = segmentation.COLUMNS | {"right": int, "distance": float}
    run = begin(model, settings, data, dataset, columns, options["steps"],
                files=file_signatures(data.sources), imagenet=has_imagenet_classes(model))
    panels = {index: run.folder / "overlays" / f"{safe(data.ids[index])}.png"
              for index in range(min(settings.save_overlays, len(run.batches.ids)))}
    run.forget(index for index, panel in panels.items() if not panel.exists())  # explained once more for it
    rows = run.complete(lambda batch: score(model, batch, run.operations, options, data, panels),
                        f"{dataset}, {model.label}", headline)
    if rows is None:
        return None
    parts = by_operation(rows, run.operations)
    summary = run.write(rows, metrics(rows, run.operations), distance=mean_distances(parts),
                        **{"by prediction": {"right": of_prediction(rows, 1, run.operations),
                                             "wrong": of_prediction(rows, 0, run.operations)}},
                        intervals={name: segmentation.metric_intervals(part) for name, part in parts.items()})
    report(summary, model)
    title = f"{dataset}, {model.label}, layer {summary['identity']['layer']}"
    run_pages.of_segmentation(run.folder, title, rows, summary, data)
    return summary


def open_dataset(name: str, root: str | None, model, definition: str) -> SegmentationDataset:
    """The data set, its pictures as `model` reads them; COCO's under "release" as the release feeds them.

    Raises:
        UserError: no such data set, or it is not in `root` (None = its usual place).
    """
    dataset = DATASETS[check_choice("data set", name, DATASETS)]
    # the release forgets to normalise them (METHOD.md, section 9)
    raw = dataset is Coco and definition == "release"
    mean, std = ((0.0,) * model.channels, (1.0,) * model.channels) if raw else (model.mean, model.std)
    return dataset(root, mean, std, model.size)


def score(model, batch: Batch, operations: Sequence[str], options: dict, data: SegmentationDataset,
          panels: dict[int, Path]) -> list[Row]:
    """A row of numbers for each picture of the batch and each operation; its pictures' `panels` are written,
    too. `options`: of `explain`."""
    pictures, masks = batch.fields
    x = pictures.to(model.device)
    device = "cpu" if model.device.type == "mps" else model.device       # Apple's GPUs have no float64
    masks, classes = masks.to(device), predict(model, x)
    with sharing(model, x):
        explained = {name: explain_and_measure(model, x, classes, name, **options) for name in operations}
    right = [is_right(model, label, data.classes_of(index))
             for label, index in zip(classes.tolist(), batch.indices)]
    rows, maps = [], {}
    for name, (values, distances) in explained.items():
        maps[name] = values.to(device)
        rows += batch.rows(name, {"degenerate": is_degenerate(values).int(),
                                  **segmentation.measure(maps[name], masks), "right": right,
                                  "distance": distances})
    for place, index in enumerate(batch.indices):
        if index in panels:
            number = int(classes[place])
            title = (f"{model.class_name(number)} ({f'{number}, ' * bool(model.labels)}predicted) · "
                     f"{model.label} · {data.name} {batch.ids[place]}")
            heatmaps = {name: values[place].cpu() for name, values in maps.items()}
            save_panel(panels[index], title, plots.rgb(data.pixels(pictures[place])), masks[place].cpu(),
                       heatmaps)
            for name, heatmap in heatmaps.items():
                path = page.run_map(panels[index].parents[1], index, name)
                page.save_map(path, heatmap.float().numpy())
    return rows


def is_right(model, predicted: int, classes: set[int] | None) -> int | None:
    """1 where the predicted class is one of the picture's, else 0; None where the picture's are not known, or
    the network has other classes than ImageNet's."""
    return None if classes is None or not has_imagenet_classes(model) else int(predicted in classes)


def headline(rows: pd.DataFrame) -> dict[str, float]:
    """What the progress bar shows of an operation, in percent."""
    values = segmentation.metrics(rows)
    return {name: PERCENT * values[name] for name in ("mIoU", "mAP")}


def of_prediction(rows: pd.DataFrame, right: int, operations: Sequence[str]) -> dict:
    """How many pictures the network has right (1) or wrong (0), and their metrics."""
    rows = rows[rows["right"] == right]
    return {"pictures": rows["index"].nunique(), "figures": metrics(rows, operations)}


def metrics(rows: pd.DataFrame, operations: Sequence[str]) -> Metrics:
    """The metrics of each operation."""
    return {name: segmentation.metrics(part) for name, part in by_operation(rows, operations).items()}


def save_panel(path: Path, title: str, pixels: np.ndarray, mask: torch.Tensor,
               maps: dict[str, torch.Tensor]) -> None:
    """Write a panel: a row of the picture and its maps; under it the mask and what each map calls the
    object."""
    tiles = {"picture": pixels}
    tiles |= {name: plots.overlay(pixels, heatmap.float().numpy()) for name, heatmap in maps.items()}
    tiles |= {"mask": dim_background(pixels, mask)}
    tiles |= {f"{name} > its mean": dim_background(pixels, segmentation.foreground(heatmap))
              for name, heatmap in maps.items()}
    plots.save_panel(path, title, tiles)


def dim_background(pixels: np.ndarray, mask: torch.Tensor) -> np.ndarray:
    """A picture [H, W, 3] that stays bright where the object is [H, W]."""
    return pixels * np.where(mask.numpy(), 1, 0.25)[..., None]


def report(summary: dict, model) -> None:
    """Print the table, in percent, and what is not in it."""
    print(f"{summary['pictures']} pictures, explained with {model.label}; in percent:")
    distances = summary["distance"]                                          # of the maps from their limit
    print_metrics({name: values | ({"distance": distances[name]} if name in distances else {})
                   for name, values in summary["figures"].items()})
    for prediction, part in summary["by prediction"].items():
        if part["pictures"]:
            print(f"the {part['pictures']} pictures whose prediction is {prediction}:")
            print_metrics(part["figures"])
    for operation, count in summary["degenerate"].items():
        if count:
            print(f"{count} maps of {operation} are degenerate (constant or not finite); they count as zeros")
    if summary["skipped"]["count"]:
        print(f"{summary['skipped']['count']} pictures skipped; summary.json names them")
    print(f"per_image.csv and summary.json are in {summary['folder']}/")


def print_metrics(figures: Metrics) -> None:
    table = pd.DataFrame(figures).T.mul(PERCENT).rename_axis(columns="operation")
    print(table.to_string(float_format="%.2f", col_space=8, na_rep=""))
