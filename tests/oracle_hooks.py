"""The method as loops on ANY network: hooks on the user's own network, one picture, one step at a time.

Nothing here knows the fast code, and nothing is copied: the network runs whole, with its own hooks in place,
and a hook of the oracle, which comes after them, reads a module's output or puts another tensor in its
place. Formulas: METHOD.md, sections 3, 6 and 7.
"""

import contextlib
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Target = int | Callable[[Tensor], Tensor]


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    output = network(x)
    return getattr(output, "logits", output)


def value_of(logits: Tensor, y: Target) -> Tensor:
    """f_y of logits [1, classes]: a class's logit, or what a target function makes of them."""
    return (y(logits) if callable(y) else logits[:, y]).sum()


@contextlib.contextmanager
def evaluating(network: nn.Module):
    """Eval mode and no gradients of weights; both as they were behind it."""
    training = [(module, module.training) for module in network.modules()]
    wanted = [(weight, weight.requires_grad) for weight in network.parameters()]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, was in training:
            module.training = was
        for weight, was in wanted:
            weight.requires_grad_(was)


# ------------------------------------------------------------------------------------------------ CNN

class Layer:
    """A module's output as the layer of a network. `to_grid`: from it to [B, C, h, w] where it is not that
    already; its channels come last then (NHWC, or tokens [B, N, C])."""

    def __init__(self, network: nn.Module, name: str,
                 to_grid: Callable[[Tensor], Tensor] | None = None) -> None:
        self.network, self.module = network, network.get_submodule(name)
        self.to_grid = to_grid or (lambda u: u)
        self.channels = -1 if to_grid else 1

    def read(self, x: Tensor, put: "tuple[Layer, Tensor] | None" = None) -> Tensor:
        """u: the output for the picture x, in a pass where another layer may have been replaced."""
        seen = []
        hook = self.module.register_forward_hook(
            lambda module, inputs, output: seen.append(first(output).clone()))
        with torch.no_grad(), contextlib.ExitStack() as stack:
            stack.callback(hook.remove)
            if put:
                stack.enter_context(put[0].replaced(put[1]))
            self.network(x)
        return seen[-1]

    @contextlib.contextmanager
    def replaced(self, v: Tensor):
        def put(module, inputs, output):
            return (v.clone(), *output[1:]) if isinstance(output, tuple) else v.clone()
        hook = self.module.register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    def gradient(self, v: Tensor, x: Tensor, y: Target) -> Tensor:
        """∂f_y/∂v, v in the layer's place."""
        with torch.enable_grad(), self.replaced(v := v.detach().clone().requires_grad_()):
            return torch.autograd.grad(value_of(logits_of(self.network, x), y), v)[0]

    def baseline(self, u: Tensor) -> Tensor:
        """r: each channel's least value over the cells."""
        channels = self.channels % u.ndim
        return u.amin([d for d in range(1, u.ndim) if d != channels], keepdim=True)


def first(output):
    return output[0] if isinstance(output, tuple) else output


