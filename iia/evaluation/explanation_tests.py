"""The paper's explanation tests: eight metrics that say how faithful a map is (METHOD.md, section 8).

    metrics, curves = score(model, pictures, classes, maps, ["POS", "NEG"])      # a value for each picture

works for any maps [B, H, W], wherever they come from. A metric of a data set is the mean over its pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, check_choice
from ..maps import minmax
from . import information_curves as information
from . import masking, perturbation
from .answers import ask

EVERY = 50           # every 50th point of an information curve is kept: enough to draw it


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    better: "higher" or "lower". what: what it says. percent: whether it is a percentage, or 0..1.
    x, y: what the axes of its curve say; no x = it is not the area under a curve.
    """
    better: str
    what: str
    percent: bool = True
    x: str = ""
    y: str = "softmax"

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}[self.better]


MOST, LEAST = "share of the most relevant masked", "share of the least relevant masked"
SHOWN = "information shown"
METRICS = {
    "POS": Metric("lower", "area under top-1 as the most relevant are masked, 0..90", x=MOST, y="top-1"),
    "NEG": Metric("higher", "area under top-1 as the least relevant are masked, 0..90", x=LEAST, y="top-1"),
    "DEL": Metric("lower", "area under the softmax as the most relevant are masked, 0..90", x=MOST),
    "INS": Metric("higher", "area under the softmax as the least relevant are masked, 0..90", x=LEAST),
    "ADP": Metric("lower", "mean drop of the softmax when the picture is seen through its map, %"),
    "PIC": Metric("higher", "share of pictures whose softmax rises when seen through their map, %"),
    "AIC": Metric("higher", "area under top-1 over the information, 0..1", False, SHOWN, "top-1, scaled"),
    "SIC": Metric("higher", "area under the softmax over the information, 0..1", False, SHOWN,
                  "softmax, scaled"),
    "DEL_rise": Metric("lower", "RISE's deletion, 224 pixels a step, 0..1", False, "share deleted"),
    "INS_rise": Metric("higher", "RISE's insertion, 224 pixels a step, 0..1", False, "share inserted"),
}
PAPER = ("POS", "NEG", "DEL", "INS", "ADP", "PIC", "AIC", "SIC")


def axes(metrics: Sequence[str], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Where the points of each metric's curve lie, for maps of this (height, width); metrics without a curve
    are left out."""
    points = dict.fromkeys(perturbation.CURVES, np.array(perturbation.FRACTIONS))
    points |= dict.fromkeys(information.COLUMNS, np.linspace(0, 1, information.POINTS // EVERY + 1))
    points |= dict.fromkeys(("DEL_rise", "INS_rise"),
                            np.linspace(0, 1, len(perturbation.rise_counts(size[0] * size[1]))))
    return {name: points[name] for name in metrics if name in points}


@dataclass(frozen=True)
class OriginalScores:
    """What the tests of all maps of the same pictures share.

    answers: top-1 and softmax of the pictures themselves, [B, 2]. endpoints: of their information curves,
    where AIC or SIC is wanted.
    """
    answers: Tensor
    endpoints: information.CurveEndpoints | None = None


def score_originals(model, pictures: Tensor, classes: Tensor, metrics: Sequence[str] = PAPER,
                    seeds: Sequence[int] | None = None, batch_size: int = 32) -> OriginalScores:
    """Ask about the pictures themselves, once for all their maps; arguments as `score`."""
    answers = ask(model, pictures, classes, batch_size)
    if not set(metrics) & set(information.COLUMNS):
        return OriginalScores(answers)
    seeds = range(len(pictures)) if seeds is None else seeds
    endpoints = information.curve_endpoints(model, pictures, classes, seeds, answers, batch_size)
    return OriginalScores(answers, endpoints)


def score(model, pictures: Tensor, classes: Tensor, maps: Tensor, metrics: Sequence[str] = PAPER,
          originals: OriginalScores | None = None, seeds: Sequence[int] | None = None, batch_size: int = 32,
          ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The metrics of each map, and the curves that they are areas of.

    Args:
        model: any network of this project. It is asked for `classes`, whatever the maps explain.
        pictures: normalised for the model, [B, C, H, W].
        classes: the target classes, [B], int64.
        maps: the higher the more relevant, [B, H, W]. Of equally relevant pixels the first in reading order
            comes first. ADP and PIC multiply by the map: one that leaves [0, 1] is scaled to it. One that is
            not finite says nothing, as a constant one does.
        metrics: names of METRICS.
        originals: what `score_originals` returned for these pictures, to share it between maps.
        seeds: of the pixels that AIC's and SIC's blurred pictures keep, [B].
        batch_size: how many pictures go through the network at once; it bounds the memory.

    Returns:
        Metrics by name, [B] on the CPU, NaN where a picture has none (AIC and SIC). Curves by name, [B, K],
        in [0, 1].

    Raises:
        UserError: an unknown metric, or arguments that do not fit each other.
    """
    wanted = {check_choice("metric", name, METRICS) for name in metrics}
    classes = torch.as_tensor(classes, device=pictures.device)
    check(pictures, classes, maps, batch_size)
    maps = torch.where(maps.isfinite().all(-1).all(-1)[:, None, None], maps, 0)
    originals = originals or score_originals(model, pictures, classes, metrics, seeds, batch_size)
    values, curves = {}, {}
    if masked := wanted & set(perturbation.CURVES):
        curves |= perturbation.masked_curves(model, pictures, classes, maps, masked, originals.answers,
                                             batch_size)
        values |= {name: perturbation.masked_area(curves[name]) for name in masked}
    if rise := wanted & {"DEL_rise", "INS_rise"}:
        curves |= perturbation.rise_curves(model, pictures, classes, maps, rise, batch_size)
        values |= {name: perturbation.rise_area(curves[name]) for name in rise}
    if wanted & {"ADP", "PIC"}:
        whole, seen = masking.masked_softmax(model, pictures, classes, within(maps), originals.answers,
                                             batch_size)
        values |= {"ADP": masking.average_drop(whole, seen), "PIC": masking.increase(whole, seen)}
    if shown := wanted & set(information.COLUMNS):
        found = information.information_curves(model, pictures, classes, maps, shown,
                                               endpoints=originals.endpoints, batch_size=batch_size)
        values |= {name: information.information_area(curve) for name, curve in found.items()}
        curves |= {name: curve[:, ::EVERY] for name, curve in found.items()}
    return ({name: values[name].cpu() for name in metrics},
            {name: curve.cpu() for name, curve in curves.items()})


def check(pictures: Tensor, classes: Tensor, maps: Tensor, batch_size: int) -> None:
    """Raise UserError for arguments of `score` that do not fit."""
    wanted = [len(pictures), *pictures.shape[-2:]]
    if not isinstance(maps, Tensor) or list(maps.shape) != wanted:
        raise UserError(f"the maps are a tensor {wanted}, one of each picture's size, not "
                        f"{list(maps.shape) if hasattr(maps, 'shape') else type(maps).__name__}.")
    if list(classes.shape) != wanted[:1] or classes.is_floating_point() or (classes < 0).any():
        raise UserError(f"classes are whole numbers [{wanted[0]}], a target class for each picture.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it is at least 1.")


def within(maps: Tensor) -> Tensor:
    """The maps [B, H, W], those that leave [0, 1] scaled to it."""
    outside = ((maps < 0) | (maps > 1)).any(-1).any(-1)
    return torch.where(outside[:, None, None], minmax(maps), maps)
