"""Do maps point into the boxes of the objects? The pointing game and the energy inside, on VOC and COCO
(METHOD.md, section 8)."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from .choosing import explain_options
from .datasets.boxes import Box, CocoBoxes, VocBoxes
from .datasets.labels import IMAGENET
from .datasets.wordnet import has_imagenet_classes, imagenet_classes
from .errors import UserError, check_choice
from .evaluation import pointing
from .evaluation.batches import Batch
from .evaluation.bootstrap import draws, percentiles
from .evaluation.comparison import with_interval
from .evaluation.identity import file_signatures
from .evaluation.pointing import ANY, FIGURES
from .evaluation.rows import Metrics, Row, by_operation, means, measured
from .evaluation.runner import begin, exit_code
from .explaining import explain, sharing
from .maps import is_degenerate
from .settings import Settings

DATASETS = {dataset.name: dataset for dataset in (VocBoxes, CocoBoxes)}
CHANCE = "chance"               # the row of a maximum that falls on any pixel alike, and of a map of ones
COLUMNS = {"category": str, "explained": int, **dict.fromkeys(FIGURES, float)}
OVER = {"categories": "categories' mean", "pairs": "all pairs"}


def table(model, settings: Settings) -> int:
    """Make the table as `tested` does. Returns 1 when a picture was skipped, else 0."""
    return exit_code(tested(model, settings))


def tested(model, settings: Settings) -> dict | None:
    """Explain the categories that are in each picture, and look whether the maps point into their boxes.

    Prints the table, and writes per_image.csv and summary.json to
    {results_dir}/{dataset}_{model}_{cut}_{definition}_{hash}/.

    Returns what `Run.write` does; None where another process makes the table.

    Raises:
        UserError: a setting is wrong, the network has not ImageNet's classes, or no picture can be used.
    """
    options = explain_options(model, settings)
    dataset = DATASETS[check_choice("data set", settings.chosen_dataset, DATASETS)]
    if not has_imagenet_classes(model):
        raise UserError(f"{model.name} has {model.classes} classes of its own; {dataset.name}'s categories "
                        f"are recognised by ImageNet's {len(IMAGENET)}. Give a network that has those.")
    data = dataset(settings.dataset_root, model.mean, model.std, model.size)
    run = begin(model, settings, data, dataset.name, COLUMNS, options["steps"],
                files=file_signatures(data.sources))
    rows = run.complete(lambda batch: score(model, batch, run.operations, options, data),
                        f"{dataset.name}, {model.label}", partial(means, metrics=FIGURES))
    if rows is None:
        return None
    figures, more = summed(measured(rows), [*run.operations, CHANCE])
    summary = run.write(rows, figures, **more)
    report(summary, model.label)
    return summary


def score(model, batch: Batch, names: Sequence[str], options: dict, data: VocBoxes | CocoBoxes) -> list[Row]:
    """A row for each of the batch's pictures, categories and operations, and chance; `options`: of
    `explain`."""
    pictures, sizes = batch.fields
    with torch.no_grad():
        logits = model(pictures.to(model.device)).cpu()
    pairs, places, bases = [], [], []
    for place, index in enumerate(batch.indices):
        for category, boxes, classes in questions(data.boxes(index)):
            mask = pointing.inside(boxes, sizes[place].tolist(), model.size)
            pairs.append((mask, pointing.near(mask)))
            places.append(place)
            bases.append({"index": index, "category": category,
                          "explained": classes[int(logits[place, list(classes)].argmax())]})
    x, explained = pictures[places].to(model.device), [base["explained"] for base in bases]
    rows = [base | {"operation": CHANCE, **pointing.chance(*pair)} for base, pair in zip(bases, pairs)]
    with sharing(model, x):
        for name in names:
            maps = explain(model, x, explained, name, **options).cpu()
            rows += [base | {"operation": name, "degenerate": flat, **pointing.measure(values, *pair)}
                     for base, pair, values, flat in zip(bases, pairs, maps.numpy(),
                                                         is_degenerate(maps).int().tolist())]
    return rows


def questions(boxes: list[tuple[str, Box]]) -> Iterator[tuple[str, list[Box], Sequence[int]]]:
    """What is explained of a picture: (category, its boxes, its ImageNet classes) for each of its categories
    that ImageNet knows. Where there is none, the predicted of all classes, and any box is right."""
    known = {category: imagenet_classes(category) for category, _ in boxes if imagenet_classes(category)}
    for category, classes in known.items():
        yield category, [box for name, box in boxes if name == category], classes
    if not known:
        yield ANY, [box for _, box in boxes], range(len(IMAGENET))


def summed(rows: pd.DataFrame, names: Sequence[str]) -> tuple[Metrics, dict]:
    """The means over categories and over all pairs; and, for the summary, their intervals over pictures, each
    category's means, and how many pictures and pairs there are by which rule."""
    pictures, categories = rows["index"].unique(), sorted({*rows["category"]} - {ANY})
    weights = np.ones((1, len(pictures))), draws(len(pictures))
    figures, ends, by_category = {}, {}, {}
    for name, part in by_operation(rows, names).items():
        figures[name], ends[name] = {}, {}
        for figure in FIGURES:
            wide = part.pivot(index="index", columns="category", values=figure)
            wide = wide.reindex(pictures, columns=[*categories, ANY]).to_numpy()
            for over, (mean,), drawn in zip(OVER, *(pointing.averages(wide, counts) for counts in weights)):
                if not np.isnan(mean):
                    figures[name][f"{figure} {over}"] = float(mean)
                    ends[name][f"{figure} {over}"] = percentiles(drawn).tolist()
        by_category[name] = part.groupby("category")[list(FIGURES)].mean().to_dict("index")
    pairs = rows[rows["operation"] == CHANCE]
    by_any = int((pairs["category"] == ANY).sum())                       # such a picture has one pair
    return figures, {"intervals": ends, "by category": by_category, "pairs": len(pairs),
                     "pictures by rule": {"category": len(pictures) - by_any, "predicted": by_any}}


def report(summary: dict, label: str) -> None:
    """Print the table, in percent, and what it covers."""
    names, rules = list(summary["figures"]), summary["pictures by rule"]
    for over, words in OVER.items():
        cells = {title: [with_interval(summary, name, f"{figure} {over}", 1, 100) for name in names]
                 for figure, title in FIGURES.items()}
        print(f"{words}, in percent, 95 % intervals over pictures:")
        print(pd.DataFrame(cells, index=names).to_string(), end="\n\n")
    print(f"{label}: {summary['pictures']} pictures, {summary['pairs']} pairs of a picture and a category. "
          f"{rules['category']} pictures by their categories' classes, {rules['predicted']} by the predicted "
          f"class and any box. {summary['skipped']['count']} skipped, "
          f"{sum(summary['degenerate'].values())} maps of zeros (misses). {summary['folder']}/")
