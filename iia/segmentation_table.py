"""Explains a network's predictions on a segmentation data set, and writes a table of how well the maps
segment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import page, plots, run_pages
from .choosing import at_least, explain_options
from .datasets.coco import Coco
from .datasets.imagenet_segmentation import ImageNetSegmentation
from .datasets.segmentation import SegmentationDataset
from .datasets.voc import Voc
from .datasets.wordnet import has_imagenet_classes
from .errors import check_choice
from .evaluation import segmentation
from .evaluation.batches import Batch
from .evaluation.identity import file_signatures, identity
from .evaluation.rows import Metrics, Row, by_operation, in_words, mean_distances
from .evaluation.runner import Run, exit_code
from .explaining import explain_and_measure, predict, sharing
from .maps import is_degenerate, safe
from .run_pages import PERCENT
from .runs import computing, pick_device
from .settings import Settings

DATASETS = {kind.name: kind for kind in (ImageNetSegmentation, Coco, Voc)}


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
    at_least(settings, num_workers=0, save_overlays=0)
    names, cut = list(dict.fromkeys(settings.operations)), model.cut(options["layer"])
    data = open_dataset(dataset, settings.dataset_root, model, settings.definition)
    folder = Path(settings.results_dir) / f"{dataset}_{model.name}_{cut}_{settings.definition}"
    model.to(pick_device(settings.device))
    together = max(1, settings.batch_size // options["steps"])     # so that their path points fill a batch
    run = Run(data, folder, names, segmentation.COLUMNS | {"right": int, "distance": float}, together,
              settings.max_images, settings.num_workers)
    run.begin(identity(model, settings, cut, files=file_signatures(data.sources),
                       imagenet=has_imagenet_classes(model)), settings.values())
    panels = {index: run.folder / "overlays" / f"{safe(data.ids[index])}.png"
              for index in range(min(settings.save_overlays, len(run.batches.ids)))}
    run.forget(index for index, panel in panels.items() if not panel.exists())  # explained once more for it
    with computing():
        for batch in run.todo(f"{dataset}, {model.label}",
                              lambda rows: in_words(metrics(rows, names), ("mIoU", "mAP"), PERCENT)):
            run.save(batch, score(model, batch, names, options, data, panels))
    rows = run.table()
    if rows is None:
        return None
    split = {name: rows[rows["right"] == value] for name, value in (("right", 1), ("wrong", 0))}
    split = {name: {"pictures": own["index"].nunique(), "figures": metrics(own, names)}
             for name, own in split.items()}
    summary = run.write(rows, metrics(rows, names), distance=mean_distances(rows, names),
                        **{"by prediction": split},
                        intervals={name: segmentation.metric_intervals(own)
                                   for name, own in by_operation(rows, names).items()})
    report(summary, model, run.folder)
    run_pages.of_segmentation(run.folder, f"{dataset}, {model.label}, layer {cut}", rows, summary, data)
    return summary


def open_dataset(name: str, root: str | None, model, definition: str) -> SegmentationDataset:
    """The data set, its pictures as `model` reads them; COCO's under "release" as the release feeds them.

    Raises:
        UserError: no such data set, or it is not in `root` (None = its usual place).
    """
    kind = DATASETS[check_choice("data set", name, DATASETS)]
    # the release forgets to normalise them (METHOD.md, section 9)
    raw = kind is Coco and definition == "release"
    mean, std = ((0.0,) * model.channels, (1.0,) * model.channels) if raw else (model.mean, model.std)
    return kind(root, mean, std, model.size)


def score(model, batch: Batch, operations: Sequence[str], options: dict, data: SegmentationDataset,
          panels: dict[int, Path]) -> list[Row]:
    """A row of numbers for each picture of the batch and each operation; its pictures' `panels` are written,
    too. `options`: of `explain`."""
    pictures, masks = batch.fields
    x = pictures.to(model.device)
    where = "cpu" if model.device.type == "mps" else model.device       # Apple's GPUs have no float64
    masks, classes = masks.to(where), predict(model, x)
    with sharing(model, x):
        both = {name: explain_and_measure(model, x, classes, name, **options) for name in operations}
    maps = {name: found.to(where) for name, (found, _) in both.items()}
    right = [is_right(model, label, data.classes_of(index))
             for label, index in zip(classes.tolist(), batch.indices)]
    rows = []
    for operation, found in maps.items():
        numbers = {"degenerate": is_degenerate(found).int(), **segmentation.measure(found, masks)}
        numbers = {name: values.tolist() for name, values in numbers.items()} | {"right": right}
        numbers["distance"] = both[operation][1].tolist()
        rows += [{"index": index, "operation": operation} | {name: own[i] for name, own in numbers.items()}
                 for i, index in enumerate(batch.indices)]
    for i, index in enumerate(batch.indices):
        if index in panels:
            name = model.class_name(int(classes[i]))
            number = f"{int(classes[i])}, " if model.labels else ""
            title = f"{name} ({number}predicted) · {model.label} · {data.name} {batch.ids[i]}"
            save_panel(panels[index], title, plots.rgb(data.pixels(pictures[i])), masks[i],
                       {operation: found[i] for operation, found in maps.items()})
            for operation, found in maps.items():
                path = page.run_map(panels[index].parents[1], index, operation)
                page.save_map(path, found[i].float().cpu().numpy())
    return rows


def is_right(model, predicted: int, classes: set[int] | None) -> int | None:
    """1 where the predicted class is one of the picture's, else 0; None where the picture's are not known, or
    the network has other classes than ImageNet's."""
    return None if classes is None or not has_imagenet_classes(model) else int(predicted in classes)


