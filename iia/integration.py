"""The numeric core: path points, gradients in batches, and the integral over one layer's path.

Knows no model. A *score* is any function (representations [N, ...], classes [N]) -> f_y [N].
Path points and their weights are fixed by n alone and then sliced into chunks, so that the size
of a chunk bounds the memory and cannot change the answer.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


def path_points(n: int, like: Tensor) -> Tensor:
    """The n + 1 points a = 0, 1/n, ..., 1 of a path, with the dtype and device of `like`."""
    return torch.arange(n + 1, dtype=like.dtype, device=like.device) / n


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(total) in order."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def input_points(x: Tensor, n: int, chunk: int, first: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures x_i = (i/n) x, i = first..n, of every picture x [B, ...], at most `chunk` at a time.

    Yields (x_i [P, ...], the pictures they belong to [P]).
    """
    a, count = path_points(n, x), len(x)
    for rows in chunks(count * (n + 1 - first), chunk):
        row = torch.arange(rows.start, rows.stop, device=x.device)
        step, owner = row // count + first, row % count
        yield a[step].view(-1, 1, 1, 1) * x[owner], owner


def spatial_minimum(u: Tensor) -> Tensor:
    """The paper's baseline r: each channel's minimum over space, [N, C, H, W] -> [N, C, 1, 1]."""
    return u.amin((-2, -1), keepdim=True)


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


def path_integral(score: Score, u: Tensor, r: Tensor, classes: Tensor, n: int, chunk: int,
                  term: Term = iia_term) -> Tensor:
    """(1/n) Σ_j term at v_j = r + (j/n)(u − r), j = 0..n.

    Args:
        score: from a layer's representations and classes to f_y.
        u: the paths' ends, [P, C, H, W].
        r: their baselines, broadcast against u.
        classes: the class y of each path, [P], int64.
        n: the number of steps; a path has n + 1 points.
        chunk: how many points go through `score` at once.

    Returns:
        The integral summed over channels, [P, H, W].
    """
    u = u.contiguous()                        # one order of memory for u, v and g
    r = r.expand_as(u).contiguous()
    d = u - r
    a = path_points(n, u)
    total = u.new_zeros(len(u), *u.shape[-2:])
    for steps in chunks(n + 1, chunk):
        size = steps.stop - steps.start
        for rows in chunks(len(u), max(1, chunk // size)):
            v = torch.addcmul(r[rows, None], a[steps].view(1, -1, 1, 1, 1), d[rows, None])  # [p, s, C, H, W]
            g = gradient(score, v.flatten(0, 1), classes[rows].repeat_interleave(size))
            total[rows] += term(v, g.contiguous().view_as(v), d[rows, None]).sum((1, 2))
    return total / n
