"""The story that both explanation test scripts tell: a list of pictures in, a table of operations out.

    per_image.csv    for each picture and operation the figures and the points of their curves
    summary.json     the table, with intervals over pictures
    curves.npz       the mean curves, and curves.png, their picture
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import plots, settings
from .choosing import chosen_cnn, chosen_vit
from .datasets.photographs import put_in_place
from .datasets.pics import read_pics
from .datasets.pictures import mode_of, normalise, open_picture, squash
from .errors import UserError, check_choice
from .evaluation.bootstrap import CONFIDENCE, intervals
from .evaluation.explanation_tests import FIGURES, axes, look, score
from .evaluation.runner import Batch, Measure, Row, digest, evaluate, exit_code, fingerprint, stamps
from .explaining import explain, operations, predict, sharing
from .maps import finish, is_degenerate, map_file, minmax
from .methods import DEFINITIONS
from .runs import pick_device, rank, whole_file, with_halving

EXPLAINED = ("target", "predicted")
RANDOM = "random"
RANDOM_GRID = 7             # cells a side; a map of the CNNs' last layer has as many
MASKED_TOGETHER = 4         # a batch has one picture for so many rows: few enough that a kill loses little


def cnn_table(chosen: settings.Settings) -> int:
    """The table of a CNN; returns the exit code."""
    model = chosen_cnn(chosen, "explanation_tests_vit.py")
    return table(model, chosen, chosen.FEATURE_LAYER_NUMBER, chosen.INTERPOLATION_STEPS)


def vit_table(chosen: settings.Settings) -> int:
    """The table of a ViT; returns the exit code."""
    return table(chosen_vit(chosen, "explanation_tests_cnn.py"), chosen, "last", chosen.ITERATION_STEPS)


def table(model, chosen: settings.Settings, layer: int | str, steps: int) -> int:
    """Test the maps of every operation on the pictures of `chosen.pics_file`.

    Prints the table and writes it to {results_dir}/{pics_file}_{model}_{cut}_{definition}_{explained_class}/.
    Pictures and maps that cannot be used are named and counted. Returns 1 when there were any, else 0.

    Raises:
        UserError: a setting is wrong, or no picture can be used.
    """
    check(model, chosen, layer, steps)
    model.to(pick_device(chosen.device))
    cut, pics = model.cut(layer), Pics(chosen.pics_file, chosen.images_dir, model)
    folder = Path(chosen.results_dir) / "_".join((Path(chosen.pics_file).stem, model.name, str(cut), chosen.definition,
                                                  chosen.explained_class))
    identity = {"model": model.label, "weights": fingerprint(model), "layer": cut, "steps": steps,
                "picture size": list(model.size),
                "maps": None if chosen.heatmaps_dir is None else digest(stamps(
                    map_file(chosen.heatmaps_dir, pic.stem, operation, model.name)
                    for pic in pics.pics for operation in chosen.operations)),
                "targets": digest(str(pic.target) for pic in pics.pics),
                **{name: getattr(chosen, name) for name in ("figures", "explained_class", "definition", "heatmaps_dir",
                                                            "images_dir", "precision", "batch_size")}}
    summary = evaluate(pics, Judge(model, chosen, layer, steps).measure(), folder, identity=identity,
                       settings=chosen.values(), max_images=chosen.max_images,
                       batch_size=max(1, chosen.batch_size // MASKED_TOGETHER), num_workers=chosen.num_workers,
                       title=model.label)
    if rank() == 0:
        report(summary, folder, f"{model.label}, cut at {cut}, {chosen.explained_class} class explained")
    return exit_code(summary)


def check(model, chosen: settings.Settings, layer: int | str, steps: int) -> None:
    """Find what is wrong with the settings before the first picture is explained."""
    check_choice("definition", chosen.definition, DEFINITIONS)
    check_choice("explained_class", chosen.explained_class, EXPLAINED)
    for name, values, allowed in (("operations", chosen.operations, [*operations(model), RANDOM]),
                                  ("figures", chosen.figures, list(FIGURES))):
        if not values:
            raise UserError(f"{name} is empty. Allowed: {', '.join(allowed)}.")
    for figure in chosen.figures:
        check_choice("figure", figure, FIGURES)
    for operation in chosen.operations if chosen.heatmaps_dir is None else ():
        name, definition = named(operation, chosen.definition)
        check_choice("operation", name, [*operations(model), RANDOM])
        check_choice("definition", definition, DEFINITIONS)
    if chosen.heatmaps_dir is not None and not Path(chosen.heatmaps_dir).is_dir():
        raise UserError(f"heatmaps_dir {chosen.heatmaps_dir!r} is no folder. It holds maps made elsewhere, "
                        "{picture stem}_{operation}_{model}.npy; None computes the maps instead.")
    model.cut(layer)
    for name, value, least in (("batch_size", chosen.batch_size, 1), ("steps", steps, 1),
                               ("num_workers", chosen.num_workers, 0)):
        if value < least:
            raise UserError(f"{name} is {value}; it is at least {least}.")


def named(operation: str, definition: str) -> tuple[str, str]:
    """An operation of the settings as (name, definition): "iia@release" has a definition of its own."""
    name, _, own = operation.partition("@")
    return name, own or definition


class Pics(Dataset):
    """The pictures of a list: (normalised picture [C, H, W], target class, file name).

    A line that gives no picture stands at the end, and raises UserError as a broken picture does.
    """

    def __init__(self, pics_file: str, images_dir: str, model) -> None:
        self.pics, self.problems = read_pics(pics_file, images_dir, model.classes, model.labels)
        self.mean, self.std, self.size, self.channels = model.mean, model.std, model.size, model.channels
        mode_of(self.channels)
        put_in_place(pic.path for pic in self.pics)

    @property
    def ids(self) -> list[str]:
        return [pic.path.name for pic in self.pics] + self.problems

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        if index >= len(self.pics):
            raise UserError("no picture in this line")
        pic = self.pics[index]
        raw = squash(open_picture(pic.path, self.channels), self.size)
        return normalise(raw, self.mean, self.std), pic.target, pic.path.name


class Judge:
    """Makes, or reads, the maps of a batch and tests them."""

    def __init__(self, model, chosen: settings.Settings, layer: int | str, steps: int) -> None:
        self.model, self.chosen, self.layer, self.steps = model, chosen, layer, steps
        self.operations, self.figures = (list(dict.fromkeys(names)) for names in (chosen.operations, chosen.figures))
        self.axes = axes(self.figures, model.size)

    def measure(self) -> Measure:
        """What the runner asks for."""
        columns = {"target": int, "explained": int, "top1": float, "softmax": float}
        columns |= dict.fromkeys(self.figures, float)
        columns |= {f"{name} {k}": float for name, x in self.axes.items() for k in range(len(x))}
        return Measure(self.operations, columns, self.score, self.means, headline=tuple(self.figures[:2]),
                       conclude=self.conclude)

    def score(self, batch: Batch) -> list[Row]:
        """The rows of a batch: each picture's and operation's figures and curve points."""
        model, rows_at_once = self.model, self.chosen.batch_size
        pictures, targets = (values.to(model.device) for values in batch.fields)
        explained = targets if self.chosen.explained_class == "target" else predict(model, pictures)
        seeds = [zlib.crc32(name.encode()) for name in batch.ids]
        untouched = with_halving(lambda size: look(model, pictures, targets, self.figures, seeds, size), rows_at_once)
        with sharing(model, pictures):
            found = {name: self.maps(name, pictures, explained, batch.ids, seeds) for name in self.operations}
        rows = []
        for operation, (maps, skipped) in found.items():
            figures, curves = with_halving(lambda size: score(model, pictures, targets, maps, self.figures, untouched,
                                                              batch_size=size), rows_at_once)
            numbers = {"target": targets, "explained": explained, "top1": untouched.answers[:, 0],
                       "softmax": untouched.answers[:, 1], "degenerate": is_degenerate(maps), **figures}
            numbers |= {f"{name} {k}": curve[:, k] for name, curve in curves.items() for k in range(curve.shape[1])}
            numbers = {name: values.tolist() for name, values in numbers.items()}
            for i, index in enumerate(batch.indices):
                own = {"skipped": skipped[i]} if i in skipped else {name: values[i] for name, values in numbers.items()}
                rows.append({"index": index, "operation": operation, **own})
        return rows

    def maps(self, operation: str, pictures: Tensor, classes: Tensor, ids: list[str], seeds: list[int],
             ) -> tuple[Tensor, dict[int, str]]:
        """An operation's maps [B, H, W] in [0, 1], and {place in the batch: why there is none}."""
        name, definition = named(operation, self.chosen.definition)
        if name == RANDOM:
            return random_maps(pictures, seeds, self.model.upsampling), {}
        if self.chosen.heatmaps_dir is not None:
            return read_maps(Path(self.chosen.heatmaps_dir), operation, self.model.name, pictures, ids)
        return explain(self.model, pictures, classes, name, layer=self.layer, definition=definition, steps=self.steps,
                       batch_size=self.chosen.batch_size), {}

    def means(self, rows: list[Row]) -> dict[str, float]:
        """The table's row: each figure's mean over the pictures that have it."""
        values = as_array(rows, self.figures)
        return {name: float(column[~np.isnan(column)].mean()) for name, column in zip(self.figures, values.T)
                if not np.isnan(column).all()}

    def conclude(self, by_operation: dict[str, list[Row]]) -> dict:
        """What the summary says of all operations together."""
        names = self.figures
        first = {row["index"]: row for rows in by_operation.values() for row in rows}
        places = {index: place for place, index in enumerate(sorted(first))}
        values = np.full((len(places), len(by_operation), len(names)), np.nan)             # [N, O, F]
        for o, rows in enumerate(by_operation.values()):
            values[[places[row["index"]] for row in rows], o] = as_array(rows, names)
        return {"base accuracy": float(np.mean([row["top1"] for row in first.values()])),
                "counts": by_name((~np.isnan(values)).sum(0), by_operation, names),
                **compare(values, list(by_operation), names),
                "axes": {name: x.tolist() for name, x in self.axes.items()},
                "curves": {operation: self.mean_curves(rows) for operation, rows in by_operation.items()}}

    def mean_curves(self, rows: list[Row]) -> dict[str, list[float]]:
        """The points of each figure's mean curve, over the pictures that have one."""
        curves = {}
        for name, x in self.axes.items():
            points = as_array(rows, [f"{name} {k}" for k in range(len(x))])
            points = points[~np.isnan(points).any(1)]
            if len(points):
                curves[name] = points.mean(0).tolist()
        return curves


