"""The numeric core: path points and weights, gradients in batches, and the integral over one layer's path.

Knows no model. A *score* is any function (representations [N, ...], classes [N]) -> f_y [N].
Path points and their weights are fixed by n alone and then sliced into chunks, so that the size
of a chunk bounds the memory and cannot change the answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
# The rules, and how fast their maps come to the limit: as n^-p, with p as measured (docs/results.md).
QUADRATURES = {"riemann": 1.3, "trapezoid": 1.7, "gauss": 1.8}


@dataclass(frozen=True)
class Rule:
    """A quadrature rule: where a path is looked at, a [p] in [0, 1], and what each point counts, w [p].

    With two rows, w [2, p], the sum of a rule that has about half of the points is made beside it; what is
    summed has a first dimension of 2 then.
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


def quadrature_rule(n: int, like: Tensor, quadrature: str = "riemann", halves: bool = False) -> Rule:
    """The n + 1 points of a path with n steps, with the dtype and device of `like` (METHOD.md, section 3).

    "riemann" is the paper's sum: a = 0, 1/n, ..., 1, each with weight 1/n. "trapezoid" counts its ends half.
    "gauss" has the points of Gauss and Legendre, none of which is an end. `halves` adds the weights of the
    rule that has every second of these points.
    """
    if quadrature == "gauss":
        a, w = np.polynomial.legendre.leggauss(n + 1)
        a, w = (a + 1) / 2, w / 2
    else:
        a = np.arange(n + 1) / n
        w = spaced_weights(a, quadrature)
    if halves:
        some = every_second(n + 1)
        fewer = np.zeros(n + 1)
        fewer[some] = exact_weights(a[some]) if quadrature == "gauss" else spaced_weights(a[some], quadrature)
        w = np.stack([w, fewer])
    return Rule(*(torch.as_tensor(values, dtype=like.dtype, device=like.device) for values in (a, w)))


def spaced_weights(a: np.ndarray, quadrature: str) -> np.ndarray:
    """Weights of points from 0 to 1: the trapezoid's; the paper's sum adds half of each end's step again."""
    steps = np.diff(a)
    w = (np.append(steps, 0) + np.append(0, steps)) / 2
    if quadrature == "riemann":
        w[[0, -1]] += np.array([steps[0], steps[-1]]) / 2
    return w


def exact_weights(a: np.ndarray) -> np.ndarray:
    """The weights that integrate every polynomial of a degree below len(a) exactly."""
    powers = np.polynomial.legendre.legvander(2 * a - 1, len(a) - 1).T
    return np.linalg.solve(powers, np.eye(len(a))[0])


def every_second(count: int) -> np.ndarray:
    """Every second of `count` points, as many on the left as on the right; both ends are among them."""
    left = np.arange(0, (count + 1) // 2, 2)
    return np.union1d(left, count - 1 - left)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(total) in order."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def input_points(x: Tensor, rule: Rule, chunk: int,
                 first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pictures x_i = a_i x, i = first, first + 1, ..., of every picture x [B, ...], `chunk` at a time.

    Yields (x_i [P, ...], the pictures they belong to [P], their weights [..., P]).
    """
    count = len(x)
    for rows in chunks(count * (len(rule.a) - first), chunk):
        row = torch.arange(rows.start, rows.stop, device=x.device)
        step, owner = row // count + first, row % count
        yield rule.a[step].view(-1, 1, 1, 1) * x[owner], owner, rule.w[..., step]


def add_rows(maps: Tensor | int, rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """Add maps [..., P, h, w] of path points to those of the pictures [..., count, h, w] that own them."""
    if isinstance(maps, int):
        maps = rows.new_zeros(*rows.shape[:-3], count, *rows.shape[-2:])
    return maps.index_add_(-3, owner, rows)


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "spatial-minimum": lambda u: u.amin((-2, -1), keepdim=True),      # the paper's: each channel's over space
    "channel-minimum": lambda u: u.amin(-3, keepdim=True),            # each place's, over channels
    "zero": lambda u: u.new_zeros(len(u), 1, 1, 1),
    "mean": lambda u: u.mean((-2, -1), keepdim=True),                 # each channel's over space
}
"""What a layer's path begins at: from u [N, C, H, W] to r, broadcast against it."""


def gradient(score: Score, v: Tensor, classes: Tensor) -> Tensor:
    """∂f_y/∂v for every row at once: v [N, ...] and classes [N] -> [N, ...]."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        return torch.autograd.grad(score(v, classes).sum(), v)[0]       # rows do not interact


# A term is what is summed along a path. It is given the points v = r + a d, [p, s, C, H, W] for s values of
# a, the gradients g = ∂f_y/∂v there, and the span d = u − r, [p, 1, C, H, W].

def iia_term(v: Tensor, g: Tensor, d: Tensor) -> Tensor:
    """(u − r) ∘ q with the paper's integrand q = v ∘ ∂f_y/∂v (METHOD.md, section 3)."""
    return d * v * g


def ig_term(v: Tensor, g: Tensor, d: Tensor) -> Tensor:
    """(u − r) ∘ ∂f_y/∂v: plain Integrated Gradients, the special case q = ∂f_y/∂v."""
    return d * g


def path_integral(score: Score, u: Tensor, r: Tensor, classes: Tensor, rule: Rule, chunk: int,
                  term: Term = iia_term) -> Tensor:
    """Σ_j w_j term at v_j = r + a_j (u − r).

    Args:
        score: from a layer's representations and classes to f_y.
        u: the paths' ends, [P, C, H, W].
        r: their baselines, broadcast against u.
        classes: the class y of each path, [P], int64.
        rule: the points a_j and their weights.
        chunk: how many points go through `score` at once.

    Returns:
        The integral summed over channels, [P, H, W], or [2, P, H, W] by two rules.
    """
    u = u.contiguous()                        # one order of memory for u, v and g
    r = r.expand_as(u).contiguous()
    d = u - r
    total = u.new_zeros(*rule.w.shape[:-1], len(u), *u.shape[-2:])
    for steps in chunks(len(rule.a), chunk):
        a, w, size = rule.a[steps], rule.w[..., steps], steps.stop - steps.start
        for rows in chunks(len(u), max(1, chunk // size)):
            v = torch.addcmul(r[rows, None], a.view(1, -1, 1, 1, 1), d[rows, None])         # [p, s, C, H, W]
            g = gradient(score, v.flatten(0, 1), classes[rows].repeat_interleave(size))
            at = term(v, g.contiguous().view_as(v), d[rows, None]).sum(2)                   # [p, s, H, W]
            total[..., rows, :, :] += torch.einsum("pshw,...s->...phw", at, w)
    return total
