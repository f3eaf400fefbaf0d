"""Tests the maps of every operation on a list of pictures, and writes a table of how faithful they are.

    per_image.csv    for each picture and operation the metrics and the points of their curves
    summary.json     the table, with intervals over pictures
    curves.npz       the mean curves, and curves.png, their picture
    index.html       a page of all this, with the best and the worst pictures of each operation
"""

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import plots, run_pages
from .choosing import check_numbers, of_paths
from .datasets.pics import PicsDataset, name_of
from .errors import UserError, check_choice
from .evaluation import road
from .evaluation.batches import Batch
from .evaluation.comparison import compare, print_table
from .evaluation.explanation_tests import axes, score, score_originals
from .evaluation.given_maps import random_maps, read_maps
from .evaluation.identity import digest, file_signatures
from .evaluation.protocols import PROTOCOLS, Metric, chosen_figures
from .evaluation.rows import Row, by_operation, mean_distances, means, measured
from .evaluation.runner import begin, exit_code
from .explaining import explain_and_measure, operations, predict, prepare, sharing
from .maps import is_degenerate, map_file
from .methods import DEFINITIONS
from .runs import whole_file, with_halving
from .settings import Settings

EXPLAINED = ("target", "predicted")
RANDOM = "random"
MASKED_TOGETHER = 4         # a batch has one picture for so many rows: few enough that a kill loses little


def table(model, settings: Settings) -> int:
    """Make the table as `tested` does. Returns 1 when pictures or maps could not be used, else 0."""
    return exit_code(tested(model, settings))


def tested(model, settings: Settings) -> dict | None:
    """Test the maps of every operation on the pictures of `settings.pics_file`.

    Prints the table and writes it to
    {results_dir}/{pics_file}_{model}_{cut}_{definition}_{explained_class}_{protocol}_{hash}/, under the name
    of images_dir where pics_file is None. Pictures and maps that cannot be used are named and counted.
    Returns what `Run.write` does; None where another process makes the table.

    Raises:
        UserError: a setting is wrong, or no picture can be used.
    """
    figures = check(model, settings)
    pics = PicsDataset(settings.pics_file, settings.images_dir, model, settings.every_nth,
                       settings.per_class)
    metrics, points = list(figures), axes(list(figures), model.size, settings.protocol)
    columns = {"target": int, "explained": int, "asked": int, "top1": float, "softmax": float,
               "distance": float, **dict.fromkeys(metrics, float)}
    columns |= {f"{name} {k}": float for name, x in points.items() for k in range(len(x))}
    given = [] if settings.heatmaps_dir is None else file_signatures(
        map_file(settings.heatmaps_dir, pic.stem, operation, model.name)
        for pic in pics.pics for operation in dict.fromkeys(settings.operations))
    run = begin(model, settings, pics, name_of(settings.pics_file, settings.images_dir), columns,
                MASKED_TOGETHER, f"_{settings.explained_class}_{settings.protocol}", maps=digest(given),
                targets=digest(str(pic.target) for pic in pics.pics), places=digest(pics.places))
    rows = run.complete(lambda batch: score_batch(model, batch, pics, run.operations, metrics, settings),
                        model.label, partial(means, metrics=metrics[:2]))
    if rows is None:
        return None
    parts = by_operation(rows, run.operations)
    accuracy = float(rows.dropna(subset="top1").drop_duplicates("index")["top1"].mean())
    summary = run.write(rows, {name: means(part, metrics) for name, part in parts.items()},
                        **{"base accuracy": accuracy}, protocol=settings.protocol, **compare(parts, figures),
                        distance=mean_distances(parts), axes={name: x.tolist() for name, x in points.items()},
                        curves={name: mean_curves(part, points) for name, part in parts.items()})
    title = (f"{model.label}, cut at {summary['identity']['layer']}, {settings.explained_class} class "
             f"explained, protocol {settings.protocol}")
    report(summary, figures, title)
    run_pages.of_explanation_tests(run.folder, title, measured(rows), summary, figures, model, pics,
                                   partial(cheap_map, model, pics, settings))
    return summary


def check(model, settings: Settings) -> dict[str, Metric]:
    """Find what is wrong with the settings before the first picture is explained; return the chosen
    figures."""
    check_choice("explained_class", settings.explained_class, EXPLAINED)
    figures, allowed = chosen_figures(settings.protocol, settings.figures), [*operations(model), RANDOM]
    if settings.protocol == "road":
        road.imputer()
    for name, values, choices in (("operations", settings.operations, allowed),
                                  ("figures", figures, PROTOCOLS[settings.protocol].figures)):
        if not values:
            raise UserError(f"{name} is empty. Allowed: {', '.join(choices)}.")
    check_choice("definition", settings.definition, DEFINITIONS)
    check_numbers(settings)
    if settings.heatmaps_dir is None:
        for entry in settings.operations:
            arguments = explain_arguments(entry, settings)
            check_choice("operation", arguments["operation"], allowed)
            check_choice("definition", arguments["definition"], DEFINITIONS)
            if arguments["operation"] != RANDOM:
                prepare(model, **arguments)
    elif not Path(settings.heatmaps_dir).is_dir():
        raise UserError(f"heatmaps_dir {settings.heatmaps_dir!r} is no folder. It holds maps made elsewhere, "
                        "{picture stem}_{operation}_{model}.npy; None computes the maps instead.")
    return figures