# ------------------------------------------------------------------------------------ maps

def random_maps(pictures: Tensor, seeds: Sequence[int], upsampling: str) -> Tensor:
    """Maps that know nothing, [B, H, W] in [0, 1]: uniform noise on 7 x 7 cells, upsampled as a CNN's map is.

    Noise of single pixels would be no fair rival: masking scattered pixels destroys a picture sooner than masking
    connected regions, whichever regions those are. A picture's map is always the same, given its seed.
    """
    cells = [torch.rand(RANDOM_GRID, RANDOM_GRID, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return finish(torch.stack(cells), tuple(pictures.shape[-2:]), upsampling).to(pictures)


def read_maps(folder: Path, operation: str, model_name: str, pictures: Tensor, ids: list[str],
              ) -> tuple[Tensor, dict[int, str]]:
    """Maps made elsewhere, `{stem}_{operation}_{model}.npy`: [B, H, W] in [0, 1], and {place: why there is none}."""
    maps, skipped = torch.zeros_like(pictures[:, 0]), {}
    for i, name in enumerate(ids):
        path = map_file(folder, Path(name).stem, operation, model_name)
        try:
            values = np.load(path)
            if values.shape != maps[i].shape:
                raise ValueError(f"it is {list(values.shape)}, not {list(maps[i].shape)}")
            maps[i] = torch.from_numpy(values.astype(np.float64)).to(maps)
        except FileNotFoundError:
            skipped[i] = f"{path} is missing"
        except Exception as why:           # a file may pretend to be an archive, a pickle, an array of anything
            skipped[i] = f"{path} holds no map ({why})"
    return minmax(maps), skipped


# ----------------------------------------------------------------------------------- table

def as_array(rows: list[Row], names: Sequence[str]) -> np.ndarray:
    """Columns of the rows as float64 [rows, names]."""
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64).reshape(len(rows), len(names))


def by_name(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, object]]:
    """An array [rows, columns, ...] as {row: {column: value}}."""
    return {row: dict(zip(columns, own.tolist())) for row, own in zip(rows, values)}


