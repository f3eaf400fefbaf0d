"""The explanation tests: figures that say how faithful a map is, under one of four protocols (METHOD.md,
section 8).

    metrics, curves = score(model, pictures, classes, maps, ["POS", "NEG"])      # a value for each picture

works for any maps [B, H, W], wherever they come from. A metric of a data set is the mean over its pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..datasets.pictures import normalise
from ..errors import UserError
from ..maps import minmax
from . import information_curves as information
from . import masking, perturbation, road
from .answers import SOFTMAX, ask
from .protocols import DIFFERENCES, PAPER, PROTOCOLS, chosen_figures

EVERY = 50           # every 50th point of an information curve is kept: enough to draw it


def axes(metrics: Sequence[str], size: tuple[int, int], protocol: str = "paper") -> dict[str, np.ndarray]:
    """Where the points of each metric's curve lie, for maps of this (height, width); metrics without a curve
    are left out."""
    points = dict.fromkeys(perturbation.CURVES, np.array(perturbation.FRACTIONS))
    points |= dict.fromkeys(information.COLUMNS, np.linspace(0, 1, information.POINTS // EVERY + 1))
    points |= dict.fromkeys(road.CURVES, np.array(road.FRACTIONS))
    if protocol == "rise":
        points |= dict.fromkeys(("DEL", "INS"),
                                np.linspace(0, 1, len(perturbation.rise_counts(size[0] * size[1]))))
    return {name: points[name] for name in metrics if name in points}


@dataclass(frozen=True)
class OriginalScores:
    """What the tests of all maps of the same pictures share.

    answers: for the pictures themselves, [B, 2] as from `ask`. endpoints: of their information curves, where
    AIC or SIC is wanted.
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
    return OriginalScores(answers, information.curve_endpoints(model, pictures, classes, seeds, answers,
                                                               batch_size))


def score(model, pictures: Tensor, classes: Tensor, maps: Tensor, metrics: Sequence[str] | None = None,
          originals: OriginalScores | None = None, seeds: Sequence[int] | None = None, batch_size: int = 32,
          protocol: str = "paper") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The metrics of each map, and the curves that they are areas of.

    Args:
        model: any network of this project. It is asked for `classes`, whatever the maps explain.
        pictures: normalised for the model, [B, C, H, W].
        classes: the classes that are asked for, [B], int64: the targets, or the predicted ones where the
            protocol asks for these.
        maps: the higher the more relevant, [B, H, W]. Of equally relevant pixels the first in reading order
            comes first. ADP, PIC and ADD multiply by the map: one that leaves [0, 1] is scaled to it. One
            that is not finite says nothing, as a constant one does.
        metrics: figures of the protocol; None = all.
        originals: what `score_originals` returned for these pictures, to share it between maps.
        seeds: of the pixels that AIC's and SIC's blurred pictures keep, and of ROAD's noise, [B].
        batch_size: how many pictures go through the network at once; it bounds the memory.
        protocol: a name of PROTOCOLS.

    Returns:
        Metrics by name, [B] on the CPU, NaN where a picture has none (AIC and SIC). Curves by name, [B, K],
        in [0, 1].

    Raises:
        UserError: an unknown protocol or metric, or arguments that do not fit each other.
    """
    metrics, rules = list(chosen_figures(protocol, metrics)), PROTOCOLS[protocol]
    wanted = set(metrics).union(*(DIFFERENCES[name][:2] for name in metrics if name in DIFFERENCES))
    classes = torch.as_tensor(classes, device=pictures.device)
    check(pictures, classes, maps, batch_size)
    maps = torch.where(maps.isfinite().all(-1).all(-1)[:, None, None], maps, 0)
    seeds = range(len(pictures)) if seeds is None else seeds
    originals = originals or score_originals(model, pictures, classes, metrics, seeds, batch_size)
    asked = model, pictures, classes, maps
    if protocol == "rise":
        curves = perturbation.rise_curves(*asked, wanted, batch_size)
        values = {name: information.unit_area(curve) for name, curve in curves.items()}
    elif protocol == "road":
        curves = road.road_curves(*asked, wanted, originals.answers, seeds, batch_size)
        values = {name: road.road_change(curve) for name, curve in curves.items()}
    else:
        values, curves = masked_figures(*asked, wanted, rules.black, originals.answers, batch_size)
    if wanted & set(information.COLUMNS):
        informed = information.information_curves(*asked, wanted, originals.endpoints, batch_size,
                                                  rules.thresholds, rules.sure)
        values |= {name: information.unit_area(curve) for name, curve in informed.items()}
        curves |= {name: curve[:, ::EVERY] for name, curve in informed.items()}
    for name in wanted & set(DIFFERENCES):
        higher, lower, factor = DIFFERENCES[name]
        values[name] = factor * (values[higher] - values[lower])
    return ({name: values[name].cpu() for name in metrics},
            {name: curve.cpu() for name, curve in curves.items() if name in metrics})


def masked_figures(model, pictures: Tensor, classes: Tensor, maps: Tensor, wanted: set[str], to_black: bool,
                   answers: Tensor, batch_size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """POS, NEG, DEL, INS, ADP, PIC and ADD, as `score`. A masked pixel is black, or 0 after normalisation."""
    masked = to_black * normalise(pictures.new_zeros(model.channels, 1, 1), model.mean, model.std)
    curves = perturbation.masked_curves(model, pictures, classes, maps, masked, wanted, answers, batch_size)
    values = {name: perturbation.masked_area(curve) for name, curve in curves.items()}
    whole, shown = answers[:, SOFTMAX], within(maps)
    if wanted & {"ADP", "PIC"}:
        seen = masking.masked_softmax(model, pictures, classes, shown, masked, batch_size)
        values |= {"ADP": masking.average_drop(whole, seen), "PIC": masking.increase(whole, seen)}
    if "ADD" in wanted:
        rest = masking.masked_softmax(model, pictures, classes, 1 - shown, masked, batch_size)
        values["ADD"] = masking.average_drop(whole, rest)
    return values, curves


def check(pictures: Tensor, classes: Tensor, maps: Tensor, batch_size: int) -> None:
    """Raise UserError for arguments of `score` that do not fit."""
    shape = [len(pictures), *pictures.shape[-2:]]
    if not isinstance(maps, Tensor) or list(maps.shape) != shape:
        raise UserError(f"the maps are a tensor {shape}, one of each picture's size, not "
                        f"{list(maps.shape) if hasattr(maps, 'shape') else type(maps).__name__}.")
    if list(classes.shape) != shape[:1] or classes.is_floating_point() or (classes < 0).any():
        raise UserError(f"classes are whole numbers [{shape[0]}], a target class for each picture.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it is at least 1.")


def within(maps: Tensor) -> Tensor:
    """The maps [B, H, W]; those that leave [0, 1] are scaled to it."""
    outside = ((maps < 0) | (maps > 1)).any(-1).any(-1)
    return torch.where(outside[:, None, None], minmax(maps), maps)
