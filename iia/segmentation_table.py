"""The story that the segmentation scripts tell: a network and a data set in, a table of figures out."""

from pathlib import Path

import numpy as np

from . import plots, settings
from .choosing import chosen_cnn, chosen_vit, explain_options
from .datasets.coco import Coco
from .datasets.imagenet_segmentation import ImageNetSegmentation
from .datasets.segmentation import SegmentationDataset
from .datasets.voc import Voc
from .errors import UserError, check_choice
from .evaluation import segmentation
from .evaluation.runner import Batch, Measure, Row, evaluate, exit_code, fingerprint, print_table, stamps
from .explaining import explain, predict, sharing
from .maps import is_degenerate
from .runs import pick_device, rank

DATASETS = {kind.name: kind for kind in (ImageNetSegmentation, Coco, Voc)}
PERCENT = 100


def cnn_table(chosen: settings.Settings, dataset: str) -> int:
    """The table of a CNN on the data set of that name; returns the exit code."""
    model = chosen_cnn(chosen, "seg_vit_datasets.py")
    return table(model, dataset, chosen, chosen.FEATURE_LAYER_NUMBER, chosen.INTERPOLATION_STEPS)


def vit_table(chosen: settings.Settings) -> int:
    """The table of a ViT on `chosen.chosen_dataset`; returns the exit code."""
    model = chosen_vit(chosen, f"segmentation_cnn_{chosen.chosen_dataset}.py")
    return table(model, chosen.chosen_dataset, chosen, "last", chosen.ITERATION_STEPS)


def table(model, dataset: str, chosen: settings.Settings, layer: int | str, steps: int) -> int:
    """Explain the class that `model` predicts for each picture, and score the maps against its mask.

    Prints the table, and writes per_image.csv, summary.json and the panels that `chosen.save_overlays`
    asks for to {results_dir}/{dataset}_{model}_{cut}_{definition}/. Returns 1 when a picture had to be
    skipped, else 0.
    """
    explain_options(model, chosen)
    for name in ("num_workers", "save_overlays"):
        if getattr(chosen, name) < 0:
            raise UserError(f"{name} is {getattr(chosen, name)}; it is at least 0.")
    data = open_dataset(dataset, chosen.dataset_root, model, chosen.definition)
    folder = Path(chosen.results_dir) / f"{dataset}_{model.name}_{model.cut(layer)}_{chosen.definition}"
    operations = list(dict.fromkeys(chosen.operations))
    identity = {"model": model.label, "weights": fingerprint(model), "layer": model.cut(layer), "steps": steps,
                "picture size": list(model.size),
                "data set's files": stamps(data.sources),
                **{name: getattr(chosen, name) for name in ("definition", "precision", "batch_size")}}
    model.to(pick_device(chosen.device))
    score = Score(model, data, operations, layer, steps, chosen, folder / "overlays")
    measure = Measure(operations, segmentation.COLUMNS, score, segmentation.figures, ("mIoU", "mAP"), PERCENT)
    summary = evaluate(data, measure, folder, identity=identity, settings=chosen.values(), max_images=chosen.max_images,
                       batch_size=max(1, chosen.batch_size // steps),       # so that a batch of pictures fills the rows
                       num_workers=chosen.num_workers, redo=score.lacking_panels(chosen.max_images),
                       title=f"{dataset}, {model.label}")
    if rank() == 0:
        report(summary, model, folder)
    return exit_code(summary)


def open_dataset(name: str, root: str | None, model, definition: str) -> SegmentationDataset:
    """The data set, its pictures as `model` reads them; COCO's under "release" as the release feeds them.

    Raises:
        UserError: no such data set, or it is not in `root` (None = its usual place).
    """
    kind = DATASETS[check_choice("data set", name, DATASETS)]
    raw = kind is Coco and definition == "release"        # the release forgets to normalise them (METHOD.md, section 9)
    mean, std = ((0.0,) * model.channels, (1.0,) * model.channels) if raw else (model.mean, model.std)
    return kind(kind.default_root if root is None else root, mean, std, model.size)


class Score:
    """A batch of samples -> a row of numbers for each picture and operation; the first pictures' panels by the way."""

    def __init__(self, model, data: SegmentationDataset, operations: list[str], layer: int | str, steps: int,
                 chosen: settings.Settings, panels: Path) -> None:
        self.model, self.data, self.operations, self.panels = model, data, operations, panels
        self.how = {"layer": layer, "steps": steps, "definition": chosen.definition, "batch_size": chosen.batch_size}
        self.panel_count = chosen.save_overlays
        # Apple's GPUs have no float64, in which the figures are made.
        self.where = "cpu" if model.device.type == "mps" else model.device

    def __call__(self, batch: Batch) -> list[Row]:
        pictures, masks = batch.fields
        x, masks = pictures.to(self.model.device), masks.to(self.where)
        classes = predict(self.model, x)
        with sharing(self.model, x):
            maps = {operation: explain(self.model, x, classes, operation, **self.how).to(self.where)
                    for operation in self.operations}
        rows = []
        for operation, found in maps.items():
            numbers = {name: values.tolist() for name, values in segmentation.measure(found, masks).items()}
            flat = is_degenerate(found).tolist()
            rows += [{"index": index, "operation": operation, "degenerate": int(flat[i])}
                     | {name: values[i] for name, values in numbers.items()} for i, index in enumerate(batch.indices)]
        for i, index in enumerate(batch.indices):
            if index < self.panel_count:
                self.save_panel(index, pictures[i], masks[i], int(classes[i]), {name: m[i] for name, m in maps.items()})
        return rows

    def panel(self, index: int) -> Path:
        return self.panels / f"{plots.safe(self.data.ids[index])}.png"

    def lacking_panels(self, max_images: int | None) -> list[int]:
        """The pictures whose panel is asked for and not there: they are explained once more for it."""
        shown = min(self.panel_count, max_images or len(self.data), len(self.data))
        return [index for index in range(shown) if not self.panel(index).exists()]

    def save_panel(self, index: int, picture, mask, target: int, maps: dict) -> None:
        """A row of the picture and its maps; under it the mask and what each map calls the object."""
        pixels = plots.rgb(self.data.pixels(picture))
        called = {name: segmentation.foreground(m[None])[0] for name, m in maps.items()}
        tiles = {"picture": pixels}
        tiles |= {name: plots.overlay(pixels, m.float().cpu().numpy()) for name, m in maps.items()}
        tiles |= {"mask": dim_background(pixels, mask.cpu().numpy())}
        tiles |= {f"{name} > its mean": dim_background(pixels, where.cpu().numpy()) for name, where in called.items()}
        number = f"{target}, " if self.model.labels else ""
        title = (f"{self.model.class_name(target)} ({number}predicted)", self.model.label,
                 f"{self.data.name} {self.data.ids[index]}")
        plots.save_panel(self.panel(index), " · ".join(title), tiles)


def dim_background(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] that stays bright where the object is [H, W]."""
    return pixels * np.where(where, 1, 0.25)[..., None]


def report(summary: dict, model, folder: Path) -> None:
    """Print the table, in percent, and what is not in it."""
    print(f"{summary['pictures']} pictures, explained with {model.label}; in percent:")
    print_table(summary["figures"], PERCENT)
    for operation, count in summary["degenerate"].items():
        if count:
            print(f"{count} maps of {operation} are degenerate (constant or not finite); they count as zeros")
    if summary["skipped"]["count"]:
        print(f"{summary['skipped']['count']} pictures skipped; summary.json names them")
    print(f"per_image.csv and summary.json are in {folder}/")