def compare(values: np.ndarray, operations: list[str], names: Sequence[str]) -> dict:
    """Confidence intervals from figures of single pictures, values [N, O, F].

    Returns:
        "intervals": {operation: {figure: [low, high]}} of the mean; "best": {figure: operation}; "behind the best":
        {operation: {figure: [low, high]}} of the paired difference from the best operation's mean.
    """
    count, _, figures = values.shape
    sign = np.array([1 if FIGURES[name].better == "higher" else -1 for name in names])
    seen = ~np.isnan(values)
    means = np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)                  # [O, F]
    best = np.where(seen.any(0), means * sign, -np.inf).argmax(0)                          # [F]
    behind = values - values[:, best, np.arange(figures)][:, None]
    ends = intervals(np.concatenate([values, behind], axis=1).reshape(count, -1))
    ends = ends.reshape(2, 2 * len(operations), figures).transpose(1, 2, 0)                # [2·O, F, 2]
    ends = np.where(np.isnan(ends), None, ends)                                            # JSON knows no NaN
    return {"confidence": CONFIDENCE,
            "intervals": by_name(ends[:len(operations)], operations, names),
            "best": {name: operations[o] if some else None for name, o, some in zip(names, best, seen.any((0, 1)))},
            "behind the best": by_name(ends[len(operations):], operations, names)}