def metrics(rows: pd.DataFrame, operations: Sequence[str]) -> Metrics:
    """The metrics of each operation."""
    return {name: segmentation.metrics(own) for name, own in by_operation(rows, operations).items()}


def save_panel(path: Path, title: str, pixels: np.ndarray, mask: torch.Tensor,
               maps: dict[str, torch.Tensor]) -> None:
    """A row of the picture and its maps; under it the mask and what each map calls the object."""
    tiles = {"picture": pixels}
    tiles |= {name: plots.overlay(pixels, found.float().cpu().numpy()) for name, found in maps.items()}
    tiles |= {"mask": dim_background(pixels, mask)}
    tiles |= {f"{name} > its mean": dim_background(pixels, segmentation.foreground(found[None])[0])
              for name, found in maps.items()}
    plots.save_panel(path, title, tiles)


def dim_background(pixels: np.ndarray, where: torch.Tensor) -> np.ndarray:
    """A picture [H, W, 3] that stays bright where the object is [H, W]."""
    return pixels * np.where(where.cpu().numpy(), 1, 0.25)[..., None]


def report(summary: dict, model, folder: Path) -> None:
    """Print the table, in percent, and what is not in it."""
    print(f"{summary['pictures']} pictures, explained with {model.label}; in percent:")
    away = {name: {"distance": own} for name, own in summary["distance"].items()}    # of a map from its limit
    print_metrics({name: own | away.get(name, {}) for name, own in summary["figures"].items()})
    for name, own in summary["by prediction"].items():
        if own["pictures"]:
            print(f"the {own['pictures']} pictures whose prediction is {name}:")
            print_metrics(own["figures"])
    for operation, count in summary["degenerate"].items():
        if count:
            print(f"{count} maps of {operation} are degenerate (constant or not finite); they count as zeros")
    if summary["skipped"]["count"]:
        print(f"{summary['skipped']['count']} pictures skipped; summary.json names them")
    print(f"per_image.csv and summary.json are in {folder}/")


def print_metrics(figures: Metrics) -> None:
    table = pd.DataFrame(figures).T.mul(PERCENT).rename_axis(columns="operation")
    print(table.to_string(float_format="%.2f", col_space=8, na_rep=""))
