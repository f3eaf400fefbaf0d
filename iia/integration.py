"""The numeric core: path points, gradients in batches, and the integral over one layer's path.

Knows no model. A *score* is any function from representations [N, ...] to logits [N, classes].
Path points and their weights are fixed by n alone and then sliced into chunks, so that the size
of a chunk bounds the memory and cannot change the answer.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


def path_points(n: int, like: Tensor) -> Tensor:
    """The n + 1 points a = 0, 1/n, ..., 1 of a path, with the dtype and device of `like`."""
    return torch.arange(n + 1, dtype=like.dtype, device=like.device) / n


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(total) in order."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def spatial_minimum(u: Tensor) -> Tensor:
    """The paper's baseline r: each channel's minimum over space, [N, C, H, W] -> [N, C, 1, 1]."""
    return u.amin((-2, -1), keepdim=True)


def gradient(score: Score, v: Tensor, classes: Tensor) -> Tensor:
    """∂f_y/∂v for every row at once: v [N, ...] and classes [N] -> [N, ...]."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        chosen = score(v).gather(1, classes[:, None]).sum()   # rows do not interact
        return torch.autograd.grad(chosen, v)[0]


# What is summed along a path, from v = r + a (u - r), g = ∂f_y/∂v and the span u - r.

def iia_term(v: Tensor, g: Tensor, span: Tensor) -> Tensor:
    """(u − r) ∘ q with the paper's integrand q = v ∘ ∂f_y/∂v (METHOD.md, section 3)."""
    return v * g * span


def ig_term(v: Tensor, g: Tensor, span: Tensor) -> Tensor:
    """(u − r) ∘ ∂f_y/∂v: plain Integrated Gradients, the special case q = ∂f_y/∂v."""
    return g * span


def path_integral(score: Score, u: Tensor, r: Tensor, classes: Tensor, n: int, chunk: int,
                  term: Term = iia_term) -> Tensor:
    """(1/n) Σ_j term(v_j, ∂f_y/∂v_j, u − r) over the path v_j = r + (j/n)(u − r), j = 0..n.

    Args:
        score: from a layer's representations to logits.
        u: the paths' ends, [P, C, H, W].
        r: their baselines, broadcast against u.
        classes: the class y of each path, [P], int64.
        n: the number of steps; a path has n + 1 points.
        chunk: how many points go through `score` at once.

    Returns:
        The integral summed over channels, [P, H, W].
    """
    span = u - r
    a = path_points(n, u).view(1, -1, 1, 1, 1)
    total = u.new_zeros(len(u), *u.shape[-2:])
    for steps in chunks(n + 1, chunk):
        size = steps.stop - steps.start
        for rows in chunks(len(u), max(1, chunk // size)):
            d = span[rows, None]                                        # [p, 1, C, H, W]
            v = r.expand_as(u)[rows, None] + a[:, steps] * d            # [p, s, C, H, W]
            g = gradient(score, v.flatten(0, 1), classes[rows].repeat_interleave(size))
            total[rows] += term(v, g.view_as(v), d).sum((1, 2))
    return total / n
