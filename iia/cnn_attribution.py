"""IIA for CNNs: two and three levels, the ablations, and what the published release computes.

Every operation is a function (model, x, y, options) -> raw maps: normalised pictures x [B, 3, H, W] and
classes y [B] in, maps [B, h, w] at the layer's resolution out. Section numbers are METHOD.md's.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .errors import UserError
from .integration import add_rows, chunks, gradient, input_points, path_integral
from .models.cnn import CNN, Cut
from .options import IIAOptions


def iia2(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2 (section 3): m = Σ_i Σ_j w_i w_j (u_i − r_i) ∘ v_ij ∘ ∂f_y/∂v_ij, u_i = features(x_i)."""
    f, rule = model.score(options.layer, target=options.target), options.layer_rule(x)

    def integral(u: Tensor, y: Tensor) -> Tensor:
        return path_integral(f, u, options.start(u), y, rule, options.batch_size)

    return along_input(model, x, y, options, integral)


def iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA3 (section 3): between the input's path and layer L's lies that of the stage before it.

    u^{L−1} = features_{L−1}(x_i), v^{L−1} on its path, u^L = stage_L(v^{L−1}), then as in IIA2.
    """
    f, rule = model.score(options.layer, target=options.target), options.layer_rule(x)
    before, maps, p = model.before(options.layer), 0, len(rule.a)
    for u, owners, weights in input_path(model, x, before, options):
        r = options.start(u).expand_as(u)
        for rows in chunks(len(u) * p, options.batch_size):
            row = torch.arange(rows.start, rows.stop, device=x.device)
            point, step = row // p, row % p
            v = r[point] + rule.a[step].view(-1, 1, 1, 1) * (u - r)[point]
            above = model.stages(before, options.layer, v)                                  # [rows, C, h, w]
            above, owner, w = for_each_owner(above, owners[point], weights[..., point] * rule.w[..., step])
            integral = path_integral(f, above, options.start(above), y[owner], rule, options.batch_size)
            maps = add_rows(maps, integral * w[..., None, None], owner, len(x))
    return maps


def iia_previous(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """IIA2(L−1): IIA2 at the stage before the chosen layer.

    Raises:
        UserError: there is none.
    """
    two_levels = iia2 if options.definition == "paper" else released_iia
    return two_levels(model, x, y, at_previous(model, options))


def ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The input's path only: the layer's path shrinks to its end, v = u(x_i)."""
    f = model.score(options.layer, target=options.target)
    term = lambda u, y: ((u - options.start(u)) * u * gradient(f, u, y)).sum(1)
    return along_input(model, x, y, options, term)


def ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """The layer's path only: the input's path shrinks to its end, the picture itself."""
    u = model.features(x, options.layer)
    return path_integral(model.score(options.layer, target=options.target), u, options.start(u), y,
                         options.layer_rule(u), options.batch_size)


def at_previous(model: CNN, options: IIAOptions) -> IIAOptions:
    """The same options at the stage before."""
    if not (before := model.before(options.layer)):
        raise UserError(f"{model.name} has no layer before {options.layer!r}; iia-previous needs one.")
    return replace(options, layer=before)


# ------------------------------------------------------------- the release (section 4)

def released_iia(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ∂f_y/∂u(x_i) ∘ ReLU(u(x_i)): its layer integral vanishes."""
    f, n = model.score(options.layer, "release", options.target), options.steps
    return n * along_input(model, x, y, options, lambda u, y: (gradient(f, u, y) * u.relu()).sum(1))


def released_ablation_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = Σ_i ReLU(∂f_y/∂u(x_i)) ∘ ReLU(u(x_i))."""
    f, n = model.score(options.layer, "release", options.target), options.steps
    return n * along_input(model, x, y, options, lambda u, y: relu_term(u, gradient(f, u, y)).sum(1))


def released_ablation_layer(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """m = (n + 1) ReLU(∂f_y/∂u) ∘ ReLU(u): n + 1 times the same point of a constant path."""
    u, f = model.features(x, options.layer), model.score(options.layer, "release", options.target)
    return (options.steps + 1) * relu_term(u, gradient(f, u, y)).sum(1)


def released_iia3(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Both baselines are element-wise minima over the input's path, so that pictures are taken one by one:
    m = Σ_i Σ_j Σ_k ReLU(∂f_y/∂v^L ∘ ReLU(v^L))."""
    f, n = model.score(options.layer, "release", options.target), options.steps
    before, rule, maps = model.before(options.layer), options.layer_rule(x), []
    for b in range(len(x)):
        w = torch.cat([u for u, *_ in input_path(model, x[b:b + 1], before, options)])  # [n + 1, C', h', w']
        r, total = w.amin(0, keepdim=True), 0
        for a in rule.a:
            v = r + a * (w - r)
            u = torch.cat([model.stages(before, options.layer, v[rows])
                           for rows in chunks(n + 1, options.batch_size)])              # [n + 1, C, h, w]
            total += path_integral(f, u, u.amin(0, keepdim=True), y[b].expand(n + 1), rule,
                                   options.batch_size, term=relu_term).sum(0, keepdim=True)
        maps.append(total * n)
    return torch.cat(maps)


def relu_term(v: Tensor, g: Tensor, d: Tensor | None = None) -> Tensor:
    """ReLU(g ∘ ReLU(v)) = ReLU(g) ∘ ReLU(v), the release's summand; it leaves out the span d = u − r."""
    return g.relu() * v.relu()


# ------------------------------------------------------------- the input's path

def input_path(model: CNN, x: Tensor, cut: Cut,
               options: IIAOptions) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Representations u(x_i) at layer `cut` along x_i = a_i x, the pictures that own them, and their weights.

    Yields (u [P, C, h, w], owners [P, K], w [..., P]). K is 1, but for the picture 0, which is the same
    for all: one row u with all B pictures for owners.
    """
    rule = options.input_rule(x)
    if rule.starts_at_zero:
        yield model.at_zero(cut, x), torch.arange(len(x), device=x.device)[None], rule.w[..., :1]
    before = model.before(options.layer)           # the deepest layer that IIA2 and IIA3 have in common
    points = input_points(x, rule, options.batch_size, first=int(rule.starts_at_zero))
    for place, (point, owner, w) in enumerate(points):
        u = model.shared.get(x, (before, options.steps, options.quadrature, options.batch_size, place),
                             lambda: model.features(point, before))
        yield model.stages(before, cut, u), owner[:, None], w


def along_input(model: CNN, x: Tensor, y: Tensor, options: IIAOptions,
                of_points: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Σ_i w_i of the maps that `of_points` makes of u(x_i) [P, C, h, w] and their classes [P]: [B, h, w]."""
    maps = 0
    for point in input_path(model, x, options.layer, options):
        u, owner, w = for_each_owner(*point)
        maps = add_rows(maps, of_points(u, y[owner]) * w[..., None, None], owner, len(x))
    return maps


def for_each_owner(u: Tensor, owners: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows u [P, ...], owners [P, K] and weights [..., P] -> a row for each owner: K·P of each."""
    many = owners.shape[1]
    return u.expand(many, *u.shape).flatten(0, 1), owners.T.flatten(), torch.cat([w] * many, -1)
