"""IIA for CNNs: two and three levels, the ablations, and what the published release computes.

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, h, w] at the layer's resolution out. Section numbers are METHOD.md's.
"""

from collections.abc import Callable, Iterator
from itertools import starmap

import torch
from torch import Tensor

from .integration import chunks, gradient, input_points, path_integral, path_points, spatial_minimum
from .models.cnn import CNN, Cut
from .options import IIAOptions


def iia2(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2 (section 3): m = (1/n²) Σ_i Σ_j (u_i − r_i) ∘ v_ij ∘ ∂f_y/∂v_ij, u_i = features(x_i)."""
    f, n = model.score(options.layer, target=options.target), options.steps

    def integral(u: Tensor, y: Tensor) -> Tensor:
        return path_integral(f, u, spatial_minimum(u), y, n, options.batch_size)

    return along_input(model, x, y, options, integral) / n


def iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA3 (section 3): between the input's path and layer L's lies that of the stage before it.

    u^{L−1} = features_{L−1}(x_i), v^{L−1} on its path, u^L = stage_L(v^{L−1}), then as in IIA2.
    """
    f, n = model.score(options.layer, target=options.target), options.steps
    before, maps = model.before(options.layer), 0
    for w, owners in input_path(model, x, before, options):
        r, a = spatial_minimum(w), path_points(n, w).view(-1, 1, 1, 1)
        for rows in chunks(len(w) * (n + 1), options.batch_size):
            row = torch.arange(rows.start, rows.stop, device=x.device)
            path, step = row // (n + 1), row % (n + 1)
            u = model.stages(before, options.layer, r[path] + a[step] * (w - r)[path])      # [rows, C, h, w]
            u, owner = for_each_owner(u, owners[path])
            integral = path_integral(f, u, spatial_minimum(u), y[owner], n, options.batch_size)
            maps = add_rows(maps, integral, owner, len(x))
    return maps / n**2


def ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The input's path only: the layer's path shrinks to its end, v = u(x_i)."""
    f = model.score(options.layer, target=options.target)
    term = lambda u, y: ((u - spatial_minimum(u)) * u * gradient(f, u, y)).sum(1)
    return along_input(model, x, y, options, term) / options.steps


def ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The layer's path only: the input's path shrinks to its end, the picture itself."""
    u = model.features(x, options.layer)
    return path_integral(model.score(options.layer, target=options.target), u, spatial_minimum(u), y,
                         options.steps, options.batch_size)


# ------------------------------------------------------------- the release (section 4)

def released_iia(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ∂f_y/∂u(x_i) ∘ ReLU(u(x_i)): its layer integral vanishes."""
    f = model.score(options.layer, "release", options.target)
    return along_input(model, x, y, options, lambda u, y: (gradient(f, u, y) * u.relu()).sum(1))


def released_ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ReLU(∂f_y/∂u(x_i)) ∘ ReLU(u(x_i))."""
    f = model.score(options.layer, "release", options.target)
    return along_input(model, x, y, options, lambda u, y: relu_term(u, gradient(f, u, y)).sum(1))


def released_ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = (n + 1) ReLU(∂f_y/∂u) ∘ ReLU(u): n + 1 times the same point of a constant path."""
    u, f = model.features(x, options.layer), model.score(options.layer, "release", options.target)
    return (options.steps + 1) * relu_term(u, gradient(f, u, y)).sum(1)


def released_iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Both baselines are element-wise minima over the input's path, so that pictures are taken one by one:
    m = Σ_i Σ_j Σ_k ReLU(∂f_y/∂v^L ∘ ReLU(v^L))."""
    f, n = model.score(options.layer, "release", options.target), options.steps
    before, maps = model.before(options.layer), []
    for b in range(len(x)):
        w = torch.cat([u for u, _ in input_path(model, x[b:b + 1], before, options)])   # [n + 1, C', h', w']
        r, total = w.amin(0, keepdim=True), 0
        for a in path_points(n, w):
            v = r + a * (w - r)
            u = torch.cat([model.stages(before, options.layer, v[rows])
                           for rows in chunks(n + 1, options.batch_size)])              # [n + 1, C, h, w]
            total += path_integral(f, u, u.amin(0, keepdim=True), y[b].expand(n + 1), n, options.batch_size,
                                   term=relu_term).sum(0, keepdim=True)
        maps.append(total * n)
    return torch.cat(maps)


def relu_term(v: Tensor, g: Tensor, d: Tensor | None = None) -> Tensor:
    """ReLU(g ∘ ReLU(v)) = ReLU(g) ∘ ReLU(v), the release's summand; it leaves out the span d = u − r."""
    return g.relu() * v.relu()


# ------------------------------------------------------------- the input's path

def input_path(model: CNN, x: Tensor, cut: Cut, options: IIAOptions) -> Iterator[tuple[Tensor, Tensor]]:
    """Representations u(x_i) at layer `cut` along x_i = (i/n) x, with the pictures they belong to.

    Yields (u [P, C, h, w], owners [P, K]). K is 1, but for the first: the picture 0 is the same for all, one
    row u with all B pictures for owners.
    """
    yield model.at_zero(cut, x), torch.arange(len(x), device=x.device)[None]
    before = model.before(options.layer)           # the deepest layer that IIA2 and IIA3 have in common
    for place, (points, owner) in enumerate(input_points(x, options.steps, options.batch_size)):
        u = model.shared.get(x, (before, options.steps, options.batch_size, place),
                             lambda: model.features(points, before))
        yield model.stages(before, cut, u), owner[:, None]


def along_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions,
                of_points: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Σ_i of the maps that `of_points` makes of u(x_i) [P, C, h, w] and their classes [P]: [B, h, w]."""
    maps = 0
    for u, owner in starmap(for_each_owner, input_path(model, x, options.layer, options)):
        maps = add_rows(maps, of_points(u, y[owner]), owner, len(x))
    return maps


def for_each_owner(u: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Rows u [P, ...] and owners [P, K] -> a row for each owner: [K·P, ...] and [K·P]."""
    return u.expand(owners.shape[1], *u.shape).flatten(0, 1), owners.T.flatten()


def add_rows(maps: Tensor | int, rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """Add maps [P, h, w] of path points to those of the pictures [count, h, w] that own them."""
    if isinstance(maps, int):
        maps = rows.new_zeros(count, *rows.shape[1:])
    return maps.index_add_(0, owner, rows)