def explain_arguments(entry: str, settings: Settings) -> dict[str, object]:
    """What `iia.explain` takes for an entry of the operations; "iia@release" has a definition of its own."""
    operation, _, definition = entry.partition("@")
    return dict(of_paths(settings), operation=operation, definition=definition or settings.definition,
                batch_size=settings.batch_size)


def seed(name: str) -> int:
    """A picture's seed, whatever else is in the list."""
    return zlib.crc32(name.encode())


def score_batch(model, batch: Batch, pics: PicsDataset, names: Sequence[str], metrics: Sequence[str],
                settings: Settings) -> list[Row]:
    """A row for each picture of the batch and each operation: metrics and the points of their curves."""
    pictures, targets = (values.to(model.device) for values in batch.fields)
    sources = settings.explained_class, PROTOCOLS[settings.protocol].asked
    predicted = predict(model, pictures) if "predicted" in sources else targets
    explained, asked = (targets if source == "target" else predicted for source in sources)
    seeds, stems = [seed(name) for name in batch.ids], [pics.pics[index].stem for index in batch.indices]
    originals = with_halving(partial(score_originals, model, pictures, asked, metrics, seeds),
                             settings.batch_size)
    with sharing(model, pictures):
        maps_of = {name: make_maps(model, name, pictures, explained, stems, seeds, settings)
                   for name in names}
    rows = []
    for name, (maps, distances, skipped) in maps_of.items():
        values, curves = with_halving(partial(score, model, pictures, asked, maps, metrics, originals, seeds,
                                              protocol=settings.protocol), settings.batch_size)
        points = {f"{metric} {k}": point for metric, curve in curves.items()
                  for k, point in enumerate(curve.T)}
        rows += batch.rows(name, {"degenerate": is_degenerate(maps).int(), "target": targets,
                                  "explained": explained, "asked": asked,
                                  "top1": originals.answers[:, 0] * (asked == targets),
                                  "softmax": originals.answers[:, 1], **values, **points,
                                  "distance": distances}, skipped)
    return rows


def make_maps(model, entry: str, pictures: Tensor, classes: Tensor | None, stems: list[str],
              seeds: list[int], settings: Settings) -> tuple[Tensor, Tensor, dict[int, str]]:
    """The maps [B, H, W] in [0, 1] of an entry of the operations, their distances from the limit [B] (NaN
    where there is none), and {place in the batch: why there is no map}."""
    arguments, skipped = explain_arguments(entry, settings), {}
    if arguments["operation"] == RANDOM:
        maps = random_maps(pictures, seeds, model.upsampling)
    elif settings.heatmaps_dir is not None:
        maps, skipped = read_maps(Path(settings.heatmaps_dir), entry, model.name, pictures, stems)
    else:
        return *explain_and_measure(model, pictures, classes, **arguments), skipped
    return maps, torch.full((len(maps),), torch.nan), skipped


def cheap_map(model, pics: PicsDataset, settings: Settings, index: int, entry: str) -> np.ndarray | None:
    """A picture's map [H, W] where it takes no explaining: one that is given, or noise; else None."""
    if settings.heatmaps_dir is None and explain_arguments(entry, settings)["operation"] != RANDOM:
        return None
    pic = pics.pics[index]
    maps, _, skipped = make_maps(model, entry, pics[index][0][None], None, [pic.stem], [seed(pic.path.name)],
                                 settings)
    return None if skipped else maps[0].numpy()


def mean_curves(rows: pd.DataFrame, axes: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The points of each metric's mean curve, over the pictures that have one, without metrics that no
    picture has."""
    curves = {name: rows[[f"{name} {k}" for k in range(len(x))]].dropna().to_numpy()
              for name, x in axes.items()}
    return {name: points.mean(0).tolist() for name, points in curves.items() if len(points)}


def report(summary: dict, figures: dict[str, Metric], title: str) -> None:
    """Print the table, and write curves.npz and curves.png."""
    folder, points, curves = summary["folder"], summary["axes"], summary["curves"]
    print_table(summary, figures)
    print(f"{title}: {run_pages.in_short(summary)}. {folder}/")
    with whole_file(folder / "curves.npz") as temporary:
        np.savez(temporary, **{f"x {metric}": x for metric, x in points.items()},
                 **{f"{operation} {metric}": curve
                    for operation, by_metric in curves.items() for metric, curve in by_metric.items()})
    if any(curves.values()):
        labels = {metric: (figures[metric].x, figures[metric].y) for metric in points}
        plots.save_curves(folder / "curves.png", title, points, curves, labels)
