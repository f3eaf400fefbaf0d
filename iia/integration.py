"""The numeric core: path points and weights, gradients in batches, and the integral over one layer's path.

Knows no model. A *score* is any function (representations [N, ...], classes [N]) -> f_y [N].
Path points and their weights are fixed by a rule and then sliced into chunks, so that the size
of a chunk bounds the memory and cannot change the answer.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .quadrature import Rule

Score = Callable[[Tensor, Tensor], Tensor]
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


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
        The integral summed over channels, [P, H, W], or [3, P, H, W] with two guesses of its limit.
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
