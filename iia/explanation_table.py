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
from torch import Tensor

from . import plots, run_pages
from .choosing import at_least, of_paths
from .datasets.pics import PicsDataset, name_of
from .errors import UserError, check_choice
from .evaluation import road
from .evaluation.batches import Batch
from .evaluation.comparison import compare, means, print_table
from .evaluation.explanation_tests import axes, score, score_originals
from .evaluation.given_maps import random_maps, read_maps
from .evaluation.identity import digest, file_signatures, identity
from .evaluation.protocols import PROTOCOLS, Metric, chosen_figures
from .evaluation.rows import Metrics, Row, by_operation, in_words, mean_distances, measured
from .evaluation.runner import Run, exit_code
from .explaining import explain_and_measure, operations, predict, prepare, sharing
from .maps import is_degenerate, map_file
from .methods import DEFINITIONS
from .runs import computing, pick_device, whole_file, with_halving
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
    model.to(pick_device(settings.device))
    cut = model.cut(of_paths(settings)["layer"])
    pics = PicsDataset(settings.pics_file, settings.images_dir, model, settings.every_nth,
                       settings.per_class)
    names, metrics = list(dict.fromkeys(settings.operations)), list(figures)
    folder = "_".join((name_of(settings.pics_file, settings.images_dir), model.name, str(cut),
                       settings.definition, settings.explained_class, settings.protocol))
    points = axes(metrics, model.size, settings.protocol)
    columns = {"target": int, "explained": int, "asked": int, "top1": float, "softmax": float,
               "distance": float}
    columns |= dict.fromkeys(metrics, float)
    columns |= {f"{name} {k}": float for name, x in points.items() for k in range(len(x))}
    run = Run(pics, Path(settings.results_dir) / folder, names, columns,
              max(1, settings.batch_size // MASKED_TOGETHER), settings.max_images, settings.num_workers)
    given = [] if settings.heatmaps_dir is None else file_signatures(
        map_file(settings.heatmaps_dir, pic.stem, name, model.name) for pic in pics.pics for name in names)
    targets = digest(str(pic.target) for pic in pics.pics)
    run.begin(identity(model, settings, cut, maps=digest(given), targets=targets, places=digest(pics.places)),
              settings.values())
    with computing():
        for batch in run.todo(model.label,
                              lambda rows: in_words(every_mean(rows, names, metrics), metrics[:2])):
            stems = [pics.pics[index].stem for index in batch.indices]
            run.save(batch, score_batch(model, batch, stems, names, metrics, settings))
    rows = run.table()
    if rows is None:
        return None
    parts = by_operation(rows, names)
    accuracy = float(rows.dropna(subset="top1").drop_duplicates("index")["top1"].mean())
    summary = run.write(rows, every_mean(rows, names, metrics), **{"base accuracy": accuracy},
                        protocol=settings.protocol, **compare(parts, figures),
                        distance=mean_distances(rows, names),
                        axes={name: x.tolist() for name, x in points.items()},
                        curves={operation: mean_curves(own, points) for operation, own in parts.items()})
    title = (f"{model.label}, cut at {cut}, {settings.explained_class} class explained, "
             f"protocol {settings.protocol}")
    report(summary, figures, run.folder, title)
    run_pages.of_explanation_tests(run.folder, title, measured(rows), summary, figures, model, pics,
                                   partial(cheap_map, model, pics, settings))
    return summary


def check(model, settings: Settings) -> dict[str, Metric]:
    """Find what is wrong with the settings before the first picture is explained; the chosen figures."""
    check_choice("explained_class", settings.explained_class, EXPLAINED)
    figures = chosen_figures(settings.protocol, settings.figures)
    if settings.protocol == "road":
        road.imputer()
    for name, values, allowed in (("operations", settings.operations, [*operations(model), RANDOM]),
                                  ("figures", figures, PROTOCOLS[settings.protocol].figures)):
        if not values:
            raise UserError(f"{name} is empty. Allowed: {', '.join(allowed)}.")
    check_choice("definition", settings.definition, DEFINITIONS)
    at_least(settings, batch_size=1, INTERPOLATION_STEPS=1, ITERATION_STEPS=1, max_images=1, num_workers=0,
             every_nth=1, per_class=1)
    if settings.heatmaps_dir is None:
        for operation in settings.operations:
            name, definition = named(operation, settings.definition)
            check_choice("operation", name, [*operations(model), RANDOM])
            check_choice("definition", definition, DEFINITIONS)
            if name != RANDOM:
                prepare(model, name, definition=definition, batch_size=settings.batch_size,
                        **of_paths(settings))
    elif not Path(settings.heatmaps_dir).is_dir():
        raise UserError(f"heatmaps_dir {settings.heatmaps_dir!r} is no folder. It holds maps made elsewhere, "
                        "{picture stem}_{operation}_{model}.npy; None computes the maps instead.")
    return figures


def named(operation: str, definition: str) -> tuple[str, str]:
    """An operation of the settings as (name, definition): "iia@release" has a definition of its own."""
    name, _, own = operation.partition("@")
    return name, own or definition


def seed(name: str) -> int:
    """A picture's own, whatever else is in the list."""
    return zlib.crc32(name.encode())


def score_batch(model, batch: Batch, stems: list[str], names: Sequence[str], metrics: Sequence[str],
                settings: Settings) -> list[Row]:
    """A row for each picture of the batch and each operation: metrics and the points of their curves.

    `stems`: what the files of the batch's pictures are named by.
    """
    pictures, targets = (values.to(model.device) for values in batch.fields)
    whose = settings.explained_class, PROTOCOLS[settings.protocol].asked
    predicted = predict(model, pictures) if "predicted" in whose else targets
    explained, asked = (targets if which == "target" else predicted for which in whose)
    seeds = [seed(name) for name in batch.ids]
    originals = with_halving(partial(score_originals, model, pictures, asked, metrics, seeds),
                             settings.batch_size)
    with sharing(model, pictures):
        found = {name: make_maps(model, name, pictures, explained, stems, seeds, settings)
                 for name in names}
    rows = []
    for operation, (maps, distance, skipped) in found.items():
        ask = partial(score, model, pictures, asked, maps, metrics, originals, seeds,
                      protocol=settings.protocol)
        values, curves = with_halving(ask, settings.batch_size)
        numbers = {"degenerate": is_degenerate(maps).int(), "target": targets, "explained": explained,
                   "asked": asked, "top1": originals.answers[:, 0] * (asked == targets),
                   "softmax": originals.answers[:, 1], **values}
        numbers |= {f"{name} {k}": curve[:, k]
                    for name, curve in curves.items() for k in range(curve.shape[1])}
        numbers = {name: values.tolist() for name, values in numbers.items()}
        numbers["distance"] = distance
        for i, index in enumerate(batch.indices):
            own = {"skipped": skipped[i]} if i in skipped else {name: n[i] for name, n in numbers.items()}
            rows.append({"index": index, "operation": operation} | own)
    return rows


def make_maps(model, operation: str, pictures: Tensor, classes: Tensor, stems: list[str], seeds: list[int],
              settings: Settings) -> tuple[Tensor, list[float], dict[int, str]]:
    """An operation's maps [B, H, W] in [0, 1], their distances from the limit (NaN where there is none), and
    {place in the batch: why there is no map}."""
    nothing = [float("nan")] * len(pictures)
    name, definition = named(operation, settings.definition)
    if name == RANDOM:
        return random_maps(pictures, seeds, model.upsampling), nothing, {}
    if settings.heatmaps_dir is not None:
        maps, skipped = read_maps(Path(settings.heatmaps_dir), operation, model.name, pictures, stems)
        return maps, nothing, skipped
    maps, distance = explain_and_measure(model, pictures, classes, name, definition=definition,
                                         batch_size=settings.batch_size, **of_paths(settings))
    return maps, distance.tolist(), {}


def cheap_map(model, pics: PicsDataset, settings: Settings, index: int, operation: str) -> np.ndarray | None:
    """A picture's map [H, W] that need not be made once more: a given one, or noise; None of others."""
    if settings.heatmaps_dir is None and operation.partition("@")[0] != RANDOM:
        return None
    pic = pics.pics[index]
    maps, _, skipped = make_maps(model, operation, pics[index][0][None], None, [pic.stem],
                                 [seed(pic.path.name)], settings)
    return None if skipped else maps[0].numpy()


def every_mean(rows: pd.DataFrame, names: Sequence[str], metrics: Sequence[str]) -> Metrics:
    """The table's numbers: each operation's means."""
    return {name: means(own, metrics) for name, own in by_operation(rows, names).items()}


def mean_curves(rows: pd.DataFrame, axes: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The points of each metric's mean curve, over the pictures that have one; a metric that none has is left
    out."""
    points = {name: rows[[f"{name} {k}" for k in range(len(x))]].dropna().to_numpy()
              for name, x in axes.items()}
    return {name: own.mean(0).tolist() for name, own in points.items() if len(own)}


def report(summary: dict, figures: dict[str, Metric], folder: Path, title: str) -> None:
    """Print the table, and write curves.npz and curves.png."""
    print_table(summary, figures)
    print(f"{title}: {run_pages.in_short(summary)}. {folder}/")
    points, curves = summary["axes"], summary["curves"]
    with whole_file(folder / "curves.npz") as temporary:
        np.savez(temporary, **{f"x {name}": x for name, x in points.items()},
                 **{f"{operation} {name}": curve
                    for operation, own in curves.items() for name, curve in own.items()})
    if any(curves.values()):
        labels = {name: (figures[name].x, figures[name].y) for name in points}
        plots.save_curves(folder / "curves.png", title, points, curves, labels)
