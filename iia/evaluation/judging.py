"""The story that both explanation test scripts tell: a list of pictures in, a table of operations out.

    per_image.csv    for each picture and operation the figures and the points of their curves
    summary.json     the table, with intervals over pictures
    curves.npz       the mean curves, and curves.png, their picture
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import figures as drawing
from .. import settings
from ..datasets.photographs import put_in_place
from ..datasets.pics import read_pics
from ..datasets.pictures import normalise, open_picture, squash
from ..errors import UserError, check_choice
from ..explaining import explain, operations, predict
from ..maps import finish, is_degenerate, minmax
from ..methods import DEFINITIONS
from ..runs import pick_device, whole_file, with_halving
from . import runner
from .bootstrap import CONFIDENCE, intervals
from .explanation_tests import FIGURES, look, score

EXPLAINED = ("target", "predicted")
RANDOM = "random"
RANDOM_GRID = 7             # cells a side; a map of the CNNs' last layer has as many
EXPLAIN_AND_JUDGE = 4       # rows of a batch for each of its pictures


def judge_pics(model, chosen: settings.Settings, layer: int | str, steps: int) -> int:
    """Test the maps of every operation on the pictures of `chosen.pics_file`; returns the exit code.

    Pictures and maps that cannot be used are named, counted and make the exit code 1.

    Raises:
        UserError: a setting is wrong, or no picture can be used.
    """
    check(model, chosen, layer, steps)
    model.to(pick_device(chosen.device))
    pics = Pics(chosen.pics_file, chosen.images_dir, model)
    judge = Judge(model, chosen, layer, steps)
    folder = Path(chosen.results_dir) / "_".join((Path(chosen.pics_file).stem, model.name, str(model.cut(layer)),
                                                  chosen.definition, chosen.explained_class))
    identity = {"model": model.label, "weights": runner.fingerprint(model), "cut": model.cut(layer), "steps": steps,
                "figures": chosen.figures, "definition": chosen.definition, "explained class": chosen.explained_class,
                "heatmaps": chosen.heatmaps_dir, "targets": runner.digest(map(str, pics.targets)),
                "precision": chosen.precision}
    summary = runner.evaluate(pics, judge.measure(), folder, identity=identity, settings=chosen.values(), title=model.label,
                              batch_size=max(1, chosen.batch_size // EXPLAIN_AND_JUDGE), max_images=chosen.max_images)
    if os.environ.get("RANK", "0") == "0":                # of several processes one reports
        report(summary, folder, f"{model.label}, cut at {model.cut(layer)}, {chosen.explained_class} class explained")
    return 1 if summary["skipped"]["count"] else 0


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
    for name, value in {"batch_size": chosen.batch_size, "steps": steps}.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it is at least 1.")


def named(operation: str, definition: str) -> tuple[str, str]:
    """An operation of the settings as (name, definition): "iia@release" has a definition of its own."""
    name, _, own = operation.partition("@")
    return name, own or definition


class Pics(Dataset):
    """The pictures of a list: (normalised picture [3, H, W], target class, file name).

    A line that gives no picture stands at the end, and raises UserError as a broken picture does.
    """

    def __init__(self, pics_file: str, images_dir: str, model) -> None:
        self.pics, self.problems = read_pics(pics_file, images_dir)
        self.mean, self.std, self.size = model.mean, model.std, model.size
        put_in_place(pic.path for pic in self.pics)

    @property
    def ids(self) -> list[str]:
        return [pic.path.name for pic in self.pics] + self.problems

    @property
    def targets(self) -> list[int]:
        return [pic.target for pic in self.pics]

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        if index >= len(self.pics):
            raise UserError("no picture in this line")
        pic = self.pics[index]
        return normalise(squash(open_picture(pic.path), self.size), self.mean, self.std), pic.target, pic.path.name


class Judge:
    """Makes, or reads, the maps of a batch and tests them."""

    def __init__(self, model, chosen: settings.Settings, layer: int | str, steps: int) -> None:
        self.model, self.chosen, self.layer, self.steps = model, chosen, layer, steps

    def measure(self) -> runner.Measure:
        """What the runner asks for."""
        points = {name: len(curve) for name, curve in curve_axes(self.chosen.figures).items()}
        columns = {"target": int, "explained": int, "top1": float, "softmax": float}
        columns |= dict.fromkeys(self.chosen.figures, float)
        columns |= {f"{name} {k}": float for name, count in points.items() for k in range(count)}
        return runner.Measure(self.chosen.operations, columns, self.score, self.means, tuple(self.chosen.figures[:2]),
                              self.conclude)

    def score(self, batch: runner.Batch) -> list[runner.Row]:
        """The rows of a batch: each picture's and operation's figures and curve points."""
        chosen, model = self.chosen, self.model
        pictures, targets = (values.to(model.device) for values in batch.fields)
        explained = targets if chosen.explained_class == "target" else predict(model, pictures)
        seeds = [zlib.crc32(name.encode()) for name in batch.ids]
        untouched = with_halving(lambda size: look(model, pictures, targets, chosen.figures, seeds, size), chosen.batch_size)
        rows = []
        for operation in chosen.operations:
            maps, skipped = self.maps(operation, pictures, explained, batch.ids, seeds)
            figures, curves = with_halving(lambda size: score(model, pictures, targets, maps, chosen.figures, untouched,
                                                              batch_size=size), chosen.batch_size)
            numbers = {"target": targets, "explained": explained, "top1": untouched.answers[:, 0],
                       "softmax": untouched.answers[:, 1], "degenerate": is_degenerate(maps), **figures}
            numbers |= {f"{name} {k}": curve[:, k] for name, curve in curves.items() for k in range(curve.shape[1])}
            numbers = {name: values.tolist() for name, values in numbers.items()}
            for i, index in enumerate(batch.indices):
                measured = {"skipped": skipped[i]} if i in skipped else {name: values[i] for name, values in numbers.items()}
                rows.append({"index": index, "operation": operation, **measured})
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

    def means(self, rows: list[runner.Row]) -> dict[str, float]:
        """The table's row: each figure's mean over the pictures that have it."""
        values = as_array(rows, self.chosen.figures)
        return {name: float(column[~np.isnan(column)].mean()) for name, column in zip(self.chosen.figures, values.T)
                if not np.isnan(column).all()}

    def conclude(self, by_operation: dict[str, list[runner.Row]]) -> dict:
        """What the summary says of all operations together."""
        names = self.chosen.figures
        first = {row["index"]: row for rows in by_operation.values() for row in rows}
        places = {index: place for place, index in enumerate(sorted(first))}
        values = np.full((len(places), len(by_operation), len(names)), np.nan)             # [N, O, F]
        for o, rows in enumerate(by_operation.values()):
            values[[places[row["index"]] for row in rows], o] = as_array(rows, names)
        return {"base accuracy": float(np.mean([row["top1"] for row in first.values()])),
                "counts": by_name((~np.isnan(values)).sum(0), by_operation, names),
                **compare(values, list(by_operation), names),
                "curves": mean_curves(by_operation, names)}


# ------------------------------------------------------------------------------------ maps

def random_maps(pictures: Tensor, seeds: Sequence[int], upsampling: str) -> Tensor:
    """Maps that know nothing, [B, H, W] in [0, 1]: uniform noise on 7 x 7 cells, upsampled as a CNN's map is.

    Noise of single pixels would be no fair rival: masking scattered pixels destroys a picture sooner than masking
    connected regions, whichever regions those are. A picture's map is always the same, given its seed.
    """
    cells = [torch.rand(RANDOM_GRID, RANDOM_GRID, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return finish(torch.stack(cells), tuple(pictures.shape[-2:]), upsampling).to(pictures)


def read_maps(folder: Path, operation: str, model_name: str, pictures: Tensor, ids: list[str]) -> tuple[Tensor, dict[int, str]]:
    """Maps made elsewhere, `{stem}_{operation}_{model}.npy`: [B, H, W] in [0, 1], and {place: why there is none}."""
    maps, skipped = torch.zeros_like(pictures[:, 0]), {}
    for i, name in enumerate(ids):
        path = folder / f"{Path(name).stem}_{operation}_{model_name}.npy"
        try:
            values = np.load(path)
            if values.shape != maps[i].shape:
                raise ValueError(f"it is {list(values.shape)}, not {list(maps[i].shape)}")
            maps[i] = torch.from_numpy(values.astype(np.float64)).to(maps)
        except FileNotFoundError:
            skipped[i] = f"{path} is missing"
        except (OSError, ValueError, TypeError, EOFError, AttributeError) as why:
            skipped[i] = f"{path} holds no map ({why})"
    return minmax(maps), skipped


# ----------------------------------------------------------------------------------- table

def as_array(rows: list[runner.Row], names: Sequence[str]) -> np.ndarray:
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
            "best": {name: operations[o] for name, o in zip(names, best)},
            "behind the best": by_name(ends[len(operations):], operations, names)}


def report(summary: dict, folder: Path, title: str) -> None:
    """Print the table, and write curves.npz and curves.png."""
    print_table(summary)
    skipped, degenerate = summary["skipped"]["count"], sum(summary["degenerate"].values())
    print(f"{title}: {summary['pictures']} pictures, base accuracy {100 * summary['base accuracy']:.1f} %, "
          f"{skipped} skipped, {degenerate} degenerate maps. {folder}/")
    curves = summary["curves"]
    with whole_file(folder / "curves.npz") as temporary:
        np.savez(temporary, **{f"{operation} {name}": np.array(curve) for operation, own in curves.items()
                               for name, curve in own.items()},
                 **{f"x {name}": x for name, x in curve_axes(summary["identity"]["figures"]).items()})
    if any(curves.values()):
        labels = {name: (figure.x, figure.y) for name, figure in FIGURES.items()}
        drawing.save_curves(folder / "curves.png", title, curve_axes(summary["identity"]["figures"]), curves, labels)


def print_table(summary: dict) -> None:
    """Operations as rows, figures as columns, each with its interval below it.

    `*` is the best of a column, `=` what cannot be told from it: the interval of the paired difference holds 0.
    """
    names = summary["identity"]["figures"]
    wide = max(len(operation) for operation in ["operation", *summary["figures"]])
    columns = {name: (13, 1) if FIGURES[name].percent else (15, 3) for name in names}          # width, digits
    print(f"{'operation':{wide}}" + "".join(f"{name + FIGURES[name].arrow:>{columns[name][0]}}" for name in names) + "     n")
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
    return "*" if operation == summary["best"][name] else "=" if low <= 0 <= high else " "


# ---------------------------------------------------------------------------------- curves

def curve_axes(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Where the points of each figure's curve lie, for those of the figures that are areas."""
    return {name: np.linspace(0, FIGURES[name].until, FIGURES[name].points) for name in names if FIGURES[name].points}


def mean_curves(by_operation: dict[str, list[runner.Row]], names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Each operation's mean curves: {operation: {figure: points}}."""
    curves = {}
    for operation, rows in by_operation.items():
        curves[operation] = {}
        for name, x in curve_axes(names).items():
            points = as_array(rows, [f"{name} {k}" for k in range(len(x))])
            points = points[~np.isnan(points).any(1)]
            if len(points):
                curves[operation][name] = points.mean(0).tolist()
    return curves