def report(summary: dict, folder: Path, title: str) -> None:
    """Print the table, and write curves.npz and curves.png."""
    print_table(summary)
    skipped, degenerate = summary["skipped"]["count"], sum(summary["degenerate"].values())
    print(f"{title}: {summary['pictures']} pictures, base accuracy {100 * summary['base accuracy']:.1f} %, "
          f"{skipped} skipped, {degenerate} degenerate maps. {folder}/")
    points, curves = summary["axes"], summary["curves"]
    with whole_file(folder / "curves.npz") as temporary:
        np.savez(temporary, **{f"x {name}": x for name, x in points.items()},
                 **{f"{operation} {name}": curve for operation, own in curves.items() for name, curve in own.items()})
    if any(curves.values()):
        labels = {name: (FIGURES[name].x, FIGURES[name].y) for name in points}
        plots.save_curves(folder / "curves.png", title, points, curves, labels)


def print_table(summary: dict) -> None:
    """Operations as rows, figures as columns, each with its interval below it.

    `*` is the best of a column, `=` what cannot be told from it: the interval of the paired difference holds 0.
    """
    names = list(summary["best"])
    wide = max(len(operation) for operation in ["operation", *summary["figures"]])
    columns = {name: (13, 1) if FIGURES[name].percent else (15, 3) for name in names}          # width, digits
    head = "".join(f"{name + FIGURES[name].arrow:>{width}}" for name, (width, _) in columns.items())
    print(f"{'operation':{wide}}{head}     n")
    for operation, own in summary["figures"].items():
        values, ranges = "", ""
        for name, (width, digits) in columns.items():
            low, high = summary["intervals"][operation][name]
            there = name in own
            values += f"{f'{own[name]:.{digits + 1}f}{mark(summary, operation, name)}' if there else '- ':>{width}}"
            ranges += f"{f'[{low:.{digits}f}, {high:.{digits}f}]' if there else '':>{width}}"
        print(f"{operation:{wide}}{values}{max(summary['counts'][operation].values()):6d}\n{'':{wide}}{ranges}")
    print(f"↑ higher is better, ↓ lower; * the best, = not told from it at {100 * summary['confidence']:.0f} % (paired "
          "bootstrap over pictures); [ , ] the interval of the mean")


def mark(summary: dict, operation: str, name: str) -> str:
    low, high = summary["behind the best"][operation][name]
    if low is None:
        return " "
    return "*" if operation == summary["best"][name] else "=" if low <= 0 <= high else " "
