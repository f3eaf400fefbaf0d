"""Quadrature rules: the points and weights of a path (METHOD.md, section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# By ORDER, p, two maps make a guess of the limit. It was chosen by how near the estimated distance is to the
# true one on photographs (docs/results.md). KEPT: the points that are in both half rules.
ORDER = {"riemann": 1.7, "trapezoid": 1.6, "gauss": 2, "graded": 2}
KEPT = {"trapezoid": (0, -1), "gauss": (), "graded": (0,)}
QUADRATURES = tuple(ORDER)


@dataclass(frozen=True)
class Rule:
    """The points a [p] in [0, 1] of a path, and their weights w [p].

    With three rows, w [3, p], two guesses of the limit are summed beside it; what is summed has a first
    dimension of 3 then.
    """
    a: Tensor
    w: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each point with its weight, ready to be multiplied with maps [P, h, w]."""
        yield from zip(self.a, self.w[..., None, None, None].unbind(-4), strict=True)

    @property
    def starts_at_zero(self) -> bool:
        return self.a[0].item() == 0

    def average(self) -> "Rule":
        """The same points, with weights that sum to 1."""
        return Rule(self.a, self.w / self.w.sum(-1, keepdim=True))


def quadrature_rule(n: int, like: Tensor, quadrature: str = "riemann", guesses: bool = False) -> Rule:
    """The n + 1 points of a path with n steps, with the dtype and device of `like`.

    "riemann" is the paper's sum: a = 0, 1/n, ..., 1, each with weight 1/n. In "trapezoid" the ends have half
    of that. "gauss" has Gauss-Legendre's points, none of which is an end. "graded" has the midpoints of n + 1
    cells that end at (k / (n + 1))², and 0 for the first: a picture's path changes most where it is dark.

    `guesses` adds two guesses of the limit, by Richardson: the rule of every second point, of the even or of
    the odd ones, is taken to be 2^p times as far from it.
    """
    a, w = points(n, quadrature), weights(n, quadrature, np.arange(n + 1))
    if guesses:
        best = "trapezoid" if quadrature == "riemann" else quadrature
        full, w = weights(n, best, np.arange(n + 1)), [w]
        for first in (0, 1):
            half, fewer = np.arange(n + 1) % 2 == first, np.zeros(n + 1)
            half[list(KEPT[best])] = True
            if not half.any():                # a single point has no half
                half[:] = True
            fewer[half] = weights(n, best, np.flatnonzero(half))
            w.append(full + (full - fewer) / (2 ** ORDER[quadrature] - 1))
    return Rule(*(torch.as_tensor(np.array(values), dtype=like.dtype, device=like.device)
                  for values in (a, w)))


def points(n: int, quadrature: str) -> np.ndarray:
    """The n + 1 points of a rule, in [0, 1]."""
    if quadrature == "gauss":
        return (np.polynomial.legendre.leggauss(n + 1)[0] + 1) / 2
    if quadrature == "graded":
        edges = (np.arange(n + 2) / (n + 1)) ** 2
        return np.append(0, (edges[1:-1] + edges[2:]) / 2)
    return np.arange(n + 1) / n


def weights(n: int, quadrature: str, some: np.ndarray) -> np.ndarray:
    """The weights of the points with the numbers `some`, used on their own."""
    a = points(n, quadrature)[some]
    if quadrature == "gauss":            # every polynomial of a degree below len(a) is integrated exactly
        powers = np.polynomial.legendre.legvander(2 * a - 1, len(a) - 1).T
        return np.linalg.solve(powers, np.eye(len(a))[0])
    if quadrature == "graded":           # a cell ends half-way to the next point, in the cells' own numbers
        edges = np.concatenate([[0], (some[:-1] + some[1:] + 1) / 2, [n + 1]]) / (n + 1)
        return np.diff(edges**2)
    steps = np.diff(a)
    w = (np.append(steps, 0) + np.append(0, steps)) / 2
    if quadrature == "riemann":
        w[[0, -1]] *= 2                  # the ends count fully
    return w
