"""Do maps depend on what the network has learned? The model parameter randomisation test of Adebayo et al.
(2018; METHOD.md, section 8).

    per_image.csv    for each picture, operation, seed and step how alike the map is to the original one
    summary.json     the means, with intervals over pictures, and the operations whose maps stay
    curves.png       the means
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor

from . import plots
from .choosing import explain_options
from .datasets.pics import PicsDataset, name_of
from .errors import UserError
from .evaluation.batches import Batch
from .evaluation.bootstrap import intervals
from .evaluation.comparison import with_interval
from .evaluation.identity import digest
from .evaluation.rows import Metrics, Row, by_operation, means
from .evaluation.runner import begin, exit_code
from .explaining import explain, predict, sharing
from .maps import is_degenerate
from .models.cnn import CNN
from .models.randomise import parts, randomised, rewrapped
from .settings import Settings

METRICS = {"spearman": "rank correlation", "ssim": "SSIM"}
UNCHANGED = 0.5           # mean rank correlation with all weights randomised: above it a method is warned of
WINDOW = 11               # pixels, SSIM's: a Gaussian of σ = 1.5 (Wang et al., 2004)
ROWS_A_PICTURE = 4        # a batch has one picture for so many rows, and each batch wraps every network anew


def table(model, settings: Settings) -> int:
    """Make the table as `tested` does. Returns 1 when a picture or a network had to be skipped, else 0."""
    return exit_code(tested(model, settings))


def tested(model, settings: Settings) -> dict | None:
    """Compare each operation's maps with those of networks whose weights were randomised from the top down.

    Prints the table and writes it to {results_dir}/{pics_file}_{model}_{cut}_{definition}_{hash}/.

    Returns what `Run.write` does; None where another process makes the table.

    Raises:
        UserError: a setting is wrong, or no picture can be used.
    """
    options = explain_options(model, settings)
    if min(model.size) < WINDOW:
        raise UserError(f"{model.name} reads pictures of {model.size[0]} x {model.size[1]} pixels; SSIM "
                        f"takes at least {WINDOW} either way.")
    if isinstance(model, CNN):          # a number might mean another layer of other weights
        options["layer"] = model.layer(model.cut(options["layer"])).name
    pics = PicsDataset(settings.pics_file, settings.images_dir, model,
                       *(vars(settings).get(name) for name in ("every_nth", "per_class")))
    columns = {"explained": int, "seed": int, "step": str, **dict.fromkeys(METRICS, float)}
    run = begin(model, settings, pics, name_of(settings.pics_file, settings.images_dir), columns,
                ROWS_A_PICTURE, places=digest(pics.places))
    rows = run.complete(lambda batch: score_batch(model, batch, run.operations, options, settings.seeds),
                        model.label, partial(means, metrics=METRICS))
    if rows is None:
        return None
    steps = list(parts(model))
    figures, ends = summed(rows, run.operations, steps)
    stay = [name for name, values in figures.items() if values.get(f"spearman {steps[-1]}", 0) > UNCHANGED]
    summary = run.write(rows, figures, intervals=ends, steps=steps, unchanged=stay)
    report(summary, model.label)
    return summary


def score_batch(model, batch: Batch, names: Sequence[str], options: dict, seeds: int) -> list[Row]:
    """A row for each picture of the batch, operation, seed and step; the class explained is always the one
    that the network itself predicts. `options`: of `explain`."""
    x = batch.fields[0].to(model.device)
    classes = predict(model, x)
    originals, rows = all_maps(model, x, classes, names, options), []
    for seed in range(seeds):
        for step, network in randomised(model, seed):
            base = {"seed": seed, "step": step}
            try:
                maps = all_maps(rewrapped(network, model), x, classes, names, options)
            except UserError as why:
                base["skipped"] = f"seed {seed}, {step}: {why}"
                rows += [{"index": index, "operation": name, **base}
                         for index in batch.indices for name in names]
                continue
            for name in names:
                flat = is_degenerate(maps[name]) | is_degenerate(originals[name])
                rows += [{"index": index, "operation": name, "degenerate": int(flat[i]),
                          "explained": int(classes[i]), **base, **alike(originals[name][i], maps[name][i])}
                         for i, index in enumerate(batch.indices)]
    return rows


def all_maps(model, x: Tensor, classes: Tensor, names: Sequence[str], options: dict) -> dict[str, Tensor]:
    """Each operation's maps [B, H, W], on the CPU."""
    with sharing(model, x):
        return {name: explain(model, x, classes, name, **options).cpu() for name in names}


def alike(one: Tensor, other: Tensor) -> dict[str, float]:
    """Spearman's rank correlation of two finished maps [H, W], and their SSIM; NaN where one is constant."""
    one, other = (values.double().numpy() for values in (one, other))
    if one.min() == one.max() or other.min() == other.max():
        return dict.fromkeys(METRICS, float("nan"))
    return {"spearman": float(spearmanr(one, other, axis=None).statistic),
            "ssim": float(structural_similarity(one, other, data_range=1, gaussian_weights=True, sigma=1.5,
                                                use_sample_covariance=False))}


def summed(rows: pd.DataFrame, names: Sequence[str], steps: Sequence[str]) -> tuple[Metrics, dict]:
    """Each operation's means, over pictures, of a picture's means over seeds, {"<metric> <step>": mean},
    without those that no picture has. And the intervals of all, [low, high] or None."""
    figures, all_ends, columns = {}, {}, [f"{metric} {step}" for metric in METRICS for step in steps]
    for name, part in by_operation(rows, names).items():
        wide = part.pivot_table(list(METRICS), "index", "step", "mean")
        wide.columns = [f"{metric} {step}" for metric, step in wide.columns]
        wide = wide.reindex(part["index"].unique(), columns=columns)
        ends = intervals(wide.to_numpy()).T
        figures[name] = wide.mean().dropna().to_dict()
        all_ends[name] = dict(zip(columns, np.where(np.isnan(ends), None, ends).tolist()))
    return figures, all_ends


def report(summary: dict, label: str) -> None:
    """Print the table, warn of methods whose maps stay, and draw the curves."""
    folder, figures, steps, stay = (summary[key] for key in ("folder", "figures", "steps", "unchanged"))
    for metric, words in METRICS.items():
        cells = {name + " !" * (name in stay): [with_interval(summary, name, f"{metric} {step}")
                                                for step in steps] for name in figures}
        print(f"{words} with the original map, 95 % intervals over pictures; weights randomised down to")
        print(pd.DataFrame(cells, index=steps).to_string(line_width=120), end="\n\n")
    for name in stay:
        print(f"warning: ! the maps of {name} stay much the same (mean rank correlation above {UNCHANGED}) "
              "when no weight is as it was: they show the picture, and not what the network has learned.")
    flat = sum(summary["degenerate"].values())
    print(f"{label}: {summary['pictures']} pictures, {summary['skipped']['count']} with something skipped, "
          f"{flat} comparisons without a figure since a map was constant. {folder}/")
    curves = {name: {metric: [1, *(values.get(f"{metric} {step}", float("nan")) for step in steps)]
                     for metric in METRICS} for name, values in figures.items()}
    axes = dict.fromkeys(METRICS, np.arange(len(steps) + 1))
    labels = {metric: ("randomised down to", words) for metric, words in METRICS.items()}
    plots.save_curves(folder / "curves.png", label, axes, curves, labels, ["original", *steps])
