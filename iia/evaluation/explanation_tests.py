"""The paper's explanation tests: eight figures that say how faithful a map is (METHOD.md, section 8).

    figures, curves = score(model, pictures, classes, maps, ["POS", "NEG"])      # a value for each picture

works for any maps [B, H, W], wherever they come from. A figure of a data set is the mean over its pictures.
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
class Figure:
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


MOST, LEAST, SHOWN = "share of the most relevant masked", "share of the least relevant masked", "information shown"
FIGURES = {
    "POS": Figure("lower", "area under top-1 as the most relevant pixels are masked, 0..90", x=MOST, y="top-1"),
    "NEG": Figure("higher", "area under top-1 as the least relevant pixels are masked, 0..90", x=LEAST, y="top-1"),
    "DEL": Figure("lower", "area under the softmax as the most relevant pixels are masked, 0..90", x=MOST),
    "INS": Figure("higher", "area under the softmax as the least relevant pixels are masked, 0..90", x=LEAST),
    "ADP": Figure("lower", "mean drop of the softmax when the picture is seen through its map, %"),
    "PIC": Figure("higher", "share of pictures whose softmax rises when seen through their map, %"),
    "AIC": Figure("higher", "area under top-1 over the information shown, 0..1", False, SHOWN, "top-1, scaled"),
    "SIC": Figure("higher", "area under the softmax over the information shown, 0..1", False, SHOWN, "softmax, scaled"),
    "DEL_rise": Figure("lower", "RISE's deletion, 224 pixels a step, 0..1", False, "share deleted"),
    "INS_rise": Figure("higher", "RISE's insertion into a blur, 224 pixels a step, 0..1", False, "share inserted"),
}
PAPER = ("POS", "NEG", "DEL", "INS", "ADP", "PIC", "AIC", "SIC")


def axes(figures: Sequence[str], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Where the points of each figure's curve lie, for maps of this (height, width); figures without a curve
    are left out."""
    points = dict.fromkeys(perturbation.READ, np.array(perturbation.FRACTIONS))
    points |= dict.fromkeys(information.READ, np.linspace(0, 1, information.POINTS // EVERY + 1))
    points |= dict.fromkeys(("DEL_rise", "INS_rise"),
                            np.linspace(0, 1, len(perturbation.rise_counts(size[0] * size[1]))))
    return {name: points[name] for name in figures if name in points}


@dataclass(frozen=True)
class Untouched:
    """What the tests of all maps of the same pictures share.

    answers: top-1 and softmax of the untouched pictures, [B, 2]. ends: of their information curves, where needed.
    """
    answers: Tensor
    ends: information.Ends | None = None


def look(model, pictures: Tensor, classes: Tensor, figures: Sequence[str] = PAPER, seeds: Sequence[int] | None = None,
         batch_size: int = 32) -> Untouched:
    """Ask about the untouched pictures, once for all their maps; arguments as `score`."""
    answers = ask(model, pictures, classes, batch_size)
    if not set(figures) & set(information.READ):
        return Untouched(answers)
    seeds = range(len(pictures)) if seeds is None else seeds
    return Untouched(answers, information.ends_of_curves(model, pictures, classes, seeds, answers, batch_size))


def score(model, pictures: Tensor, classes: Tensor, maps: Tensor, figures: Sequence[str] = PAPER,
          untouched: Untouched | None = None, seeds: Sequence[int] | None = None, batch_size: int = 32,
          ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The figures of each map, and the curves that they are areas of.

    Args:
        model: any network of this project. It is asked for `classes`, whatever the maps explain.
        pictures: normalised for the model, [B, C, H, W].
        classes: the target classes, [B], int64.
        maps: the higher the more relevant, [B, H, W]. Of equally relevant pixels the first in reading order comes
            first. ADP and PIC multiply by the map: one that leaves [0, 1] is scaled to it. One that is not finite
            says nothing, as a constant one does.
        figures: names of FIGURES.
        untouched: what `look` returned for these pictures, to share it between maps.
        seeds: of the pixels that AIC's and SIC's blurred pictures keep, [B].
        batch_size: how many pictures go through the network at once; it bounds the memory.

    Returns:
        Figures by name, [B] on the CPU, NaN where a picture has none (AIC and SIC). Curves by name, [B, K], in [0, 1].

    Raises:
        UserError: an unknown figure, or arguments that do not fit each other.
    """
    wanted = {check_choice("figure", name, FIGURES) for name in figures}
    classes = torch.as_tensor(classes, device=pictures.device)
    check(pictures, classes, maps, batch_size)
    maps = torch.where(maps.isfinite().all(-1).all(-1)[:, None, None], maps, 0)
    untouched = untouched or look(model, pictures, classes, figures, seeds, batch_size)
    values, curves = {}, {}
    if masked := wanted & set(perturbation.READ):
        curves |= perturbation.masked_curves(model, pictures, classes, maps, masked, untouched.answers, batch_size)
        values |= {name: perturbation.masked_area(curves[name]) for name in masked}
    if rise := wanted & {"DEL_rise", "INS_rise"}:
        curves |= perturbation.rise_curves(model, pictures, classes, maps, rise, batch_size)
        values |= {name: perturbation.rise_area(curves[name]) for name in rise}
    if wanted & {"ADP", "PIC"}:
        whole, seen = masking.masked_softmax(model, pictures, classes, within(maps), untouched.answers, batch_size)
        values |= {"ADP": masking.average_drop(whole, seen), "PIC": masking.increase(whole, seen)}
    if shown := wanted & set(information.READ):
        found = information.information_curves(model, pictures, classes, maps, shown, ends=untouched.ends,
                                               batch_size=batch_size)
        values |= {name: information.information_area(curve) for name, curve in found.items()}
        curves |= {name: curve[:, ::EVERY] for name, curve in found.items()}
    return {name: values[name].cpu() for name in figures}, {name: curve.cpu() for name, curve in curves.items()}


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