def raw_map(operation: str, network: nn.Module, x: Tensor, y: Target, n: int, layer: str,
            before: str | None = None, to_grid: Callable[[Tensor], Tensor] | None = None,
            before_to_grid: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The raw map [h, w] of one picture x [1, C, H, W] at the module `layer`; IIA3's layer before is
    `before`."""
    at, total = Layer(network, layer, to_grid), 0

    def level(u):                                    # Σ_j over the layer's path
        r, total = at.baseline(u), 0
        for j in range(n + 1):
            v = r + (j / n) * (u - r)
            total = total + (u - r) * v * at.gradient(v, x, y)
        return total

    with evaluating(network):
        if operation == "gradcam":
            u = at.to_grid(at.read(x))
            weights = at.to_grid(at.gradient(at.read(x), x, y)).mean((-2, -1), keepdim=True)
            return (weights * u).sum(1)[0].relu()
        for i in range(n + 1):
            picture = i / n * x
            if operation == "iia":
                total = total + level(at.read(picture)) / n**2
            elif operation == "iia-triple":
                stage = Layer(network, before, before_to_grid)
                w = stage.read(picture)
                for j in range(n + 1):
                    v = stage.baseline(w) + (j / n) * (w - stage.baseline(w))
                    total = total + level(at.read(picture, (stage, v))) / n**3
    return at.to_grid(total).sum(1)[0]


class Constant(Exception):
    """The map says nothing, so a test of it would."""


def finished(raw: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Section 5: upsampled to the picture, scaled to [0, 1]."""
    whole = F.interpolate(raw[None, None], size=size, mode=mode, align_corners=False)[0, 0]
    if not whole.max() > whole.min():
        raise Constant
    return (whole - whole.min()) / (whole.max() - whole.min())


def grid_map(operation: str, network: nn.Module, x: Tensor, y: Target, n: int, layer: str,
             **places) -> Tensor:
    """The finished map [H, W] of a picture x [1, C, H, W]; see `raw_map`."""
    return finished(raw_map(operation, network, x, y, n, layer, **places), tuple(x.shape[-2:]), "bicubic")


# ------------------------------------------------------------------------------------------------ ViT

class Attention:
    """Keeps each attention matrix of a pass, in order, and puts others in the place of some.

    torch's fused attention stands in for its own matrices: while the block runs, it is written out instead,
    so the user's network itself runs, whatever library it is of.
    """

    def __init__(self, replaced: dict[int, Tensor] | None = None) -> None:
        self.replaced, self.A = replaced or {}, []

    def __call__(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **other):
        a = q @ k.transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)
        a = torch.softmax(a if attn_mask is None else a + attn_mask, -1)
        if len(self.A) in self.replaced:
            a = self.replaced[len(self.A)].detach()[None]
        a = a.clone() if a.requires_grad else a.clone().requires_grad_()
        a.retain_grad()
        self.A.append(a)
        return a @ v


def attention(network: nn.Module, x: Tensor, y: Target, replaced: dict[int, Tensor] | None = None):
    """One picture x [1, C, H, W] -> (A, G): each block's attention and ∂f_y/∂A, [heads, N, N]."""
    kept = Attention(replaced)
    with torch.enable_grad(), mock.patch.object(F, "scaled_dot_product_attention", kept):
        x = x.detach().clone().requires_grad_()          # keeps torch's own ViT from its shortcut without
                                                         # gradients
        G = torch.autograd.grad(value_of(logits_of(network, x), y), kept.A)
    return [a.detach()[0] for a in kept.A], [g[0] for g in G]


def rollout(C: list[Tensor], normalise: bool, prefix: int, pooled: bool) -> Tensor:
    """Π_b rownorm(C_b + I): the class token's row, or the mean of the patches' rows where they are pooled:
    [patches]."""
    eye = torch.eye(C[0].shape[-1], dtype=C[0].dtype)
    R = eye
    for c in C:
        M = c + eye
        R = (M / M.sum(1, keepdim=True) if normalise else M) @ R
    return (R[prefix:].mean(0) if pooled else R[0])[prefix:]


def vit_map(operation: str, network: nn.Module, x: Tensor, y: Target, n: int, grid: tuple[int, int],
            prefix: int = 1, pooled: bool = False) -> Tensor:
    """The finished map [H, W] of a picture x [1, C, H, W]; `prefix`: how many tokens come before the
    patches."""
    rows = []

    def add(A, G):
        terms = [torch.relu(a * g).mean(0) for a, g in zip(A, G, strict=True)]
        rows.append(rollout(terms, operation != "gae", prefix, pooled))

    with evaluating(network):
        L = len(attention(network, x, y)[0]) - 1
        if operation == "gae":
            add(*attention(network, x, y))
        for i in range(n + 1 if operation != "gae" else 0):
            picture = i / n * x
            whole = attention(network, picture, y)[0]
            for k in range(n + 1 if operation == "iia-triple" else 1):
                put = {L - 1: k / n * whole[L - 1]} if operation == "iia-triple" else {}
                end = attention(network, picture, y, put)[0][L]
                for j in range(n + 1):
                    add(*attention(network, picture, y, put | {L: j / n * end}))
    return finished((sum(rows) / len(rows)).view(grid), tuple(x.shape[-2:]), "bilinear")
