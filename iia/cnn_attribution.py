"""IIA for CNNs: two and three levels, the ablations, and what the published release computes.

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, h, w] at the layer's resolution out. Section numbers are METHOD.md's.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .integration import chunks, gradient, input_points, path_integral, path_points, spatial_minimum
from .models.cnn import CNN, Cut
from .options import IIAOptions


def input_path(model: CNN, x: Tensor, cut: Cut, options: IIAOptions) -> Iterator[tuple[Tensor, Tensor]]:
    """Representations u(x_i) at layer `cut` along x_i = (i/n) x, with the pictures they belong to.

    Yields (u [P, C, h, w], owners [P]). The first is the picture 0, the same for all: one row u
    with all B owners.
    """
    yield model.at_zero(cut, x), torch.arange(len(x), device=x.device)
    before = model.before(options.layer)               # the deepest layer that IIA2 and IIA3 have in common
    for place, (points, owner) in enumerate(input_points(x, options.steps, options.batch_size)):
        u = model.shared.get(x, (before, options.steps, options.batch_size, place),
                             lambda: model.features(points, before))
        yield model.stages(before, cut, u), owner


def iia2(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2 (section 3): m = (1/n²) Σ_i Σ_j (u_i − r_i) ∘ v_ij ∘ ∂f_y/∂v_ij, u_i = features(x_i)."""
    f, maps = model.score(options.layer, target=options.target), 0
    for u, owner in input_path(model, x, options.layer, options):
        u = u.expand(len(owner), *u.shape[1:])
        integral = path_integral(f, u, spatial_minimum(u), y[owner], options.steps, options.batch_size)
        maps = add_rows(maps, integral, owner, len(x))
    return maps / options.steps


def iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA3 (section 3): between the input's path and layer L's lies that of the stage before it.

    u^{L−1} = features_{L−1}(x_i), v^{L−1} on its path, u^L = stage_L(v^{L−1}), then as in IIA2.
    """
    f, maps, n, before = model.score(options.layer, target=options.target), 0, options.steps, model.before(options.layer)
    for w, owner in input_path(model, x, before, options):
        r, a = spatial_minimum(w), path_points(n, w).view(-1, 1, 1, 1)
        for rows in chunks(len(w) * (n + 1), options.batch_size):
            row = torch.arange(rows.start, rows.stop, device=x.device)
            path, step = row // (n + 1), row % (n + 1)
            u = model.stages(before, options.layer, r[path] + a[step] * (w - r)[path])      # [rows, C, h, w]
            # The picture 0 is one path with all pictures for owners: its stage runs once for all of them.
            owners = owner[path] if len(owner) == len(w) else owner.repeat_interleave(len(u))
            u = u.repeat(len(owners) // len(u), 1, 1, 1)
            maps = add_rows(maps, path_integral(f, u, spatial_minimum(u), y[owners], n, options.batch_size),
                            owners, len(x))
    return maps / n**2


def ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The input's path only: the layer's path shrinks to its end, v = u(x_i)."""
    f, maps = model.score(options.layer, target=options.target), 0
    for u, owner in input_path(model, x, options.layer, options):
        u = u.expand(len(owner), *u.shape[1:])
        g = gradient(f, u, y[owner])
        maps = add_rows(maps, ((u - spatial_minimum(u)) * u * g).sum(1), owner, len(x))
    return maps / options.steps


def ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The layer's path only: the input's path shrinks to its end, the picture itself."""
    u = at_pictures(model, x, options)
    return path_integral(model.score(options.layer, target=options.target), u, spatial_minimum(u), y, options.steps,
                         options.batch_size)


# ------------------------------------------------------------- the release (section 4)

def released_iia(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ∂f_y/∂u(x_i) ∘ ReLU(u(x_i)): its layer integral vanishes."""
    f, maps = model.score(options.layer, "release", options.target), 0
    for u, owner in input_path(model, x, options.layer, options):
        u = u.expand(len(owner), *u.shape[1:])
        maps = add_rows(maps, (gradient(f, u, y[owner]) * u.relu()).sum(1), owner, len(x))
    return maps


def released_ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ReLU(∂f_y/∂u(x_i)) ∘ ReLU(u(x_i))."""
    f, maps = model.score(options.layer, "release", options.target), 0
    for u, owner in input_path(model, x, options.layer, options):
        u = u.expand(len(owner), *u.shape[1:])
        maps = add_rows(maps, relu_term(u, gradient(f, u, y[owner])).sum(1), owner, len(x))
    return maps


def released_ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = (n + 1) ReLU(∂f_y/∂u) ∘ ReLU(u): n + 1 times the same point of a constant path."""
    u, f = at_pictures(model, x, options), model.score(options.layer, "release", options.target)
    g = torch.cat([gradient(f, u[rows], y[rows]) for rows in chunks(len(x), options.batch_size)])
    return (options.steps + 1) * relu_term(u, g).sum(1)


def released_iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Both baselines are element-wise minima over the input's path, so a picture is taken whole:
    m = Σ_i Σ_j Σ_k ReLU(∂f_y/∂v^L ∘ ReLU(v^L))."""
    return torch.cat([_released_iia3(model, x[b:b + 1], y[b:b + 1], options) for b in range(len(x))])


def _released_iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    f, n, total, before = model.score(options.layer, "release", options.target), options.steps, 0, model.before(options.layer)
    w = torch.cat([u for u, _ in input_path(model, x, before, options)])       # [n + 1, C', h', w']
    r = w.amin(0, keepdim=True)
    for a in path_points(n, w):
        v = r + a * (w - r)
        u = torch.cat([model.stages(before, options.layer, v[rows])
                       for rows in chunks(n + 1, options.batch_size)])                # [n + 1, C, h, w]
        total += path_integral(f, u, u.amin(0, keepdim=True), y.expand(n + 1), n,
                               options.batch_size, term=relu_path_term).sum(0, keepdim=True)
    return total * n


def relu_term(v: Tensor, g: Tensor) -> Tensor:
    """ReLU(g ∘ ReLU(v)) = ReLU(g) ∘ ReLU(v), the release's summand; it leaves out the span u − r."""
    return g.relu() * v.relu()


def relu_path_term(v: Tensor, g: Tensor, a: Tensor, r: Tensor, d: Tensor) -> Tensor:
    """`relu_term` summed along a path (see iia/integration.py)."""
    return relu_term(v, g).sum(1)


# ------------------------------------------------------------------------------ helpers

def at_pictures(model: CNN, x: Tensor, options: IIAOptions) -> Tensor:
    """features(x) at the layer, in chunks."""
    return torch.cat([model.features(x[rows], options.layer) for rows in chunks(len(x), options.batch_size)])


def add_rows(maps: Tensor | int, rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """Add maps [P, h, w] of path points to those of the pictures [count, h, w] that own them."""
    if isinstance(maps, int):
        maps = rows.new_zeros(count, *rows.shape[1:])
    return maps.index_add_(0, owner, rows)
